"""The options of the commands that ask for an operation on groups and services."""

from typing import Any

import click

_DAY_S = 86_400


def common(command: Any) -> Any:
    """What start, stop, restart and update have in common."""
    for option in (
        click.argument("named", nargs=-1, metavar="TARGET..."),
        click.option("--tag", multiple=True, help="Every service with this tag; may be repeated."),
        click.option(
            "--match", multiple=True, metavar="GLOB", help="Groups ('web*') or services ('web/*'); repeatable."
        ),
        click.option("--each", is_flag=True, help="One operation per target, a few at a time, not one plan over all."),
        click.option(
            "--after", multiple=True, metavar="ID", help="Not before this operation has completed; repeatable."
        ),
        click.option("--no-wait", is_flag=True, help="Print the operation's id and return."),
        click.option("--wait-for", is_flag=True, help="Queue behind an operation that is already at work on it."),
        click.option(
            "--step-timeout", type=click.FloatRange(1, _DAY_S), metavar="SECONDS", help="What each step may take."
        ),
        click.option("--dry-run", is_flag=True, help="Show the plan, change nothing."),
        click.option("--services", metavar="NAMES", help="Only these of the group, separated by commas."),
    ):
        command = option(command)
    return command


# The API's limits: what is over them is wrong usage before anything is asked for.
timeout = click.option("--timeout", type=click.FloatRange(1, _DAY_S), metavar="SECONDS", help="How long it may take.")
stop_timeout = click.option(
    "--timeout", type=click.FloatRange(0, 3600), metavar="SECONDS", help="What each service gets before it is killed."
)
on_conflict = click.option(
    "--on-conflict",
    type=click.Choice(["fail", "migrate", "ask"]),
    help="What to do where somebody else has a port: fail, move the service to another port, or ask.",
)

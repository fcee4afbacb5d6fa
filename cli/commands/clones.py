"""`clos groups clone` and `keep`: the same group again, for a worktree or an agent, for as long as it is needed."""

import re
from typing import Any

import click

from cli import targets
from cli.client import segment
from cli.command import Command
from cli.errors import DONE
from cli.invocation import Invocation, pass_invocation
from cli.output import Printer, inert, local_time
from cli.watching import WAIT_S, conclude, watch

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `8h`, `2d`; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The seconds."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,7})([smhd])", str(value))
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is no duration such as 90s, 30m, 8h or 2d.", param, ctx)
        return int(found[1]) * _UNITS_S[found[2]]


_ttl = click.option("--ttl", type=Duration(), metavar="DURATION", help="Remove it after that time, such as 8h.")


@click.command(cls=Command)
@click.argument("name")
@click.option("--as", "as_", metavar="CLONE", required=True, help="The clone's name.")
@_ttl
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Its own directory, such as a worktree: what lies in the group's lies in this one.",
)
@click.option("--with", "with_", metavar="GROUPS", help="Groups to clone along, separated by commas, as CLONE-GROUP.")
@click.option("--start", is_flag=True, help="Start it at once.")
@click.option("--no-wait", is_flag=True, help="With --start: print the operation's id and return.")
@pass_invocation
def clone(
    invocation: Invocation,
    name: str,
    as_: str,
    ttl: int | None,
    directory: str | None,
    with_: str | None,
    start: bool,
    no_wait: bool,
) -> int:
    """Make the same group again as CLONE: ports of its own, a network of its own, volumes of its own."""
    one = targets.group(invocation.client, name)
    others = [each.strip() for each in (with_ or "").split(",") if each.strip()]
    given = {"ttl": ttl, "directory": directory, "with": others or None, "start": start or None}
    body = {"as": as_, **{key: value for key, value in given.items() if value is not None}}
    made = invocation.client.post(f"/groups/{segment(one['name'])}/clone", body)
    if start:
        return _started(invocation, made, no_wait)
    printer = invocation.printer
    if printer.machine:
        printer.document(made, name="name")
        return DONE
    _tell(printer, made, one["name"])
    printer.say(f"Start it: clos start {inert(made['name'])}")
    return DONE


def _started(invocation: Invocation, operation: dict[str, Any], no_wait: bool) -> int:
    printer = invocation.printer
    told = (operation.get("parameters") or {}).get("clone") or {}
    _remarks(printer, told.get("warnings") or [])
    if no_wait:
        printer.data(operation["id"])
        return DONE
    return conclude(invocation, watch(invocation, operation, WAIT_S))


def _tell(printer: Printer, made: dict[str, Any], source: str) -> None:
    others = [name for name in (made.get("clones") or {}).values() if name != made["name"]]
    along = f", with {', '.join(map(inert, others))}" if others else ""
    until = f" until {local_time(made['expires_at'])}" if made.get("expires_at") else ""
    count = len(made.get("services") or [])
    printer.data(f"{inert(made['name'])} is a clone of {inert(source)} with {count} services{along}{until}.")
    _remarks(printer, made.get("warnings") or [])


def _remarks(printer: Printer, remarks: list[dict[str, Any]]) -> None:
    for each in remarks:
        place = ".".join(str(part) for part in (each.get("service"), each.get("field")) if part)
        printer.say(f"{printer.paint_err('Note:', 'yellow')} {inert(place)}: {inert(each.get('text') or '')}")


@click.command(cls=Command)
@click.argument("name")
@_ttl
@pass_invocation
def keep(invocation: Invocation, name: str, ttl: int | None) -> int:
    """Keep a clone for another --ttl from now; without it, until it is removed."""
    one = targets.group(invocation.client, name)
    body = {"expires_at": None} if ttl is None else {"ttl": ttl}
    kept = invocation.client.patch(f"/groups/{segment(one['name'])}", body)
    printer = invocation.printer
    if printer.machine:
        printer.document(kept, name="name")
        return DONE
    end = f"until {local_time(kept['expires_at'])}" if kept.get("expires_at") else "until it is removed"
    printer.data(f"{inert(kept['name'])} is kept {end}.")
    return DONE

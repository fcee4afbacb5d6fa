"""`clos`: reads the global options, finds the command, turns every end into an exit code."""

import os
import sys
from collections.abc import Sequence

import click

from cli.command import Group
from cli.errors import DONE, FAILED, INTERRUPTED, CliError
from cli.invocation import Invocation

VERSION = "2.0.0"
_C = "cli.commands."
COMMANDS = {
    "init": ("cli.local.init", "init", "Make CLOS's folder, its database and a first configuration."),
    "up": ("cli.local.up", "up", "Start CLOS (-d: in the background)."),
    "down": ("cli.local.down", "down", "Stop CLOS; the services go on."),
    "demo": ("cli.local.demo", "demo", "See the main job on a sample group."),
    "doctor": ("cli.local.doctor", "doctor", "Look for what is wrong here, and name the remedy."),
    "status": (f"{_C}status", "status", "Every service: where it is and how it is."),
    "start": (f"{_C}operate", "start", "Start a group or a service, dependencies first."),
    "stop": (f"{_C}operate", "stop", "Stop a group or a service."),
    "restart": (f"{_C}operate", "restart", "Restart a group or a service."),
    "update": (f"{_C}operate", "update", "Bring what drifted to what is wanted, or everything back."),
    "logs": (f"{_C}logs", "logs", "What a group or a service writes."),
    "services": (f"{_C}services", "services", "List, show, add, edit and remove services."),
    "groups": (f"{_C}groups", "groups", "List, show, add and remove groups."),
    "ports": (f"{_C}ports", "ports", "Port ranges, leases and who listens."),
    "check": (f"{_C}check", "check", "Who holds a port, by a fresh look."),
    "conflicts": (f"{_C}conflicts", "conflicts", "Ports that two want: list, show, scan, undo."),
    "resolve": (f"{_C}resolve", "resolve", "Resolve conflicts, one by one or all at once."),
    "orphans": (f"{_C}orphans", "orphans", "What carries CLOS's mark and is no service: list, adopt, remove."),
    "ops": (f"{_C}ops", "ops", "List, show, watch, cancel, retry and answer operations."),
    "events": (f"{_C}events", "events", "What happened, and what is happening."),
    "config": (f"{_C}config", "config", "What CLOS is told, and whether its database is sound."),
    "completion": (f"{_C}completion", "completion", "A completion script for bash, zsh or fish."),
}


@click.group(cls=Group, lazy=COMMANDS)
@click.version_option(VERSION, prog_name="clos", message="%(prog)s %(version)s")
def root() -> None:
    """Run, order and watch the services of this machine.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unresolved conflict, 4 not found, 5 not allowed,
    6 CLOS not reachable, 7 timed out, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code."""
    invocation = Invocation()
    try:
        code = root.main(
            list(arguments) if arguments is not None else None,
            prog_name="clos",
            standalone_mode=False,
            obj=invocation,
        )
        sys.stdout.flush()
    except CliError as ended:
        if ended.message:
            invocation.printer.error(ended.message, hint=ended.hint, lines=ended.lines)
        return ended.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # `clos logs web | head`: the reader has seen enough. Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as bug:
        if invocation.options.get("verbose"):
            raise
        invocation.printer.error(f"{type(bug).__name__}: {bug}", hint="run it again with -v to see where")
        return FAILED
    return code if isinstance(code, int) else DONE


def main() -> None:
    """The entrypoint of the `clos` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()

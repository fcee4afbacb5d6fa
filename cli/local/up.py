"""`clos up`: start CLOS, in the foreground or, with -d, in the background."""

import signal
from types import FrameType
from typing import NoReturn

import click

from cli.command import Command
from cli.errors import FAILED, INTERRUPTED, CliError
from cli.invocation import Invocation, pass_invocation
from cli.local import supervision
from settings import Settings


class _AskedToStop(BaseException):
    """One of `_STOPPING` arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@click.command(cls=Command)
@click.option("-d", "--detach", is_flag=True, help="Go to the background once everything works.")
@click.option("--workers", type=int, metavar="N", help="How many worker processes.")
@click.option("--port", type=int, metavar="N", help="The API's port (8081).")
@click.option("--ws-port", type=int, metavar="N", help="The WebSocket gateway's port (8082).")
@click.pass_context
@pass_invocation
def up(
    invocation: Invocation,
    ctx: click.Context,
    detach: bool,
    workers: int | None,
    port: int | None,
    ws_port: int | None,
) -> None:
    """Start CLOS: API, WebSocket gateway, workers and scheduler, with an embedded Redis if none is named.

    In the foreground it runs until Ctrl-C or `clos down`. Services that it manages go on running.
    """
    environ = supervision.environ_of(invocation.home, invocation.options.get("config"))
    flags = {"api.port": port, "websocket.port": ws_port, "workers.processes": workers}
    for number in _STOPPING:
        signal.signal(number, _stop)
    ready = False
    try:
        started = supervision.start(environ, flags, _say, foreground=not detach)
        ready = True
        _show(started.settings, detach)
        if not detach:
            _stay(started)
    except _AskedToStop as asked:
        click.echo("stopping CLOS; the services that it manages go on running", err=True)
        supervision.stop(invocation.home)
        if not ready:
            ctx.exit(INTERRUPTED if asked.number == signal.SIGINT else FAILED)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # Once is enough: a second signal must not break off the stopping.
    for again in _STOPPING:
        signal.signal(again, signal.SIG_IGN)
    raise _AskedToStop(number)


def _stay(started: supervision.Started) -> None:
    code = started.process.wait()
    supervision.stop(started.settings.home)
    if code:
        raise CliError(f"the supervisor ended with {code}; what it ran was stopped", hint="`clos up` starts it again")
    click.echo("CLOS was stopped", err=True)


def _show(settings: Settings, detached: bool) -> None:
    home = settings.home
    lines = [
        ("API", f"{settings.api.public_url}/api/v2"),
        ("docs", f"{settings.api.public_url}/docs"),
        ("WebSocket", settings.websocket.public_url),
        ("logs", str(home / "logs")),
    ]
    password = home / "initial-password"
    if password.exists():
        lines.append(("password", f"of the user admin, until it is changed: {password}"))
    click.echo(f"CLOS {settings.version} is ready on {home}")
    for name, text in lines:
        click.echo(f"  {name:<10} {text}")
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    then = "`clos down` stops it" if detached else "Ctrl-C stops it"
    click.echo(f"Next: `clos groups add -f FILE`, `clos start GROUP`, `clos status`. {then}.")

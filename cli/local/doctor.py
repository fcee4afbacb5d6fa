"""`clos doctor`: look for what is wrong on this machine, and name the remedy."""

import click

from cli.command import Command
from cli.errors import FAILED
from cli.invocation import Invocation, pass_invocation
from cli.local import checks, supervision

_COLOURS = {checks.OK: "green", checks.WARN: "yellow", checks.FAIL: "red"}


@click.command(cls=Command)
@click.pass_context
@pass_invocation
def doctor(invocation: Invocation, ctx: click.Context) -> None:
    """Look for what is wrong here, and name the remedy. Changes nothing; ends with 1 if something must be mended."""
    environ = supervision.environ_of(invocation.home, invocation.options.get("config"))
    settings = supervision.read_settings(environ)
    found = list(checks.every(settings, environ))
    printer = invocation.printer
    if printer.machine:
        printer.document([check._asdict() for check in found], name="name")
    else:
        for check in found:
            printer.data(
                f"{printer.paint(f'{check.state:<4}', _COLOURS[check.state])}  {check.name:<14} {check.detail}"
            )
            if check.remedy:
                printer.data(f"{'':<22}→ {check.remedy}")
    for warning in settings.warnings:
        printer.say(f"warning: {warning}")
    ctx.exit(FAILED if any(check.state == checks.FAIL for check in found) else 0)

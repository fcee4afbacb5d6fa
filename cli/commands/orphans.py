"""`clos orphans`: what carries this installation's mark and is no registered service's."""

from typing import Any

import click

from cli.command import Group
from cli.errors import DONE, NOT_FOUND, USAGE, CliError
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, local_time
from cli.watching import WAIT_S, conclude, watch

_COLUMNS: list[Column] = [
    ("REF", lambda one: short(str(one.get("ref")))),
    ("RUNTIME", lambda one: one.get("runtime")),
    ("MARKED AS", lambda one: one.get("service_id")),
    ("STATE", lambda one: one.get("phase")),
    ("NAME", lambda one: one.get("name")),
    ("SINCE", lambda one: local_time(one.get("first_seen_at"))),
]
_WIDE: list[Column] = [
    ("IMAGE OR COMMAND", lambda one: _made_of(one.get("definition") or {})),
    ("CANNOT BE KEPT", lambda one: ", ".join(one.get("unread") or [])),
]


def short(ref: str) -> str:
    """As much of a ref as one needs to type."""
    return ref if ":" in ref else ref[:12]


def _made_of(definition: dict[str, Any]) -> str:
    return str(definition.get("image") or " ".join(definition.get("command") or []))


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
@pass_invocation
def orphans(invocation: Invocation, ctx: click.Context) -> int:
    """Containers and processes with CLOS's mark that are no registered service's. Without a command: list them."""
    return DONE if ctx.invoked_subcommand is not None else _listed(invocation)


@orphans.command("list")
@pass_invocation
def list_(invocation: Invocation) -> int:
    """List them, as they were last seen."""
    return _listed(invocation)


def _listed(invocation: Invocation) -> int:
    printer = invocation.printer
    found = list(invocation.client.pages("/orphans"))
    if not found and not printer.machine:
        printer.data("No orphans.")
        return DONE
    printer.objects(found, _COLUMNS, wide=_WIDE)
    if not printer.machine:
        printer.say("Register one as a service: clos orphans adopt REF; end one: clos orphans remove REF")
    return DONE


@orphans.command()
@click.argument("ref")
@click.option("--name", help="The service's name, where the mark leaves it open.")
@click.option("--group", help="Its group, where the mark leaves it open.")
@pass_invocation
def adopt(invocation: Invocation, ref: str, name: str | None, group: str | None) -> int:
    """Register the service that REF is an instance of. It goes on as it is."""
    body = {key: value for key, value in (("name", name), ("group", group)) if value}
    made = invocation.client.post(f"/orphans/{_whole(invocation, ref)}/adopt", body)
    if invocation.printer.machine:
        invocation.printer.document(made)
    else:
        invocation.printer.data(str(made["id"]))
    return DONE


@orphans.command()
@click.argument("ref")
@click.option("--no-wait", is_flag=True, help="Print the operation's id and return.")
@pass_invocation
def remove(invocation: Invocation, ref: str, no_wait: bool) -> int:
    """Stop and remove exactly REF. Volumes stay."""
    operation = invocation.client.post(f"/orphans/{_whole(invocation, ref)}/remove", {})
    if no_wait:
        invocation.printer.data(str(operation["id"]))
        return DONE
    return conclude(invocation, watch(invocation, operation, WAIT_S))


def _whole(invocation: Invocation, ref: str) -> str:
    """The ref that begins with what was typed."""
    found = [str(one["ref"]) for one in invocation.client.pages("/orphans") if str(one["ref"]).startswith(ref)]
    if not found:
        raise CliError(f"there is no orphan {ref!r}", NOT_FOUND, hint="list them: clos orphans")
    if len(found) > 1 and ref not in found:
        raise CliError(f"more than one orphan begins with {ref!r}", USAGE, hint="type more of it")
    return ref if ref in found else found[0]

"""`clos conflicts`: ports that two want, and taking a resolution back."""

from typing import Any

import click

from cli.command import Group
from cli.conflict_texts import COLUMNS, KINDS, WIDE, held_by, resolution, where
from cli.errors import DONE
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, inert, local_time
from cli.resolving import SCAN_S, look
from cli.watching import WAIT_S, conclude, quietly, watch

STATUSES = ("active", "ignored", "resolved")
_OPTIONS: list[Column] = [
    ("STRATEGY", lambda one: one.get("strategy")),
    ("RISK", lambda one: one.get("risk_level")),
    ("WHAT", lambda one: one.get("description")),
    ("EFFECTS", lambda one: "; ".join(one.get("effects") or [])),
]
_status = click.option("--status", help="active (default), ignored, resolved (commas: or).")


@click.group(cls=Group, invoke_without_command=True)
@_status
@click.pass_context
@pass_invocation
def conflicts(invocation: Invocation, ctx: click.Context, status: str | None) -> int:
    """Ports that two want, or that one wants and another has. Without a command: list them."""
    if ctx.invoked_subcommand is not None:
        return DONE
    return _listed(invocation, status)


@conflicts.command("list")
@_status
@pass_invocation
def list_(invocation: Invocation, status: str | None) -> int:
    """List conflicts: the active ones, unless --status names others."""
    return _listed(invocation, status)


def _listed(invocation: Invocation, status: str | None) -> int:
    printer = invocation.printer
    found = list(invocation.client.pages("/conflicts", status=status))
    if not found and not printer.machine:
        printer.data(f"No {status.replace(',', ' or ') if status else 'active'} conflicts.")
        return DONE
    printer.objects(found, COLUMNS, wide=WIDE)
    if not printer.machine and any(one.get("status") == "active" for one in found):
        printer.say("Resolve them: clos resolve")
    return DONE


@conflicts.command()
@click.argument("conflict_id", type=click.IntRange(1), metavar="ID")
@pass_invocation
def show(invocation: Invocation, conflict_id: int) -> int:
    """Show one conflict: its cause, and what can be done, with risk and effects."""
    printer = invocation.printer
    one = invocation.client.get(f"/conflicts/{conflict_id}")
    if printer.machine:
        printer.document(one)
        return DONE
    printer.facts(_facts(one))
    if one.get("status") != "resolved" and one.get("options"):
        printer.data("")
        printer.table(one["options"], _OPTIONS)
    return DONE


def _facts(one: dict[str, Any]) -> list[tuple[str, Any]]:
    kind = str(one.get("kind"))
    done = one.get("resolution") or {}
    return [
        ("id", one.get("id")),
        ("port", f"{where(one)} on {one.get('host_ip')}"),
        ("kind", f"{kind}: {KINDS[kind]}" if kind in KINDS else kind),
        ("status", one.get("status")),
        ("why", one.get("detail")),
        ("claimed by", ", ".join(one.get("claimants") or [])),
        ("held by", held_by(one)),
        ("since", local_time(one.get("detected_at"))),
        ("resolved", local_time(one.get("resolved_at"))),
        ("resolution", resolution(one)),
        ("operation", done.get("operation_id")),
        ("undo", f"clos conflicts undo {one.get('id')}" if one.get("undoable") else None),
    ]


@conflicts.command()
@pass_invocation
def scan(invocation: Invocation) -> int:
    """Look afresh for conflicts, and list those that there are."""
    ended = quietly(invocation, invocation.client.post("/conflicts/scan"), SCAN_S)
    if invocation.printer.machine:
        invocation.printer.document((ended.get("result") or {}).get("conflicts") or [])
        return DONE
    return _listed(invocation, None)


@conflicts.command()
@click.argument("conflict_id", type=click.IntRange(1), metavar="ID")
@click.option("--no-wait", is_flag=True, help="Print the operation's id and return.")
@pass_invocation
def undo(invocation: Invocation, conflict_id: int, no_wait: bool) -> int:
    """Take a migration back: the service gets its old port again, and what refers to it follows."""
    printer = invocation.printer
    look(invocation)  # whoever had the old port may be gone
    asked = invocation.client.post(f"/conflicts/{conflict_id}/undo")
    if no_wait:
        printer.data(str(asked["id"]))
        return DONE
    ended = watch(invocation, asked, WAIT_S)
    if printer.machine:
        printer.document(ended)
    code = conclude(invocation, ended)
    if code == DONE and not printer.machine:
        one = invocation.client.get(f"/conflicts/{conflict_id}")
        back = (one.get("resolution") or {}).get("from_port") or one.get("port")
        printer.say(f"{inert(', '.join(one.get('claimants') or []))} is back on port {inert(back)}")
    return code

"""`clos check PORT`: who has a port now, who wants it, and what stands in the way."""

from typing import Any

import click

from cli.command import Command
from cli.conflict_texts import KINDS, where
from cli.errors import DONE, holder_name
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, inert, local_time
from cli.watching import quietly

_ENTRIES: list[Column] = [
    ("ADDRESS", lambda one: one.get("host_ip")),
    ("PROTOCOL", lambda one: one.get("protocol")),
    ("VERDICT", lambda one: one.get("verdict")),
    ("HOLDER", lambda one: "; ".join(holder_name(each) for each in _holders(one))),
    ("REASON", lambda one: one.get("reason")),
]
_CHECK_S = 30.0


@click.command(cls=Command)
@click.argument("port", type=click.IntRange(1, 65535))
@pass_invocation
def check(invocation: Invocation, port: int) -> int:
    """Look who holds PORT now, on every address, for TCP and UDP.

    Names the process or container, the registered service, the lease, stopped containers that will want the port, and
    the conflicts about it.
    """
    ended = quietly(invocation, invocation.client.post(f"/ports/{port}/check"), _CHECK_S)
    verdict = ended.get("result") or {}
    if invocation.printer.machine:
        invocation.printer.document(verdict, name="port")
    else:
        show(invocation, verdict, port)
    return DONE


def show(invocation: Invocation, verdict: dict[str, Any], port: int) -> None:
    """Write a verdict for a person."""
    printer = invocation.printer
    entries = verdict.get("entries") or []
    held = sorted({str(one.get("protocol")) for one in entries if one.get("verdict") == "held"})
    unknown = any(one.get("verdict") == "unknown" for one in entries)
    state = "held" if held else "unknown" if unknown or not entries else "free"
    printer.data(f"Port {port} is {printer.state(state)}" + (f" ({', '.join(held)})" if held else ""))
    holders = {holder_name(each): each for one in entries for each in _holders(one)}
    for name in holders:
        printer.data(f"  by {inert(name)}")
    printer.facts(_facts(verdict, list(holders.values())))
    for conflict in invocation.client.pages(f"/ports/{port}/conflicts"):
        kind = str(conflict.get("kind"))
        said = conflict.get("detail") or KINDS.get(kind, kind)
        printer.data(f"conflict {inert(conflict.get('id'))} on {where(conflict)}: {inert(said)}")
    printer.data("")
    printer.table(entries, _ENTRIES)


def _holders(one: dict[str, Any]) -> list[dict[str, Any]]:
    found = one.get("holders") or ([one["holder"]] if one.get("holder") else [])
    return [holder for holder in found if isinstance(holder, dict)]


def _facts(verdict: dict[str, Any], holders: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    lease, span = verdict.get("lease") or {}, verdict.get("range") or {}
    claims = verdict.get("claims") or []
    named = [*holders, *claims, lease]
    services = {str(each["service_id"]) for each in named if each.get("service_id")}
    containers = {str(each["container_id"])[:12] for each in holders if each.get("container_id")}
    later = [str(each.get("container") or each.get("service_id")) for each in claims if each.get("latent")]
    owner = lease.get("service_id") or f"project {lease.get('project')}"
    return [
        ("service", ", ".join(sorted(services))),
        ("container", ", ".join(sorted(containers))),
        ("lease", f"{lease.get('id')} ({owner})" if lease else None),
        ("wanted by", ", ".join(f"{name} (stopped)" for name in sorted(set(later)))),
        ("range", f"{span['project']} {span['start_port']}-{span['end_port']}" if span else None),
        ("allocatable", "yes" if verdict.get("allocatable") else "no"),
        ("looked", local_time(verdict.get("observed_at"))),
    ]

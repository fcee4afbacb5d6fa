"""`clos ports`: who may have which port, and who has it."""

from typing import Any

import click

from cli import targets
from cli.client import segment
from cli.command import Group
from cli.commands.port_ranges import ranges
from cli.errors import DONE, NOT_FOUND, CliError, holder_name
from cli.invocation import Invocation, pass_invocation
from cli.output import Column, inert, local_time

_RANGES: list[Column] = [
    ("PROJECT", lambda one: one.get("project")),
    ("PORTS", lambda one: f"{one.get('start_port')}-{one.get('end_port')}"),
    ("USED", lambda one: str(one.get("used") or 0)),
    ("DESCRIPTION", lambda one: one.get("description")),
]
_LEASES: list[Column] = [
    ("PORT", lambda one: one.get("port")),
    ("PROTOCOL", lambda one: one.get("protocol")),
    ("PROJECT", lambda one: one.get("project")),
    ("SERVICE", lambda one: one.get("service_id")),
    ("SINCE", lambda one: local_time(one.get("created_at"))),
    ("UNTIL", lambda one: local_time(one.get("expires_at"))),
    ("LEASE", lambda one: str(one.get("id"))),
]
_LISTENERS: list[Column] = [
    ("PORT", lambda one: one.get("port")),
    ("PROTOCOL", lambda one: one.get("protocol")),
    ("ADDRESS", lambda one: one.get("host_ip")),
    ("HOLDER", lambda one: holder_name(one) if one.get("pid") or one.get("name") else None),
]


@click.group(cls=Group)
def ports() -> None:
    """Port ranges, leases, and who listens."""


ports.add_command(ranges)


@ports.command("list")
@click.option("--project", help="Only this project's ranges and leases.")
@click.option("--state", help="leased, listening … (commas: or).")
@pass_invocation
def list_(invocation: Invocation, project: str | None, state: str | None) -> int:
    """List ranges, leases and listeners, as last seen."""
    printer = invocation.printer
    found = invocation.client.get("/ports", project=project, state=state)
    if printer.form == "name":
        for lease in found.get("leases") or []:
            printer.data(str(lease["port"]))
        return DONE
    if printer.machine:
        printer.document(found)
        return DONE
    for key, columns in (("ranges", _RANGES), ("leases", _LEASES), ("listeners", _LISTENERS)):
        if found.get(key):
            printer.data(f"{key.capitalize()}")
            printer.table(found[key], columns)
            printer.data("")
    for claim in found.get("latent_claims") or found.get("claims") or []:
        who = claim.get("service_id") or claim.get("container")
        printer.data(f"claimed: {inert(claim.get('port'))} by {inert(who)}")
    return DONE


@ports.command()
@click.argument("project", required=False)
@click.option("--port", "preferred_port", type=click.IntRange(1, 65535), help="This one, if it is free.")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), help="Default: tcp.")
@click.option("--service", help="For this service.")
@click.option("--ttl", type=click.IntRange(min=1), metavar="SECONDS", help="Give it back after that time.")
@pass_invocation
def allocate(invocation: Invocation, project: str | None, service: str | None, **wanted: Any) -> int:
    """Lease a port from PROJECT's range (with --service: its group's, unless named); prints the port."""
    if project is None and service is None:
        raise click.UsageError("Give a PROJECT, or --service.")
    client, printer = invocation.client, invocation.printer
    body = {key: value for key, value in wanted.items() if value is not None}
    if project is not None:
        body["project"] = project
    if service:
        body["service_id"] = targets.service(client, service)["id"]
    lease = client.post("/ports/allocate", body)
    if printer.form in ("json", "yaml"):
        printer.document(lease)
    else:
        printer.data(str(lease["port"]))
        printer.detail(f"lease {inert(lease['id'])}")
    return DONE


@ports.command()
@click.argument("lease")
@pass_invocation
def release(invocation: Invocation, lease: str) -> int:
    """Give back LEASE: a lease's id, the port, or PORT/PROTOCOL."""
    client = invocation.client
    leases = client.get("/ports").get("leases") or []
    fitting = [one for one in leases if lease in _names(one)]
    by_id = [one for one in fitting if str(one["id"]) == lease]
    if not fitting:
        raise CliError(f"there is no lease {lease!r}", NOT_FOUND, hint="clos ports list")
    if len(fitting) > 1 and len(by_id) != 1:
        which = ", ".join(f"{one['id']} ({one['port']}/{one['protocol']})" for one in fitting)
        raise CliError(f"more than one lease fits {lease!r}", NOT_FOUND, hint=f"say which: {which}")
    one = (by_id or fitting)[0]
    client.delete(f"/ports/leases/{segment(str(one['id']))}")
    invocation.printer.say(f"released {one['port']}/{one['protocol']}")
    return DONE


def _names(lease: dict[str, Any]) -> tuple[str, str, str]:
    return str(lease["id"]), str(lease["port"]), f"{lease['port']}/{lease['protocol']}"

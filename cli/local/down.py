"""`clos down`: stop CLOS, and the services too where that is asked for."""

import contextlib
import graphlib
import time
from pathlib import Path
from typing import Any

import click

from cli.client import Client, read_credentials
from cli.command import Command
from cli.errors import TIMED_OUT, ApiError, CliError
from cli.invocation import Invocation, pass_invocation
from cli.local import running, supervision

_LIST_S = 1.0
_STOP_S = 600.0


@click.command(cls=Command)
@click.option("--services", is_flag=True, help="Stop the services first, dependents before what they need.")
@pass_invocation
def down(invocation: Invocation, services: bool) -> None:
    """Stop CLOS. The services that it manages go on running, unless --services is given."""
    home = invocation.home
    there = running.supervisor(home)
    client = _client(home) if there else None
    if services:
        if client is None:
            raise CliError("CLOS does not run, so it cannot stop services", hint="`clos up -d` first")
        _stop_services(client)
    left = _still_running(client) if client else []
    if client:
        # A connection kept open would make the API wait for it.
        client.close()
    if not supervision.stop(home):
        click.echo(f"CLOS does not run on {home}", err=True)
        return
    click.echo("CLOS is stopped", err=True)
    if left:
        click.echo("these services go on running:")
        for service_id in left:
            click.echo(f"  {service_id}")


def _client(home: Path) -> Client | None:
    credentials = read_credentials(home)
    return Client(credentials, connect_s=_LIST_S) if credentials else None


def _still_running(client: Client) -> list[str]:
    with contextlib.suppress(CliError):
        # An API that does not answer must not keep anybody from stopping it.
        page = client.get("/services", timeout_s=_LIST_S, status="running,unhealthy,starting", limit=200)
        return sorted(str(service["id"]) for service in page["items"])
    return []


def _stop_services(client: Client) -> None:
    groups = {group["name"]: group for group in client.pages("/groups")}
    wants = {name: [d for d in group.get("dependencies") or () if d in groups] for name, group in groups.items()}
    try:
        order = list(graphlib.TopologicalSorter(wants).static_order())
    except graphlib.CycleError:
        order = sorted(groups, key=lambda name: groups[name].get("start_order") or 0)
    for name in reversed(order):
        if groups[name].get("status") in ("stopped", None) and not groups[name].get("counts", {}).get("running"):
            continue
        click.echo(f"stopping group {name}", err=True)
        _finish(client, name, _ask(client, name))


def _ask(client: Client, group: str) -> dict[str, Any]:
    deadline = time.monotonic() + _STOP_S
    while True:
        try:
            asked: dict[str, Any] = client.post(f"/groups/{group}/stop", {})
        except ApiError as refused:
            if refused.code != "operation_in_progress" or time.monotonic() > deadline:
                raise
            _until_end(client, group, {"id": refused.problem["operation_id"], "status": "pending"}, deadline)
        else:
            return asked


def _finish(client: Client, group: str, operation: dict[str, Any]) -> None:
    operation = _until_end(client, group, operation, time.monotonic() + _STOP_S)
    if operation["status"] != "completed":
        reason = (operation.get("error") or {}).get("message") or operation["status"]
        raise CliError(f"group {group} was not stopped: {reason}", hint="CLOS goes on running")


def _until_end(client: Client, group: str, operation: dict[str, Any], deadline: float) -> dict[str, Any]:
    while operation["status"] not in ("completed", "failed", "cancelled"):
        if time.monotonic() > deadline:
            raise CliError(f"group {group} did not stop within {_STOP_S:g} s", TIMED_OUT)
        operation, again_s = client.answered(f"/operations/{operation['id']}", timeout_s=15.0, wait=10)
        time.sleep(again_s)
    return operation

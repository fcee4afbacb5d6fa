"""`clos status`: every service, where it is and how it is."""

import time
from typing import Any

import click

from cli import targets
from cli.command import Command
from cli.commands.operate import address
from cli.errors import DONE
from cli.invocation import Invocation, pass_invocation
from cli.live import Feed, FeedLost
from cli.output import Column, local_time

_REFRESH_S = 2.0
_EVENTS = ["service.status_changed", "service.health_changed", "operation.*"]


def waiting(one: dict[str, Any]) -> str:
    """What a service waits for, in words."""
    reasons = one.get("waiting_for") or []
    return "; ".join(str(r.get("text") or f"{r.get('kind')} {r.get('ref')}") for r in reasons)


COLUMNS: list[Column] = [
    ("NAME", lambda one: one.get("name")),
    ("GROUP", lambda one: one.get("group")),
    ("PORT", lambda one: one.get("port") or next((p.get("host_port") for p in one.get("ports") or []), None)),
    ("STATUS", lambda one: one.get("status")),
    ("STARTED", lambda one: local_time(one.get("started_at"))),
    ("HEALTH", lambda one: (one.get("health") or {}).get("status")),
]
WAITING: Column = ("WAITING FOR", waiting)
WIDE: list[Column] = [
    ("ID", lambda one: one.get("id")),
    ("RUNTIME", lambda one: one.get("runtime")),
    ("DESIRED", lambda one: one.get("desired")),
    ("DRIFT", lambda one: "yes" if one.get("drift") else "no"),
    ("PID", lambda one: (one.get("observed") or {}).get("pid")),
    ("CONTAINER", lambda one: str((one.get("observed") or {}).get("container_id") or "")[:12]),
    ("URL", address),
]


@click.command(cls=Command)
@click.argument("target", required=False)
@click.option("-g", "--group", help="Only this group's services.")
@click.option("-w", "--watch", is_flag=True, help="Show it anew whenever something changes.")
@pass_invocation
def status(invocation: Invocation, target: str | None, group: str | None, watch: bool) -> int:
    """Show every service, or those of TARGET: its port, its state, since when, and its health."""
    if not watch:
        _show(invocation, _services(invocation, target, group), group)
        return DONE
    _watch(invocation, target, group)
    return DONE


def _services(invocation: Invocation, target: str | None, group: str | None) -> list[dict[str, Any]]:
    client = invocation.client
    if target:
        return targets.find(client, target).services(client)
    return list(client.pages("/services", group=group))


def _show(invocation: Invocation, services: list[dict[str, Any]], group: str | None) -> None:
    printer = invocation.printer
    if not services and not printer.machine:
        printer.data("No services are registered." if not group else "No services are registered in that group.")
        printer.say("Register some: clos groups add -f FILE, or see it work: clos demo")
        return
    columns = [*COLUMNS, WAITING] if any(one.get("waiting_for") for one in services) else COLUMNS
    printer.objects(services, columns, wide=WIDE)


def _watch(invocation: Invocation, target: str | None, group: str | None) -> None:
    """Show it whenever it is another than before, until Ctrl-C."""
    feed: Feed | None = Feed(invocation.client, [{"events": _EVENTS, **({"group": group} if group else {})}])
    shown: list[list[Any]] | None = None
    try:
        while True:
            feed = _opened(invocation, feed, first=shown is None)
            services = _services(invocation, target, group)
            seen = [[read(one) for _, read in [*COLUMNS, WAITING]] for one in services]
            if seen != shown:
                shown = seen
                if invocation.terminal and not invocation.printer.machine:
                    click.clear()
                _show(invocation, services, group)
            if feed is None or not _until_change(feed):
                time.sleep(_REFRESH_S)
    finally:
        if feed is not None:
            feed.close()


def _opened(invocation: Invocation, feed: Feed | None, *, first: bool) -> Feed | None:
    """The feed, opened on first use; None where there is none to be had."""
    if feed is None or not first:
        return feed
    try:
        feed.open()
    except FeedLost as lost:
        invocation.printer.detail(f"no live events ({lost}): looking every {_REFRESH_S:g} s")
        return None
    return feed


def _until_change(feed: Feed) -> bool:
    """Wait for an event, then let those that come right after it come too; at most 10 s. False: no feed any more."""
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            if feed.next(1.0) is not None:
                settled = time.monotonic() + 0.2
                while time.monotonic() < settled:
                    feed.next(0.05)
                return True
    except FeedLost:
        return False
    return True

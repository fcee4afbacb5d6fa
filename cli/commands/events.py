"""`clos events`: the event log, and with `-f` what is added to it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from cli.command import Command
from cli.errors import DONE
from cli.invocation import Invocation, pass_invocation
from cli.live import RESYNC, Feed, FeedLost
from cli.output import Column, inert, local_time

_POLL_S = 1.0


def _words(event: dict[str, Any]) -> str:
    """What an event says, in a few words."""
    data = event.get("data") or {}
    step = data.get("step")
    if isinstance(step, dict):
        return str(step.get("note") or f"{step.get('action')} {step.get('target')}: {step.get('status')}")
    if "from" in data and "to" in data:
        why = data.get("reason") or data.get("detail")
        return f"{data['from']} → {data['to']}" + (f" ({why})" if why else "")
    known = [data.get(key) for key in ("type", "status", "kind", "port", "current_step", "text") if data.get(key)]
    error = data.get("error")
    words = " ".join(str(one) for one in known)
    return f"{words}: {error.get('message')}" if isinstance(error, dict) else words


_COLUMNS: list[Column] = [
    ("ID", lambda event: event.get("id")),
    ("TIME", lambda event: local_time(event.get("timestamp"))),
    ("TYPE", lambda event: event.get("type")),
    ("SUBJECT", lambda event: event.get("service_id") or event.get("group_name") or event.get("operation_id")),
    ("WHAT", _words),
]


@click.command(cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens.")
@click.option("--after", type=click.IntRange(min=0), help="Only events after this id, oldest first.")
@click.option("--type", "kind", help="For example service.* or operation.completed (commas: or).")
@click.option("--service", help="A service's id.")
@click.option("--group", help="A group's name.")
@click.option("--severity", help="info, warning, error (commas: or).")
@click.option("--since", help="A time, or 15m.")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@pass_invocation
def events(invocation: Invocation, follow: bool, after: int | None, limit: int, kind: str | None, **how: Any) -> int:
    """Show the newest events, oldest of them first; -f goes on with new ones."""
    client, printer = invocation.client, invocation.printer
    shown = client.get("/events", limit=limit, after=after, type=kind, **how)["items"]
    if after is None:
        shown = shown[::-1]
    if not follow:
        if not shown and not printer.machine:
            printer.data("No events.")
            return DONE
        printer.objects(shown, _COLUMNS)
        return DONE
    last_id = after
    for event in shown:
        _line(invocation, event)
        last_id = event["id"]
    for event in _new(invocation, last_id, kind, how):
        _line(invocation, event)
    return DONE


def _line(invocation: Invocation, event: dict[str, Any]) -> None:
    printer = invocation.printer
    if printer.form == "json":
        printer.data(json.dumps(event))
        return
    cells = [inert(read(event) or "-") for _, read in _COLUMNS]
    printer.data(f"{cells[0]:>6}  {cells[1]}  {printer.state(cells[2]):<26}  {cells[3]}  {cells[4]}")


def _new(invocation: Invocation, after: int | None, kind: str | None, how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    wanted = {"events": kind.split(",") if kind else ["*"]}
    wanted |= {key: how[key] for key in ("service", "group") if how.get(key)}
    feed = Feed(invocation.client, [wanted], after)
    severities = set((how.get("severity") or "").split(",")) - {""}
    try:
        feed.open()
        while True:
            event = feed.next(30.0)
            if event is RESYNC:
                invocation.printer.say("(events in between are no longer kept)")
            elif event is not None and (not severities or event.get("severity") in severities):
                yield event
    except FeedLost as lost:
        invocation.printer.detail(f"no live events ({lost}): asking every {_POLL_S:g} s")
        yield from _asked(invocation, feed.last_id or 0, kind, how)
    finally:
        feed.close()


def _asked(invocation: Invocation, after: int, kind: str | None, how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        found = invocation.client.get("/events", after=after, limit=200, type=kind, **{**how, "since": None})["items"]
        for event in found:
            after = event["id"]
            yield event
        if len(found) < 200:
            time.sleep(_POLL_S)

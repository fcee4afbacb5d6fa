"""`clos logs`: the last lines of a group or a service with their times, and then what comes."""

import json
import time
from collections import deque
from datetime import datetime
from typing import Any

import click

from cli import targets
from cli.client import Client, segment
from cli.command import Command
from cli.errors import DONE, INTERRUPTED, ApiError, Unreachable
from cli.invocation import Invocation, pass_invocation
from cli.live import Feed, FeedLost
from cli.output import inert, inert_line

Line = dict[str, Any]
_MAX_SUBSCRIPTIONS = 15
_CATCH_UP_LINES = 500
_SETTLE_S = 1.0
_SILENT_S = 10.0
_POLL_S = 1.0
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


@click.command(cls=Command)
@click.argument("target", required=False)
@click.option("-n", "--lines", "--tail", type=click.IntRange(0, 5000), default=50, show_default=True)
@click.option("-f", "--follow/--no-follow", default=True, help="Go on with new lines.  [default: follow]")
@click.option("--since", help="A time, or 15m.")
@click.option("--grep", metavar="TEXT", help="Only lines that hold TEXT.")
@click.option("--no-timestamps", is_flag=True, help="Only the text.")
@pass_invocation
def logs(
    invocation: Invocation,
    target: str | None,
    lines: int,
    follow: bool,
    since: str | None,
    grep: str | None,
    no_timestamps: bool,
) -> int:
    """Show the last lines of TARGET with their times, then follow it until Ctrl-C.

    TARGET is a group, or a service by its name, its id or group/service; without it, every service.
    """
    client = invocation.client
    services = targets.find(client, target).services(client) if target else list(client.pages("/services"))
    shown = _Shown(invocation, services, grep, not no_timestamps)
    if not services:
        invocation.printer.say("no services, so no logs")
        return DONE
    if not follow:
        shown.first(lines, since)
        return DONE
    try:
        _follow(invocation, shown, lines, since)
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


class _Shown:
    """Prints lines of one or more services, none of them twice."""

    def __init__(self, invocation: Invocation, services: list[dict[str, Any]], grep: str | None, times: bool) -> None:
        self.ids = [str(one["id"]) for one in services]
        self._names = {str(one["id"]): str(one.get("name")) for one in services}
        self._client: Client = invocation.client
        self._printer = invocation.printer
        self._grep = grep
        self._times = times
        self._printed: dict[str, deque[Line]] = {one: deque(maxlen=_CATCH_UP_LINES) for one in self.ids}
        self._just: dict[str, deque[str]] = {}
        self._failed: set[str] = set()

    def first(self, lines: int, since: str | None) -> None:
        """The last lines, those of several services in the order of their times."""
        found = []
        for one in self.ids:
            read = self._read(one, lines, since, self._grep)
            self._printed[one].extend(read)
            found += [(_at(line), one, line) for line in read]
        if len(self.ids) > 1:
            # Stable, so lines of one service keep their order; a line without a time is a young one.
            found.sort(key=lambda each: each[0] or "9")
            found = found[-lines:] if lines else []
        for _, one, line in found:
            self._print(one, line)

    def catch_up(self) -> None:
        """What came since, by asking."""
        for one in self.ids:
            read = self._read(one, _CATCH_UP_LINES, None, None)
            new = read[_overlap(self._printed[one], read) :] if self._printed[one] else read
            self._just[one] = deque(_text(line) for line in new)
            for line in new:
                self._take(one, line)

    def event(self, event: dict[str, Any]) -> None:
        """A line from the feed, unless a catch-up has just printed it."""
        one = str(event.get("service_id"))
        if one not in self._printed:
            return
        line = event.get("data") or {}
        just = self._just.get(one)
        if just and _text(line) in just:
            while just.popleft() != _text(line):
                pass
            return
        if just:
            just.clear()
        self._take(one, {**line, "heard": True})

    def _take(self, one: str, line: Line) -> None:
        self._printed[one].append(line)
        if not self._grep or self._grep in _text(line):
            self._print(one, line)

    def _read(self, one: str, lines: int, since: str | None, query: str | None) -> list[Line]:
        try:
            answer = self._client.get(f"/services/{segment(one)}/logs", lines=max(lines, 1), since=since, q=query)
        except (ApiError, Unreachable) as refused:
            if len(self.ids) == 1 and not self._printed[one]:
                raise
            if one not in self._failed:
                self._failed.add(one)
                self._printer.error(f"{one}: {refused.message}")
            return []
        found = answer.get("items", answer.get("lines")) or []
        return list(found) if lines else []

    def _print(self, one: str, line: Line) -> None:
        if self._printer.form == "json":
            self._printer.data(json.dumps({"service_id": one, **{k: v for k, v in line.items() if k != "heard"}}))
            return
        prefix = ""
        if len(self.ids) > 1:
            width = max(len(name) for name in self._names.values())
            colour = _COLOURS[self.ids.index(one) % len(_COLOURS)]
            prefix = self._printer.paint(f"{inert(self._names[one]):<{width}} | ", colour)
        stamp = f"{_local(_at(line)):<23}  " if self._times else ""
        self._printer.data(f"{prefix}{stamp}{inert_line(_text(line))}")


def _text(line: Line) -> str:
    return str(line.get("text", line.get("line", "")))


def _at(line: Line) -> str:
    return str(line.get("at") or line.get("timestamp") or "")


def _local(at: str) -> str:
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:23]
    except (ValueError, OverflowError):
        return ""


def _same(printed: Line, read: Line) -> bool:
    if _text(printed) != _text(read):
        return False
    # The feed's times are when a line was heard, and the youngest line of a file may have no time yet.
    known = not printed.get("heard") and _at(printed) and _at(read)
    return not known or _at(printed) == _at(read)


def _overlap(printed: deque[Line], read: list[Line]) -> int:
    """How many of the lines read are printed already: the longest beginning that ends as what was printed."""
    latest = list(printed)
    for end in range(len(read), 0, -1):
        size = min(end, len(latest))
        if all(_same(latest[-1 - i], read[end - 1 - i]) for i in range(size)):
            return end
    return 0


def _follow(invocation: Invocation, shown: _Shown, lines: int, since: str | None) -> None:
    subscriptions = [{"events": ["log.line"], "service": one} for one in shown.ids]
    feed = Feed(invocation.client, subscriptions)
    try:
        if len(subscriptions) > _MAX_SUBSCRIPTIONS:
            raise FeedLost(f"more than {_MAX_SUBSCRIPTIONS} services")
        feed.open()
        shown.first(lines, since)
        _by_feed(feed, shown)
    except FeedLost as lost:
        invocation.printer.detail(f"no live lines ({lost}): asking every {_POLL_S:g} s")
        if feed.last_id is None:
            shown.first(lines, since)
        while True:
            time.sleep(_POLL_S)
            shown.catch_up()
    finally:
        feed.close()


def _by_feed(feed: Feed, shown: _Shown) -> None:
    """Between the first reading and the moment at which a worker follows, and after a cut, lines would be missing.

    So until it has settled, what is heard is thrown away, and one reading gives all of it.
    """
    settled, reconnected, due_at = False, 0, time.monotonic() + _SETTLE_S
    while True:
        event = feed.next(min(max(due_at - time.monotonic(), 0.01), 1.0))
        if feed.reconnected != reconnected:
            settled, reconnected, due_at = False, feed.reconnected, time.monotonic() + _SETTLE_S
        if event is not None and settled:
            shown.event(event)
            due_at = time.monotonic() + _SILENT_S
        if time.monotonic() >= due_at:
            shown.catch_up()
            settled, due_at = True, time.monotonic() + _SILENT_S

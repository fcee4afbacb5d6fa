"""Lines of log on a terminal: of services and groups, interleaved by time, none of them twice."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli import targets
from cli.client import Client, segment
from cli.errors import ApiError, Unreachable
from cli.invocation import Invocation
from cli.output import inert, inert_line

Line = dict[str, Any]
_CATCH_UP_LINES = 500
_MOST_LINES = 5000
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


@dataclass(frozen=True, slots=True)
class Source:
    """What is asked and subscribed to as one: a service, or all of a group."""

    kind: str
    name: str
    services: tuple[dict[str, Any], ...]

    @property
    def path(self) -> str:
        """Where its lines are."""
        return f"/{self.kind}s/{segment(self.name)}/logs"


def sources(client: Client, wanted: Sequence[str]) -> list[Source]:
    """What targets of the command line stand for; without one, every group that has services.

    Raises:
        CliError: there is no such group or service.
    """
    if wanted:
        met = {(each.kind, each.name): each for each in (targets.find(client, name) for name in wanted)}
        found = [Source(each.kind, each.name, tuple(each.services(client))) for each in met.values()]
        groups = {each.name for each in found if each.kind == "group"}
        # A service of a group that is shown anyway would be shown twice.
        return [each for each in found if each.kind == "group" or each.services[0].get("group") not in groups]
    by_group: dict[str, list[dict[str, Any]]] = {}
    for one in client.pages("/services"):
        by_group.setdefault(str(one["group"]), []).append(one)
    return [Source("group", name, tuple(services)) for name, services in by_group.items()]


class Shown:
    """Prints lines of one or more services, none of them twice."""

    def __init__(self, invocation: Invocation, sources: list[Source], grep: str | None, times: bool) -> None:
        self.sources = sources
        self._names = {str(one["id"]): str(one.get("name")) for source in sources for one in source.services}
        self.ids = list(self._names)
        self._client: Client = invocation.client
        self._printer = invocation.printer
        self._grep = grep
        self._times = times
        self._printed: dict[str, deque[Line]] = {}
        self._just: dict[str, deque[str]] = {}
        self._failed: set[str] = set()
        for one in self.ids:
            self._meet(one)

    def _meet(self, one: str) -> None:
        """Make room for a service, also for one that its group got meanwhile."""
        if one not in self._printed:
            self._printed[one] = deque(maxlen=_CATCH_UP_LINES)
            if one not in self._names:
                self._names[one] = one
                self.ids.append(one)

    def first(self, lines: int, since: str | None) -> None:
        """The last lines, those of several services in the order of their times."""
        found = [each for source in self.sources for each in self._read(source, lines, since, self._grep)]
        for one, line in found:
            self._printed[one].append(line)
        if len(self.sources) > 1:
            # Stable, so lines of one service keep their order; a line without a time is a young one.
            found.sort(key=lambda each: _at(each[1]) or "9")
            found = found[-lines:] if lines else []
        for one, line in found:
            self._print(one, line)

    def catch_up(self) -> None:
        """What came since, by asking."""
        for source in self.sources:
            count = min(_CATCH_UP_LINES * max(len(source.services), 1), _MOST_LINES)
            found = self._read(source, count, None, None)
            read: dict[str, list[Line]] = {one: [] for one in {each for each, _ in found}}
            for one, line in found:
                read[one].append(line)
            new = {one: self._new(one, lines) for one, lines in read.items()}
            for one, lines in new.items():
                self._just[one] = deque(_text(line) for line in lines)
            seen = {one: len(lines) - len(new[one]) for one, lines in read.items()}
            for one, line in found:
                if seen[one] > 0:
                    seen[one] -= 1
                else:
                    self._take(one, line)

    def _new(self, one: str, read: list[Line]) -> list[Line]:
        return read[_overlap(self._printed[one], read) :] if self._printed[one] else read

    def event(self, event: dict[str, Any]) -> None:
        """A line from the feed, unless a catch-up has just printed it."""
        one = str(event.get("service_id"))
        self._meet(one)
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

    def _read(self, source: Source, lines: int, since: str | None, query: str | None) -> list[tuple[str, Line]]:
        try:
            answer = self._client.get(source.path, lines=max(lines, 1), since=since, q=query)
        except (ApiError, Unreachable) as refused:
            if len(self.sources) == 1 and not any(self._printed.values()):
                raise
            self._complain(source.name, refused.message)
            return []
        for one, why in (answer.get("failed") or {}).items():
            self._complain(one, why)
        found = [(str(line.get("service_id") or source.name), line) for line in answer.get("lines") or []]
        for one, _ in found:
            self._meet(one)
        return found if lines else []

    def _complain(self, whose: str, why: str) -> None:
        """Once for each: it is asked every second."""
        if whose not in self._failed:
            self._failed.add(whose)
            self._printer.error(f"{whose}: {why}")

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
        text = inert_line(_text(line))
        if line.get("stream") == "clos":
            text = self._printer.paint(f"-- {text}", "bright_black")
        self._printer.data(f"{prefix}{stamp}{text}")


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

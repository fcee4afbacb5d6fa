"""The output of instances that exist only in memory."""

import threading
from collections.abc import Callable, Collection, Iterator
from datetime import datetime

from workers.runtimes.protocol import LogLine

_KEPT = 5000
_IDLE_S = 0.9


class Lines:
    """The last lines of each service. Thread-safe."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._written = threading.Condition()
        self._lines: dict[str, list[LogLine]] = {}
        self._dropped: dict[str, int] = {}

    def write(self, service_id: str, text: str, stream: str = "stdout") -> None:
        """One more."""
        with self._written:
            lines = self._lines.setdefault(service_id, [])
            lines.append(LogLine(text, self._now(), stream))
            if len(lines) > _KEPT:
                self._dropped[service_id] = self._dropped.get(service_id, 0) + 1
                del lines[0]
            self._written.notify_all()

    def tail(self, service_id: str, tail: int, since: datetime | None) -> list[LogLine]:
        """The last lines."""
        with self._written:
            lines = self._lines.get(service_id, [])[-tail:] if tail > 0 else []
        return [line for line in lines if since is None or (line.at is not None and line.at >= since)]

    def forget(self, known: Collection[str]) -> None:
        """Drop the lines of all others."""
        with self._written:
            for service_id in self._lines.keys() - set(known):
                self._dropped[service_id] = self._count(service_id)
                del self._lines[service_id]

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines as they are written."""
        with self._written:
            position = self._count(service_id)
        while not stop():
            fresh, position = self._fresh(service_id, position)
            yield from fresh
            if not fresh:
                yield None

    def _fresh(self, service_id: str, position: int) -> tuple[list[LogLine], int]:
        with self._written:
            self._written.wait_for(lambda: self._count(service_id) > position, _IDLE_S)
            first = self._dropped.get(service_id, 0)
            fresh = self._lines.get(service_id, [])[max(0, position - first) :]
            return fresh, self._count(service_id)

    def _count(self, service_id: str) -> int:
        return self._dropped.get(service_id, 0) + len(self._lines.get(service_id, []))

"""The log files of processes: rotation by copy and truncate, reading across it, and times.

Processes write straight to their file, so lines carry no time. Whoever observes notes how long the file was
when (`<log>.times`); a line's time is that of the first note that lies behind it: at most one observation late.
"""

import contextlib
import fcntl
import os
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from workers.runtimes.log_text import plain
from workers.runtimes.process_rotation import KEPT, between_rotations, note, notes, older, rotate, turn
from workers.runtimes.process_state import slug
from workers.runtimes.protocol import LogLine

SIZE_LIMIT = 10 * 2**20
TAIL_LINES = 5000
TAIL_BYTES = 2**20
_LINE_LIMIT = 64 * 2**10
_POLL_S = 0.1
_IDLE_S = 0.7
_OF_A_LOG = re.compile(r"\.log(?:\.[0-9]+)?(?:\.times)?(?:\.new)?\Z")


class ProcessLogs:
    """One folder of log files, `<service>.log`, with `.1` and `.2` before them."""

    def __init__(self, folder: Path, size_limit: int = SIZE_LIMIT) -> None:
        self.folder = folder
        self._size_limit = size_limit
        self._guard = threading.Lock()
        self._sizes: dict[str, int] = {}

    def path(self, service_id: str) -> Path:
        """A service's current log file."""
        return self.folder / f"{slug(service_id)}.log"

    def prepare(self, service_id: str) -> Path:
        """The same, its folder made."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path(service_id)

    def note_sizes(self, service_ids: Iterable[str]) -> None:
        """Note the time for each log that has changed since the last look."""
        now = time.time()
        for service_id in service_ids:
            path = f"{self.folder}/{slug(service_id)}.log"
            try:
                size = os.stat(path).st_size
            except OSError:
                continue
            with self._guard:
                changed = self._sizes.get(service_id, 0) != size
                self._sizes[service_id] = size
            if changed and size:
                note(Path(path), size, now)

    def rotate(self) -> None:
        """Copy and truncate what is over the limit. What is written between the last read of the copy and the
        truncation (microseconds) is lost: the price of a writer that never has to reopen its file."""
        if not self.folder.is_dir():
            return
        with open(self.folder / ".rotation", "a") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            for path in self.folder.glob("*.log"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_size > self._size_limit:
                        rotate(path)

    def forget(self, registered: Callable[[], Collection[str]], there: Callable[[], Collection[str]]) -> None:
        """Delete the files of services that are not registered and of which no launch is known."""
        # Before the questions, so that a service that is registered in between has none among them.
        files = [path for path in self.folder.glob("*.log*") if path.is_file()]
        if not files:
            return
        known = {slug(each) for each in (*registered(), *there())}
        for path in files:
            if _OF_A_LOG.sub("", path.name) not in known:
                path.unlink(missing_ok=True)

    def tail(self, service_id: str, lines: int, since: datetime | None = None) -> list[LogLine]:
        """The last lines, oldest first; those whose time is unknown count as older than any `since`."""
        wanted = max(0, min(lines, TAIL_LINES))
        budget = TAIL_BYTES
        found: list[LogLine] = []
        for path in self._newest_first(service_id):
            part, used = _tail_of(path, wanted - len(found), budget)
            found = part + found
            budget -= used
            if len(found) >= wanted or budget <= 0:
                break
        if since is not None:
            found = [line for line in found if line.at is not None and line.at >= since]
        return found

    def _newest_first(self, service_id: str) -> list[Path]:
        path = self.path(service_id)
        return [path, *(older(path, number) for number in range(1, KEPT + 1))]

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """Lines that come from now on, with the time at which they were seen; None about every second."""
        path = self.path(service_id)
        reader = _Follower(path)
        told_at = time.monotonic()
        while not stop():
            lines = reader.read()
            yield from lines
            if lines:
                told_at = time.monotonic()
                continue
            if time.monotonic() - told_at >= _IDLE_S:
                told_at = time.monotonic()
                yield None
            time.sleep(_POLL_S)


class _Follower:
    """Reads what is appended to a file, over its rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._turn = turn(path)
        try:
            self._offset = path.stat().st_size
        except OSError:
            self._offset = 0

    def read(self) -> list[LogLine]:
        """Complete lines since the last call."""
        with between_rotations(self._path.parent) as still:
            if not still:
                return []
            latest = turn(self._path)
            if latest != self._turn:
                # Rotated: what we had not read went to the copy.
                self._partial += _read_from(older(self._path, 1), self._offset, -1)
                self._turn, self._offset = latest, 0
            piece = _read_from(self._path, self._offset)
            self._offset += len(piece)
            self._partial += piece
        *lines, self._partial = self._partial.split(b"\n")
        if len(self._partial) > _LINE_LIMIT:
            lines.append(self._partial)
            self._partial = b""
        now = datetime.now(UTC)
        return [LogLine(_text(line), now) for line in lines]


def _text(line: bytes) -> str:
    return plain(line[:_LINE_LIMIT])


def _read_from(path: Path, offset: int, limit: int = TAIL_BYTES) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(limit)
    except OSError:
        return b""


def _tail_of(path: Path, lines: int, budget: int) -> tuple[list[LogLine], int]:
    """The last lines of one file within `budget` bytes, and the bytes read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - budget))
            raw = file.read(budget)
    except OSError:
        return [], 0
    if lines <= 0:
        return [], 0
    parts = raw.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    skip = max(1 if start and len(parts) > 1 else 0, len(parts) - lines)
    sizes, times = notes(path)
    offset = start + sum(len(part) + 1 for part in parts[:skip])
    found = []
    for part in parts[skip:]:
        index = bisect_right(sizes, offset)
        at = datetime.fromtimestamp(times[index], UTC) if index < len(times) else None
        found.append(LogLine(_text(part), at))
        offset += len(part) + 1
    return found, len(raw)

"""Lines that outlive their container: one file for each service, `<service>.kept`, with a cap, and one over all.

A line of a file is the container's short id, the time, the stream and the text. What CLOS itself has to say (a
container was removed by somebody else) is a line as well, of the stream `clos`.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from workers.runtimes.process_state import slug
from workers.runtimes.protocol import LogLine

FILE_LIMIT = 2**20
TOTAL_LIMIT = 64 * 2**20
REMARK = "clos"
_SUFFIX = ".kept"
_SHORT = 12
_NO_TIME = "-"
_LIMIT_S = 10.0
_PAUSE_S = 0.01


class KeptLogs:
    """The kept lines of a home's services, in the folder in which processes have their log files."""

    def __init__(self, folder: Path, file_limit: int = FILE_LIMIT, total_limit: int = TOTAL_LIMIT) -> None:
        self.folder = folder
        self._file_limit = file_limit
        self._total_limit = total_limit

    def path(self, service_id: str) -> Path:
        """A service's file."""
        return self.folder / f"{slug(service_id)}{_SUFFIX}"

    def read(self, service_id: str) -> list[tuple[str, LogLine]]:
        """Every kept line with its container's short id, oldest first; none where nothing was kept."""
        try:
            raw = self.path(service_id).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [found for line in raw.split("\n") if (found := _parsed(line)) is not None]

    def last(self, service_id: str, ref: str) -> datetime | None:
        """The time of the last line that was kept of a container."""
        times = [line.at for of, line in self.read(service_id) if of == ref[:_SHORT] and line.at is not None]
        return times[-1] if times else None

    def add(self, service_id: str, ref: str, since: Callable[[datetime | None], Sequence[LogLine]]) -> None:
        """Keep lines of a container; the oldest of the service go where it has too many. `since` gives those behind the
        last one that is kept; nobody else keeps any meanwhile, so none is kept twice.

        Raises:
            OSError: they could not be written, or others took too long.
        """
        with self.held(".keeping", _LIMIT_S):
            lines = since(self.last(service_id, ref))
            if not lines:
                return
            path = self.path(service_id)
            kept = _bytes_of(path) + "".join(_written(ref, line) for line in lines).encode("utf-8", "replace")
            draft = path.with_name(f"{path.name}.new")
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(_newest(kept, self._file_limit))
            draft.replace(path)

    def forget(self, registered: Callable[[], Collection[str]], there: Collection[str] = ()) -> None:
        """Delete the files of services that are not registered and of which no container is there."""
        # Before the question, so that a service that is registered in between has none among them.
        files = list(self.folder.glob(f"*{_SUFFIX}"))
        if not files:
            return
        known = {f"{slug(each)}{_SUFFIX}" for each in (*registered(), *there)}
        for path in files:
            if path.name not in known:
                path.unlink(missing_ok=True)

    def fit(self) -> None:
        """Delete the oldest files until all are within the total cap."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._total_limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    @contextmanager
    def held(self, lock: str, limit_s: float) -> Iterator[None]:
        """Over all workers of this home, one at a time.

        Raises:
            TimeoutError: another one has it for longer than `limit_s`.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + limit_s
        with open(self.folder / lock, "a") as guard:
            while True:
                try:
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"{self.folder / lock} is held by another worker") from None
                    time.sleep(_PAUSE_S)
            yield


def _written(ref: str, line: LogLine) -> str:
    at = _NO_TIME if line.at is None else line.at.isoformat()
    return f"{ref[:_SHORT]} {at} {line.stream} {line.text}\n"


def _parsed(line: str) -> tuple[str, LogLine] | None:
    parts = line.split(" ", 3)
    if len(parts) != 4:
        return None
    ref, at, stream, text = parts
    try:
        return ref, LogLine(text, None if at == _NO_TIME else datetime.fromisoformat(at), stream)
    except ValueError:
        return None  # a line that was cut when the disk was full


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _newest(kept: bytes, limit: int) -> bytes:
    if len(kept) <= limit:
        return kept
    return kept[kept.index(b"\n", len(kept) - limit - 1) + 1 :]

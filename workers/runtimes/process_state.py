"""What is kept on disk of each launched process: its identity, how it ended, and the lock of its service."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from domain.errors import PermissionRefused, TimedOut

LOCK_LIMIT_S = 10.0
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
_IDENTITY = "identity.json"


def slug(service_id: str) -> str:
    """A service's id as a file's name: itself where that is safe, else marked with a digest of it."""
    if _SAFE.fullmatch(service_id):
        return service_id
    digest = hashlib.sha256(service_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', service_id)[:80]}~{digest}"


@dataclass(frozen=True, slots=True)
class Identity:
    """One launch of a service. `pid` and `start_ticks` (of the wrapper) are None until it was seen to run:
    the record is written before the spawn, so that no kill can leave a launch that nobody knows of."""

    service_id: str
    launch: str
    spec_hash: str
    boot_id: str
    launched_at: str
    pid: int | None = None
    start_ticks: int | None = None

    @property
    def ref(self) -> str | None:
        """`pid:start_ticks`."""
        return f"{self.pid}:{self.start_ticks}" if self.pid else None

    @property
    def started_at(self) -> datetime:
        """When it was launched."""
        return datetime.fromisoformat(self.launched_at)

    def running_as(self, pid: int, start_ticks: int) -> "Identity":
        """The same launch, with its process."""
        return replace(self, pid=pid, start_ticks=start_ticks)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a launch ended. `exit_code` is None where nobody could record it; `told`: its wrapper was told to end too."""

    exit_code: int | None
    ended_at: datetime
    told: bool = False


class StateFolder:
    """`<home>/run/processes`: one folder (0700) per service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[str, tuple[tuple[int, int], Identity]] = {}

    def of(self, service_id: str) -> Path:
        """The folder of a service."""
        return self.folder / slug(service_id)

    def exit_path(self, identity: Identity) -> Path:
        """Where the wrapper of this launch leaves its exit code."""
        return self.of(identity.service_id) / f"exit.{identity.launch}"

    def identities(self) -> list[Identity]:
        """The latest launch of every service that has one."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return [found for name in names if (found := self._read(name)) is not None]

    def identity(self, service_id: str) -> Identity | None:
        """The latest launch of a service."""
        return self._read(slug(service_id))

    def _read(self, name: str) -> Identity | None:
        path = f"{self.folder}/{name}/{_IDENTITY}"
        try:
            stat = os.stat(path)
            # Each write is a new file, so inode and time tell whether what was parsed still holds.
            version = (stat.st_ino, stat.st_mtime_ns)
            known = self._parsed.get(name)
            if known and known[0] == version:
                return known[1]
            with open(path, encoding="utf-8") as file:
                identity = Identity(**json.load(file))
        except (OSError, ValueError, TypeError):
            self._parsed.pop(name, None)
            return None
        self._parsed[name] = (version, identity)
        return identity

    def write(self, identity: Identity) -> None:
        """Keep a launch, all of it or nothing. Only under the service's lock."""
        folder = self.of(identity.service_id)
        draft = folder / f"{_IDENTITY}.{os.getpid()}.new"
        draft.write_text(json.dumps(asdict(identity)), encoding="utf-8")
        draft.replace(folder / _IDENTITY)

    def forget(self, service_id: str) -> None:
        """Drop the launch of a service that did not come to be. Only under the service's lock."""
        (self.of(service_id) / _IDENTITY).unlink(missing_ok=True)

    def clear_endings(self, service_id: str, keep: str) -> None:
        """Drop what earlier launches left."""
        for path in self.of(service_id).glob("exit.*"):
            if path.name != f"exit.{keep}":
                path.unlink(missing_ok=True)

    def ending(self, identity: Identity) -> Ending | None:
        """How a launch ended; None if nothing says that it did."""
        path = self.exit_path(identity)
        try:
            text = path.read_text()
            ended_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except (OSError, ValueError):
            return None
        # The wrapper writes its line in one call; a part of one is a write that was cut.
        if not text.endswith("\n"):
            return None
        code, _, told = text.strip().partition(" ")
        return Ending(int(code) if code.isdigit() else None, ended_at, told == "told")

    def record_ending(self, identity: Identity, exit_code: int | None) -> None:
        """State that a launch ended where its wrapper could not (it was killed). Never overrules a wrapper."""
        if self.ending(identity) is not None:
            return
        with contextlib.suppress(OSError):
            self.exit_path(identity).write_text(f"{'?' if exit_code is None else exit_code}\n")

    def remove(self, service_id: str) -> None:
        """Take the service's folder away. Only under the service's lock."""
        shutil.rmtree(self.of(service_id), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, service_id: str, limit_s: float = LOCK_LIMIT_S) -> Iterator[int]:
        """The service's lock; gives its descriptor, which a spawned wrapper inherits until it runs.

        It is let go by closing, never by unlocking: that would take it from the wrapper too.

        Raises:
            TimedOut: somebody else held it for `limit_s`.
            PermissionRefused: the folder cannot be made or written.
        """
        deadline = time.monotonic() + limit_s
        pause_s = 0.002
        while (opened := self._try_lock(service_id)) is None:
            if time.monotonic() >= deadline:
                raise TimedOut(
                    f"{service_id} was being started or stopped by somebody else for {limit_s:g} s",
                    hint="wait for the other operation",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
        try:
            yield opened
        finally:
            os.close(opened)

    def _try_lock(self, service_id: str) -> int | None:
        folder = self.of(service_id)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None  # Removed between the two calls.
        except OSError as refusal:
            raise PermissionRefused(
                f"{folder} cannot be used: {refusal.strerror or refusal}", hint="see its owner and the disk"
            ) from refusal
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A `remove` in between took the file away: what is locked then guards nothing.
            if os.stat(folder / "lock").st_ino == os.fstat(opened).st_ino:
                return opened
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(opened)
        return None

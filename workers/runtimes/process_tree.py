"""What a process is part of: its ancestors, the container or the managed service that it belongs to, CLOS itself."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bus.process_identity import is_alive, read_identity
from workers.runtimes import process_identity as processes

PROC = processes.PROC
KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_MOST_PARENTS = 32
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?=$|[./])", re.MULTILINE)
_SHIM = "containerd-shim"


class Process(NamedTuple):
    """One line of `/proc/<pid>/stat`, as far as it says who a process is."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    flags: int
    start_ticks: int

    @property
    def dead(self) -> bool:
        """Whether only its exit status is left."""
        return self.state in "ZX"


def read(pid: int, proc: str = PROC) -> Process | None:
    """What the kernel says of `pid`; None if there is no such process."""
    raw = processes.read_bytes(f"{proc}/{pid}/stat", 2048)
    # The name stands in brackets and may hold both brackets and spaces.
    if not raw or (end := raw.rfind(b")")) < 0:
        return None
    name = raw[raw.find(b"(") + 1 : end].decode("utf-8", "replace")
    part = raw[end + 2 :].split()
    return Process(pid, name, part[0].decode(), int(part[1]), int(part[3]), int(part[6]), int(part[19]))


class Mark(NamedTuple):
    """What says that a process belongs to a managed service: of which installation, which service, and the folder in
    which that installation keeps it."""

    instance_id: str
    service_id: str
    folder: Path

    @property
    def kept(self) -> bool:
        """Whether that installation still knows the service; if not, nobody but us can end it."""
        return (self.folder / "identity.json").exists()


@dataclass
class Tree:
    """The process table while one look lasts: each process is read once."""

    proc: str = PROC
    _read: dict[int, Process | None] = field(default_factory=dict)

    def process(self, pid: int) -> Process | None:
        """A process; None if there is none."""
        if pid not in self._read:
            self._read[pid] = read(pid, self.proc)
        return self._read[pid]

    def parents(self, pid: int) -> Iterator[Process]:
        """Its ancestors, nearest first; process 1 is the last."""
        found = self.process(pid)
        for _ in range(_MOST_PARENTS):
            if found is None or found.parent <= 0:
                return
            found = self.process(found.parent)
            if found is None:
                return
            yield found

    def container(self, pid: int) -> str | None:
        """The id of the container that it runs in; None if in none."""
        raw = processes.read_bytes(f"{self.proc}/{pid}/cgroup") or b""
        if found := _CONTAINER.search(raw.decode("utf-8", "replace")):
            return found[1]
        for parent in self.parents(pid):
            if parent.name.startswith(_SHIM):
                return self._id_of_shim(parent.pid)
        return None

    def _id_of_shim(self, pid: int) -> str | None:
        argv = (processes.read_bytes(f"{self.proc}/{pid}/cmdline") or b"").split(b"\0")
        at = argv.index(b"-id") + 1 if b"-id" in argv else len(argv)
        return argv[at].decode("ascii", "replace") if at < len(argv) else None

    def mark(self, pid: int) -> Mark | None:
        """The managed service in whose session it runs, of this or any other installation."""
        found = self.process(pid)
        leader = self.process(found.session) if found else None
        if leader is None or leader.dead:
            return None
        raw = processes.read_bytes(f"{self.proc}/{leader.pid}/cmdline") or b""
        argv = [part.decode("utf-8", "replace") for part in raw.split(b"\0")]
        marker = processes.MARKER.decode()
        # sh -c SCRIPT clos-run INSTANCE SERVICE HASH LAUNCH EXIT-FILE ...
        if len(argv) < 9 or argv[3] != marker:
            return None
        return Mark(argv[4], argv[5], Path(argv[8]).parent)


@dataclass(frozen=True)
class Home:
    """CLOS's own processes on one home, as they registered themselves."""

    folder: Path

    @cached_property
    def pids(self) -> frozenset[int]:
        """Those that live: supervisor, `clos up`, API, gateway, workers, scheduler, embedded server."""
        found = set()
        for path in (self.folder / "run" / "supervisor.json", *sorted((self.folder / "run" / "pids").glob("*.json"))):
            content = read_identity(path)
            if content is not None and is_alive(content):
                found |= {content["pid"], content.get("up_pid") or content["pid"]}
        return frozenset(found)

    def has(self, pid: int, tree: Tree) -> bool:
        """Whether a process is one of them or a child of one. (A managed service is a child of the worker that started
        it, and none of them.)"""
        if not self.pids or tree.mark(pid) is not None:
            return False
        return pid in self.pids or any(parent.pid in self.pids for parent in tree.parents(pid))


def home_of(pid: int, proc: str = PROC) -> Home | None:
    """The home that a process was started with; None where its environment cannot be read."""
    raw = processes.read_bytes(f"{proc}/{pid}/environ", 1 << 20)
    if raw is None:
        return None
    environ = dict(part.split(b"=", 1) for part in raw.split(b"\0") if b"=" in part)
    folder = environ.get(b"CLOS_HOME") or (environ[b"HOME"] + b"/.clos" if b"HOME" in environ else None)
    return None if folder is None else Home(Path(os.fsdecode(folder)))

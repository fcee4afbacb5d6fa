"""Which process is which: boot id, pid and start ticks, sessions, and signals that cannot hit a stranger."""

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

PROC = "/proc"
MARKER = b"clos-run"
# `sh -c SCRIPT clos-run INSTANCE SERVICE HASH LAUNCH …`: where the marker stands in a wrapper's argv.
_MARKER_AT = 3
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """The part of `/proc/<pid>/stat` that tells a process and its use. CPU in clock ticks, memory in pages."""

    pid: int
    state: str
    group: int
    session: int
    cpu_ticks: int
    start_ticks: int
    rss_pages: int

    @property
    def dead(self) -> bool:
        """Whether only its exit status is left."""
        return self.state in "ZX"


class Marked(NamedTuple):
    """A wrapper that carries this CLOS's mark."""

    pid: int
    start_ticks: int
    service_id: str
    spec_hash: str
    launch: str


@cache
def boot_id() -> str:
    """The kernel's id of this boot: what makes a pid from before a reboot a stranger."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def _boot_time_s() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def started_at(start_ticks: int) -> datetime:
    """When a process with these start ticks began, to about a second: the boot time has no finer grain."""
    return datetime.fromtimestamp(_boot_time_s() + start_ticks / CLOCK_TICKS, UTC)


def read_bytes(path: str, limit: int = 65536) -> bytes | None:
    """A small file's content in one read, None if it is not (or no longer) to be had."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(opened, limit)
    except OSError:
        return None
    finally:
        os.close(opened)


def read_stat(pid: int) -> Stat | None:
    """What the kernel says of `pid`; None if there is no such process."""
    raw = read_bytes(f"{PROC}/{pid}/stat", 2048)
    # The name stands in brackets and may hold both brackets and spaces.
    if not raw or (end := raw.rfind(b")")) < 0:
        return None
    part = raw[end + 2 :].split()
    return Stat(
        pid,
        part[0].decode(),
        int(part[2]),
        int(part[3]),
        int(part[11]) + int(part[12]),
        int(part[19]),
        int(part[21]),
    )


def pids() -> Iterator[int]:
    """Every process that there is now."""
    for name in os.listdir(PROC):
        if name[0] in "123456789" and name.isdigit():
            yield int(name)


def every_stat() -> list[Stat]:
    """The stat of every process."""
    return [found for pid in pids() if (found := read_stat(pid)) is not None]


def session_members(session: int, not_before: int = 0) -> list[Stat]:
    """Living processes of a session that began at `not_before` ticks or later, oldest first.

    A number stays taken as long as it is somebody's session, so a member cannot belong to a reused pid.
    """
    found = [s for s in every_stat() if s.session == session and not s.dead and s.start_ticks >= not_before]
    return sorted(found, key=lambda s: (s.start_ticks, s.pid))


def marker_of(pid: int) -> list[str] | None:
    """Instance, service, hash and launch that a process's command line carries; None if it carries no mark."""
    raw = read_bytes(f"{PROC}/{pid}/cmdline")
    if not raw or MARKER not in raw:
        return None
    argv = raw.split(b"\0")
    if len(argv) < _MARKER_AT + 5 or argv[_MARKER_AT] != MARKER:
        return None
    return [part.decode("utf-8", "replace") for part in argv[_MARKER_AT + 1 : _MARKER_AT + 5]]


def marked(instance_id: str) -> list[Marked]:
    """Every living wrapper of this CLOS, known or not.

    Only a session's leader counts: between fork and exec the command shows its wrapper's command line.
    """
    found = []
    for pid in pids():
        mark = marker_of(pid)
        if not mark or mark[0] != instance_id:
            continue
        stat = read_stat(pid)
        if stat and stat.session == pid and not stat.dead:
            found.append(Marked(pid, stat.start_ticks, mark[1], mark[2], mark[3]))
    return found


@contextlib.contextmanager
def held(pid: int, start_ticks: int) -> Iterator[int | None]:
    """A pidfd of exactly this process, None if it is gone: from here on no reuse of its pid can matter."""
    try:
        opened = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        stat = read_stat(pid)
        yield opened if stat and stat.start_ticks == start_ticks and not stat.dead else None
    finally:
        os.close(opened)


def send(pid: int, start_ticks: int, number: signal.Signals) -> bool:
    """Signal exactly this process. False if it is gone.

    Raises:
        PermissionError: it belongs to somebody else.
    """
    with held(pid, start_ticks) as opened:
        if opened is None:
            return False
        try:
            signal.pidfd_send_signal(opened, number)
        except ProcessLookupError:
            return False
        return True

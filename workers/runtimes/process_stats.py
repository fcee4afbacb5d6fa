"""What the processes of a session use together."""

import threading
import time
from collections.abc import Mapping

from workers.runtimes import process_identity as processes
from workers.runtimes.protocol import Stats


class SessionStats:
    """Remembers the last sample of each service, to tell CPU use since then. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last: dict[str, tuple[float, dict[tuple[int, int], int]]] = {}

    def forget(self, service_id: str) -> None:
        """Drop what is remembered of a service."""
        with self._guard:
            self._last.pop(service_id, None)

    def sample(self, sessions: Mapping[str, int]) -> dict[str, Stats]:
        """Use of each session. Memory is the sum of resident sizes: shared pages count once per process."""
        members: dict[int, list[processes.Stat]] = {session: [] for session in sessions.values()}
        for stat in processes.every_stat():
            if stat.session in members and not stat.dead:
                members[stat.session].append(stat)
        return {
            service_id: self._of(service_id, members[session])
            for service_id, session in sessions.items()
            if members[session]
        }

    def _of(self, service_id: str, members: list[processes.Stat]) -> Stats:
        read = written = 0
        for member in members:
            io = _io(member.pid)
            read, written = read + io[0], written + io[1]
        return Stats(
            cpu_usage=round(self._cpu_percent(service_id, members), 2),
            memory_usage=round(sum(m.rss_pages for m in members) * processes.PAGE_BYTES / 2**20, 2),
            disk_read=read,
            disk_write=written,
        )

    def _cpu_percent(self, service_id: str, members: list[processes.Stat]) -> float:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        used = {(m.pid, m.start_ticks): m.cpu_ticks for m in members}
        with self._guard:
            # The first sample counts from the oldest process's start.
            began = min(m.start_ticks for m in members) / processes.CLOCK_TICKS
            before, known = self._last.get(service_id, (began, {}))
            self._last[service_id] = (now, used)
        ticks = sum(max(0, total - known.get(key, 0)) for key, total in used.items())
        return 100.0 * ticks / processes.CLOCK_TICKS / max(now - before, 0.01)


def _io(pid: int) -> tuple[int, int]:
    raw = processes.read_bytes(f"/proc/{pid}/io")
    if not raw:
        return 0, 0
    fields = dict(line.split(b": ") for line in raw.splitlines() if b": " in line)
    return int(fields.get(b"read_bytes", 0)), int(fields.get(b"write_bytes", 0))

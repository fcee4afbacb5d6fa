"""Resources of containers: read from cgroup files where they are local, asked of the engine elsewhere.

The engine takes one to two seconds for each (pitfalls 5.3); the files of a hundred take milliseconds.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.runtimes.protocol import Stats

CGROUP_ROOT = Path("/sys/fs/cgroup")
_MB = 1024 * 1024
_FIRST_GAP_S = 0.1
_KEPT_S = 600.0
_POOL = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment; CPU in nanoseconds since the container's start, memory in bytes."""

    at_s: float
    cpu_ns: int
    memory: int
    network_rx: int = 0
    network_tx: int = 0
    disk_read: int = 0
    disk_write: int = 0


class Sampler:
    """Keeps the last sample of each container: CPU is what was used between two."""

    def __init__(self, ask: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._ask = ask
        self._last: dict[str, Sample] = {}
        self._lock = threading.Lock()

    def stats(self, pids: Mapping[str, int | None]) -> dict[str, Stats]:
        """By container id, of those that can be read. `pids` maps ids to the host's pid."""
        with self._lock:
            oldest_s = time.monotonic() - _KEPT_S
            self._last = {ref: sample for ref, sample in self._last.items() if sample.at_s > oldest_s}
            last = dict(self._last)
        new = [ref for ref in pids if ref not in last]
        if new:
            last |= self._samples({ref: pids[ref] for ref in new})
            time.sleep(_FIRST_GAP_S)
        now = self._samples(pids)
        with self._lock:
            self._last |= now
        return {ref: _between(last[ref], sample) for ref, sample in now.items() if ref in last}

    def _samples(self, pids: Mapping[str, int | None]) -> dict[str, Sample]:
        found = {ref: sample for ref, pid in pids.items() if (sample := read_cgroup(ref, pid))}
        missing = [ref for ref in pids if ref not in found]
        if missing:
            with ThreadPoolExecutor(max_workers=min(_POOL, len(missing))) as pool:
                for ref, told in zip(missing, pool.map(self._ask, missing), strict=True):
                    if sample := sample_of(told):
                        found[ref] = sample
        return found


def _between(before: Sample, after: Sample) -> Stats:
    passed_s = after.at_s - before.at_s
    used_ns = max(after.cpu_ns - before.cpu_ns, 0)
    return Stats(
        cpu_usage=round(used_ns / passed_s / 1e7, 2) if passed_s > 0 else 0.0,
        memory_usage=round(after.memory / _MB, 2),
        network_rx=after.network_rx,
        network_tx=after.network_tx,
        disk_read=after.disk_read,
        disk_write=after.disk_write,
    )


def sample_of(told: Mapping[str, Any] | None) -> Sample | None:
    """The engine's answer as a sample; a stopped container's has no counters."""
    cpu = ((told or {}).get("cpu_stats") or {}).get("cpu_usage") or {}
    memory = (told or {}).get("memory_stats") or {}
    if not told or not cpu.get("total_usage") or "usage" not in memory:
        return None
    counted = memory.get("stats") or {}
    cache = counted.get("inactive_file", counted.get("total_inactive_file", 0))
    networks = (told.get("networks") or {}).values()
    disk = (told.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    return Sample(
        at_s=time.monotonic(),
        cpu_ns=cpu["total_usage"],
        memory=max(memory["usage"] - cache, 0),
        network_rx=sum(each.get("rx_bytes", 0) for each in networks),
        network_tx=sum(each.get("tx_bytes", 0) for each in networks),
        disk_read=sum(each["value"] for each in disk if each.get("op", "").lower() == "read"),
        disk_write=sum(each["value"] for each in disk if each.get("op", "").lower() == "write"),
    )


def read_cgroup(ref: str, pid: int | None, proc: Path = Path("/proc")) -> Sample | None:
    """A container's counters from this host's files; None where they are not here, or may not be read."""
    if not pid:
        return None
    try:
        groups = _cgroups((proc / str(pid) / "cgroup").read_text())
        # The engine may run on another machine, or the pid be another's by now.
        if not any(ref in path for path in groups.values()):
            return None
        network = _network((proc / str(pid) / "net" / "dev").read_text())
        return _version_1(groups, network) if "memory" in groups else _version_2(groups[""], network)
    except (OSError, ValueError, KeyError):
        return None


def _cgroups(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _version_1(groups: Mapping[str, str], network: tuple[int, int]) -> Sample:
    cpu = CGROUP_ROOT / "cpuacct" / groups["cpuacct"].lstrip("/")
    memory = CGROUP_ROOT / "memory" / groups["memory"].lstrip("/")
    disk = CGROUP_ROOT / "blkio" / groups["blkio"].lstrip("/") / "blkio.throttle.io_service_bytes"
    used = int((memory / "memory.usage_in_bytes").read_text())
    return Sample(
        time.monotonic(),
        int((cpu / "cpuacct.usage").read_text()),
        max(used - _pairs((memory / "memory.stat").read_text()).get("total_inactive_file", 0), 0),
        *network,
        *_throttled(disk),
    )


def _version_2(path: str, network: tuple[int, int]) -> Sample:
    folder = CGROUP_ROOT / path.lstrip("/")
    used = int((folder / "memory.current").read_text())
    fields = [field for line in _text(folder / "io.stat").splitlines() for field in line.split()[1:]]
    return Sample(
        time.monotonic(),
        _pairs((folder / "cpu.stat").read_text())["usage_usec"] * 1000,
        max(used - _pairs((folder / "memory.stat").read_text()).get("inactive_file", 0), 0),
        *network,
        _total(fields, "rbytes="),
        _total(fields, "wbytes="),
    )


def _throttled(path: Path) -> tuple[int, int]:
    rows = [line.split() for line in _text(path).splitlines()]
    read, written = (sum(int(r[2]) for r in rows if len(r) == 3 and r[1] == op) for op in ("Read", "Write"))
    return read, written


def _text(path: Path) -> str:
    # Not every kernel counts what disks do.
    return path.read_text() if path.exists() else ""


def _total(fields: Sequence[str], name: str) -> int:
    return sum(int(field[len(name) :]) for field in fields if field.startswith(name))


def _pairs(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def _network(text: str) -> tuple[int, int]:
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(":")
        fields = counters.split()
        if name.strip() != "lo" and len(fields) > 8:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent

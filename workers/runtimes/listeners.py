"""Which sockets are bound on this host, by whom, and whether a bind would succeed now.

Read from `/proc` directly. Light on purpose: `cli/local` imports it too.
"""

import contextlib
import errno
import os
import pwd
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

from domain.observation import Listener

Verdict = Literal["free", "held", "unknown"]
_TCP_LISTEN = "0A"
_UDP_UNCONNECTED = "07"
_COMMAND_LIMIT = 300
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
# A bind that somebody else tries at the same moment looks like a holder that no table shows.
_AGAIN_AFTER_S = (0.005, 0.02)


class _Socket(NamedTuple):
    host_ip: str
    port: int
    protocol: str
    uid: int
    inode: str


class _Holder(NamedTuple):
    pid: int
    name: str | None
    command: str | None
    user: str | None
    start_ticks: int | None


def listeners() -> list[Listener]:
    """Every listening TCP and every bound, unconnected UDP socket, once per process that holds it.

    A socket whose process cannot be seen (another user's, and we are not root) has no pid, only its user.
    Bound TCP sockets that do not listen are in no table; `can_bind` finds them.
    """
    return _with_holders(_sockets())


def _with_holders(found: Iterable[_Socket]) -> list[Listener]:
    sockets = list(found)
    holders = _holders_of({entry.inode for entry in sockets if entry.inode != "0"})
    facts = []
    for entry in sockets:
        place = (entry.host_ip, entry.port, entry.protocol)
        held_by = holders.get(entry.inode)
        if not held_by:
            facts.append(Listener(*place, user=_user(entry.uid)))
            continue
        facts += [
            Listener(*place, h.pid, h.name, h.command, h.user or _user(entry.uid), h.start_ticks) for h in held_by
        ]
    return facts


def _sockets(port: int | None = None, protocol: str | None = None) -> Iterator[_Socket]:
    for table, kind, wanted in (
        ("tcp", "tcp", _TCP_LISTEN),
        ("tcp6", "tcp", _TCP_LISTEN),
        ("udp", "udp", _UDP_UNCONNECTED),
        ("udp6", "udp", _UDP_UNCONNECTED),
    ):
        if protocol is None or protocol == kind:
            yield from _rows(table, kind, wanted, None if port is None else f"{port:04X}")


def _rows(table: str, protocol: str, wanted: str, port: str | None) -> Iterator[_Socket]:
    try:
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return  # IPv6 is off.
    for line in lines:
        part = line.split(None, 10)
        address, _, number = part[1].rpartition(":")
        if part[3] == wanted and number != "0000" and (port is None or number == port):
            yield _Socket(_address(address), int(number, 16), protocol, int(part[7]), part[9])


@lru_cache(maxsize=1024)
def _address(text: str) -> str:
    # The kernel prints the address as native 32-bit words.
    raw = struct.pack(f"={len(text) // 8}I", *(int(text[i : i + 8], 16) for i in range(0, len(text), 8)))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _holders_of(inodes: set[str]) -> dict[str, list[_Holder]]:
    found: dict[str, list[_Holder]] = {}
    if not inodes:
        return found
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        mine = {links[link] for link in _fd_links(name) if link in links}
        if mine:
            holder = _holder(int(name))
            for inode in mine:
                found.setdefault(inode, []).append(holder)
    return found


def _fd_links(pid: str) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            yield os.readlink(f"{folder}/{name}")


def _holder(pid: int) -> _Holder:
    name = command = user = ticks = None
    with contextlib.suppress(OSError):
        user = _user(os.stat(f"/proc/{pid}").st_uid)
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        end = stat.rfind(b")")
        name = stat[stat.find(b"(") + 1 : end].decode("utf-8", "replace")
        ticks = int(stat[end + 2 :].split()[19])
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()[: _COMMAND_LIMIT * 4]
        command = raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()[:_COMMAND_LIMIT] or None
    return _Holder(pid, name, command, user, ticks)


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def holders(port: int, protocol: str = "tcp", host_ip: str | None = None) -> list[dict[str, Any]]:
    """Who holds a port, as Holder objects of the interface; with `host_ip`, who is in a bind's way there.

    A docker-proxy is a `container` without a name: whoever can ask the engine resolves it.
    """
    found = [entry for entry in _sockets(port, protocol) if _in_the_way(entry.host_ip, host_ip)]
    shown: dict[int | None, dict[str, Any]] = {}
    for entry in _with_holders(found):
        shown.setdefault(entry.pid, holder_of(entry))
    return list(shown.values())


def holder_of(entry: Listener) -> dict[str, Any]:
    """A listener as a Holder object of the interface."""
    proxy = entry.name == "docker-proxy"
    return {
        "kind": "container" if proxy else "process" if entry.pid else "unknown",
        "running": True,
        "name": None if proxy else entry.name,
        "container_id": None,
        "service_id": None,
        "pid": entry.pid,
        "command": entry.command,
        "user": entry.user,
        "started_at": None if entry.start_ticks is None else _started_at(entry.start_ticks),
        "own": False,
    }


def _started_at(start_ticks: int) -> str:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            at = datetime.fromtimestamp(float(line.split()[1]) + start_ticks / _CLOCK_TICKS, UTC)
            return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    raise OSError("/proc/stat names no boot time")


def _in_the_way(bound: str, wanted: str | None) -> bool:
    if not wanted or wanted == "::" or bound in (wanted, "::"):
        # Whether a `::` socket takes IPv4 as well stands in no table; it does unless it was told not to.
        return True
    bound_ip, wanted_ip = ip_address(bound), ip_address(wanted)
    mapped = getattr(bound_ip, "ipv4_mapped", None)
    same_kind = (mapped or bound_ip).version == wanted_ip.version
    return same_kind and (mapped == wanted_ip or bound in _WILDCARDS or wanted in _WILDCARDS)


def can_bind(host_ip: str, port: int, protocol: str = "tcp") -> tuple[Verdict, str | None]:
    """Whether a bind to exactly this address would succeed now, and why not.

    An empty `host_ip` and `::` mean every address of both families: the one bind that misses nobody.
    Reasons: `in_use`, `time_wait` (free: nobody listens, but an old connection or a socket that is only bound
    lingers), `permission_denied`, `no_such_address`, or the system's own words.
    """
    verdict = _try_bind(host_ip, port, protocol)
    for pause_s in _AGAIN_AFTER_S:
        if verdict[0] != "held" or any(True for _ in _sockets(port, protocol)):
            return verdict
        time.sleep(pause_s)
        verdict = _try_bind(host_ip, port, protocol)
    return verdict


def _try_bind(host_ip: str, port: int, protocol: str) -> tuple[Verdict, str | None]:
    refusal = _bind(host_ip, port, protocol, reuse=False)
    if refusal == errno.EADDRINUSE:
        # UDP sockets that both reuse share a port, so there the table decides.
        taken = _bind(host_ip, port, protocol, reuse=True) is not None or any(
            _in_the_way(entry.host_ip, host_ip) for entry in _sockets(port, protocol)
        )
        return ("held", "in_use") if taken else ("free", "time_wait")
    if refusal is None:
        return "free", None
    if refusal in (errno.EACCES, errno.EPERM):
        return "unknown", "permission_denied"
    if refusal == errno.EADDRNOTAVAIL:
        return "unknown", "no_such_address"
    return "unknown", os.strerror(refusal)


def _bind(host_ip: str, port: int, protocol: str, *, reuse: bool) -> int | None:
    """The errno with which a bind fails, None if it succeeds."""
    address = host_ip or "::"
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
            if ":" in address:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if reuse:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as refusal:
        if address == "::" and refusal.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return _bind("0.0.0.0", port, protocol, reuse=reuse)  # noqa: S104
        return refusal.errno or errno.EINVAL
    return None


def ephemeral_range() -> tuple[int, int]:
    """First and last port that the kernel gives to clients: not to be leased."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999

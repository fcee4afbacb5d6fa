"""The kernel's table of sockets: which are bound where. Netlink's answer where it can be had, else `/proc/net`.

Only netlink says whether a socket on `::` takes IPv4 along. One that does is given twice, on `::` and on `0.0.0.0`;
where `/proc/net` is all there is, it counts as one that does unless IPv4 has a socket of its own on that port, which a
dual one would not have let in.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

PROC = "/proc"
_ALL_V4, _ALL_V6 = "0.0.0.0", "::"  # noqa: S104 - to compare with, not to bind
# Table, family, protocol.
_TABLES = (
    ("tcp", socket.AF_INET, "tcp"),
    ("tcp6", socket.AF_INET6, "tcp"),
    ("udp", socket.AF_INET, "udp"),
    ("udp6", socket.AF_INET6, "udp"),
)
_ESTABLISHED, _TIME_WAIT, _CLOSE, _LISTEN = 1, 6, 7, 10
# By protocol, as bits: TCP that listens, UDP that is not connected.
_BOUND = {"tcp": 1 << _LISTEN, "udp": 1 << _CLOSE}
# What else has a port of this host as its own end.
_CONNECTED = {"tcp": 0xFFF & ~(1 << _LISTEN | 1 << _TIME_WAIT | 1 << _CLOSE), "udp": 1 << _ESTABLISHED}
_WAITING = {"tcp": 1 << _TIME_WAIT, "udp": 0}
_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")
_MESSAGE = struct.Struct("=BBBBHH16s16sIIIIIIII")
_V6ONLY = 11
_ANSWER_LIMIT_S = 2.0


class SocketsUnseen(Exception):
    """The socket tables cannot be read: nothing can be said of any port."""


class Socket(NamedTuple):
    """One bound socket on one address. `inode` ties it to the processes that hold it."""

    host_ip: str
    port: int
    protocol: str
    uid: int
    inode: int


def bound(port: int | None = None, protocol: str | None = None, proc: str = PROC) -> list[Socket]:
    """Every listening TCP and every unconnected UDP socket, of one port and protocol or of all.

    Raises:
        SocketsUnseen: the tables cannot be read.
    """
    return _in_states(_BOUND, port, protocol, proc)


def connected(port: int, protocol: str, proc: str = PROC) -> list[Socket]:
    """Every connection whose end on this host has that port. Raises SocketsUnseen."""
    return _in_states(_CONNECTED, port, protocol, proc)


def waiting(port: int, protocol: str, proc: str = PROC) -> list[Socket]:
    """Every connection that has ended and whose port the kernel keeps a minute longer. Raises SocketsUnseen."""
    return _in_states(_WAITING, port, protocol, proc)


def _in_states(states: Mapping[str, int], port: int | None, protocol: str | None, proc: str) -> list[Socket]:
    found: list[Socket] = []
    missing = []
    for table, family, kind in _TABLES:
        if protocol not in (None, kind) or not states[kind]:
            continue
        rows = _asked(family, kind, states[kind]) if proc == PROC else None
        if rows is None:
            rows = _read(f"{proc}/net/{table}", kind, states[kind])
        if rows is None:
            missing.append(table)
        else:
            found += rows if port is None else [each for each in rows if each.port == port]
    # IPv6 that is off has no table; neither of both is a system that does not show them.
    wanted = [kind for kind in ("tcp", "udp") if protocol in (None, kind) and states[kind]]
    if any({kind, f"{kind}6"} <= set(missing) for kind in wanted):
        raise SocketsUnseen(f"the kernel's socket tables cannot be read: {proc}/net has none")
    return found


def _asked(family: int, protocol: str, states: int) -> list[Socket] | None:
    """What netlink answers; None where it does not (not built in, or forbidden)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
            asking.settimeout(_ANSWER_LIMIT_S)
            number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
            request = _REQUEST.pack(family, number, 0, 0, states, bytes(48))
            asking.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
            return list(_messages(asking, protocol))
    except OSError:
        return None


def _messages(asking: socket.socket, protocol: str) -> Iterator[Socket]:
    while True:
        data = asking.recv(1 << 18)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR or length < _HEADER.size:
                raise OSError(errno.EIO, "netlink refused")
            yield from _decode(data[at + _HEADER.size : at + length], protocol)
            at += (length + 3) & ~3


def _decode(body: bytes, protocol: str) -> Iterator[Socket]:
    family, _, _, _, port, _, source, *_, uid, inode = _MESSAGE.unpack_from(body)
    port = socket.ntohs(port)
    if port == 0:
        return
    host_ip = socket.inet_ntop(family, source[:4] if family == socket.AF_INET else source)
    yield Socket(host_ip, port, protocol, uid, inode)
    if host_ip == _ALL_V6 and not _is_v6_only(body[_MESSAGE.size :]):
        yield Socket(_ALL_V4, port, protocol, uid, inode)


def _is_v6_only(attributes: bytes) -> bool:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind == _V6ONLY:
            return bool(attributes[at + 4])
        at += max((length + 3) & ~3, 4)
    return False


def _read(path: str, protocol: str, states: int) -> list[Socket] | None:
    """A table of `/proc/net`; None if there is none."""
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()[1:]
    except FileNotFoundError:
        return None
    except OSError as refusal:
        raise SocketsUnseen(f"the kernel's socket tables cannot be read: {path}: {refusal.strerror}") from refusal
    rows = []
    for line in lines:
        part = line.split(None, 10)
        address, _, number = part[1].rpartition(":")
        if 1 << int(part[3], 16) & states and number != "0000":
            rows.append(Socket(_address(address), int(number, 16), protocol, int(part[7]), int(part[9])))
    if not path.endswith("6"):
        return rows
    alone = {each.port for each in _read(path.removesuffix("6"), protocol, states) or ()}
    dual = [each for each in rows if each.host_ip == _ALL_V6 and each.port not in alone]
    return rows + [each._replace(host_ip=_ALL_V4) for each in dual]


@lru_cache(maxsize=1024)
def _address(text: str) -> str:
    # The kernel prints the address as native 32-bit words.
    raw = struct.pack(f"={len(text) // 8}I", *(int(text[i : i + 8], 16) for i in range(0, len(text), 8)))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def ephemeral_range(proc: str = PROC) -> tuple[int, int]:
    """First and last port that the kernel gives to clients: not to be leased."""
    try:
        with open(f"{proc}/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = file.read().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999


def reserved_ranges(proc: str = PROC) -> tuple[tuple[int, int], ...]:
    """The ports that the administrator keeps from being given to clients (`ip_local_reserved_ports`)."""
    try:
        with open(f"{proc}/sys/net/ipv4/ip_local_reserved_ports", encoding="ascii") as file:
            parts = [part.partition("-") for part in file.read().strip().split(",") if part]
        return tuple((int(low), int(high or low)) for low, _, high in parts)
    except (OSError, ValueError):
        return ()


def boot() -> dict[str, float]:
    """When the machine was started, in seconds since the epoch, and how many clock ticks a second has."""
    with contextlib.suppress(OSError, ValueError), open(f"{PROC}/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return {"at": float(line.split()[1]), "ticks": float(os.sysconf("SC_CLK_TCK"))}
    return {}

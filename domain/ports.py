"""Who holds a port, and whether a bind would succeed: decided from the sockets that were seen.

The overlap of addresses is Linux's: `0.0.0.0` covers every IPv4 address. A socket on `::` takes IPv4 along unless it
was opened for IPv6 only, which the socket table does not show: it counts as both (`net.ipv6.bindv6only` is 0 on every
distribution we know of), unless a second socket stands on IPv4, which a dual one would not have let in.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Any

from domain.observation import Listener

ALL_V4 = "0.0.0.0"  # noqa: S104 - an address to compare with, not to bind
ALL_V6 = "::"
# Where a verdict always looks, for tcp and udp.
ALWAYS = ("127.0.0.1", ALL_V4, "::1", ALL_V6)
PROTOCOLS = ("tcp", "udp")
# Linux gives outgoing connections ports from here on, so a service's port must be below (ip_local_port_range).
EPHEMERAL_START = 32768


class PortVerdict(StrEnum):
    """Whether a bind would succeed now."""

    FREE = "free"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """The verdict on one address and protocol, and the sockets that stand in the way."""

    host_ip: str
    protocol: str
    verdict: PortVerdict
    reason: str | None
    listeners: tuple[Listener, ...] = ()


def plain_address(host_ip: str) -> str:
    """An address in its shortest form: no zone, and IPv4 where it is only mapped."""
    try:
        address = ip_address(host_ip.partition("%")[0])
    except ValueError:
        return host_ip
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def overlap(first: str, second: str) -> bool:
    """Whether a socket on one address stands in the way of one on the other, same port and protocol."""
    one, other = plain_address(first), plain_address(second)
    if one == other or ALL_V6 in (one, other):
        return True
    return ALL_V4 in (one, other) and ":" not in one and ":" not in other


def in_the_way(host_ip: str, protocol: str, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """Which of a port's listeners would make a bind on that address fail."""
    same = [each for each in listeners if each.protocol == protocol]
    wanted = plain_address(host_ip)
    if ":" not in wanted and any(":" not in plain_address(each.host_ip) for each in same):
        # IPv4 has a socket of its own, so one on `::` beside it is for IPv6 only.
        same = [each for each in same if plain_address(each.host_ip) != ALL_V6]
    return tuple(each for each in same if overlap(wanted, each.host_ip))


def judge(port: int, listeners: Sequence[Listener], observed_at: datetime | None) -> list[Entry]:
    """The verdict on every address that matters: always the four of `ALWAYS`, then every other one seen.

    `listeners` are all that were seen, at `observed_at`; None means that nobody has looked yet.
    """
    here = [each for each in listeners if each.port == port]
    others = sorted({plain_address(each.host_ip) for each in here} - set(ALWAYS))
    entries = []
    for host_ip in (*ALWAYS, *others):
        for protocol in PROTOCOLS:
            if observed_at is None:
                entries.append(Entry(host_ip, protocol, PortVerdict.UNKNOWN, "not_observed"))
                continue
            found = in_the_way(host_ip, protocol, here)
            held = PortVerdict.HELD if found else PortVerdict.FREE
            entries.append(Entry(host_ip, protocol, held, "listening" if found else None, found))
    return entries


@dataclass(frozen=True, slots=True)
class Candidate:
    """A service that may be the one that listens: it is up, and has the port or the process."""

    service_id: str
    name: str
    runtime: str
    container_id: str | None
    pid: int | None
    started_at: str | None
    has_port: bool


def holder(listener: Listener, candidates: Iterable[Candidate], own_ports: Collection[int] = ()) -> dict[str, Any]:
    """Who a listener is (interface.md, Holder). Facts that are not known are None."""
    found: dict[str, Any] = {
        "kind": "process" if listener.pid is not None else "unknown",
        "running": True,
        "name": listener.name,
        "container_id": None,
        "service_id": None,
        "pid": listener.pid,
        "command": listener.command,
        "user": listener.user,
        "started_at": None,
        "own": False,
    }
    if listener.port in own_ports and listener.protocol == "tcp":
        return found | {"kind": "clos", "name": listener.name or "clos", "own": True}
    service = next((each for each in candidates if _is_it(listener, each)), None)
    if service is None:
        return found
    return found | {
        "kind": "service",
        "name": service.name,
        "container_id": service.container_id,
        "service_id": service.service_id,
        "started_at": service.started_at,
        "own": True,
    }


def _is_it(listener: Listener, service: Candidate) -> bool:
    if listener.pid is not None and listener.pid == service.pid:
        return True
    if not service.has_port:
        return False
    if service.runtime == "docker":
        # A published port is held by the engine's proxy, or by nobody that can be seen.
        return listener.pid is None or (listener.name or "").startswith("docker-proxy")
    # A process's child may be the one that listens: the lease and its being up speak for it.
    return service.runtime == "process"


def merge_holders(
    listeners: Iterable[Listener], describe: Callable[[Listener], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The holders behind some listeners, each once: a service may have a socket per address."""
    found: list[dict[str, Any]] = []
    for each in listeners:
        described = dict(describe(each))
        if described not in found:
            found.append(described)
    return found

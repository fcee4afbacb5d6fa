"""Who holds a port, and whether a bind would succeed now: decided from what was seen of sockets and containers.

The overlap of addresses is Linux's: `0.0.0.0` covers every IPv4 address, and `::` as a wish covers both families. A
fact on `::` is for IPv6 alone: whoever looks reports a socket that takes IPv4 along as two facts, on `::` and on
`0.0.0.0`. An empty address as a wish means every address.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Any

from domain.observation import Binding, Listener, PortFacts

ALL_V4 = "0.0.0.0"  # noqa: S104 - an address to compare with, not to bind
ALL_V6 = "::"
# Where a verdict always looks, for tcp and udp.
ALWAYS = ("127.0.0.1", ALL_V4, "::1", ALL_V6)
PROTOCOLS = ("tcp", "udp")
# Linux gives outgoing connections ports from here on, so a service's port must be below (ip_local_port_range).
EPHEMERAL_START = 32768
# The engine's process that listens for a container: never the holder, the container is.
_PROXY = "docker-proxy"

# The reason where a socket is bound and does not listen: no table shows it.
BOUND_ONLY = "bound_not_listening"
_HIDDEN = "run CLOS as root to see it, unless it is the kernel's own"

Fact = Listener | Binding


class PortVerdict(StrEnum):
    """Whether a bind would succeed now."""

    FREE = "free"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """The verdict on one address and protocol, its reason, and who stands in the way (interface.md, Holder)."""

    host_ip: str
    protocol: str
    verdict: PortVerdict
    reason: str | None
    holders: list[dict[str, Any]] = field(default_factory=list)


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
    one, other = plain_address(first or ALL_V6), plain_address(second or ALL_V6)
    if one == other or ALL_V6 in (one, other):
        return True
    return ALL_V4 in (one, other) and ":" not in one and ":" not in other


def _stands_in(wanted: str, fact: Fact) -> bool:
    seen = plain_address(fact.host_ip or ALL_V6)
    if seen == ALL_V6 and ":" not in wanted:
        return False
    return overlap(wanted, seen)


def is_proxy(fact: Fact) -> bool:
    """Whether it is only the engine's process that listens in a container's place."""
    return isinstance(fact, Listener) and fact.name == _PROXY


def in_the_way(host_ip: str, protocol: str, port: int, facts: PortFacts) -> tuple[Listener | Binding, ...]:
    """What would make a bind there fail now: sockets, and ports that running containers publish.

    The engine's proxy is left out where its container is known; where the engine could not be asked it is the only
    trace of a container, and stays.
    """
    wanted = plain_address(host_ip or ALL_V6)
    here = (port, protocol)
    published = [each for each in facts.bindings if each.running and (each.port, each.protocol) == here]
    bound = [
        each
        for each in facts.listeners
        if (each.port, each.protocol) == here
        and not (is_proxy(each) and any(_stands_in(plain_address(each.host_ip), other) for other in published))
    ]
    every: list[Fact] = [*published, *bound]
    return tuple(each for each in every if _stands_in(wanted, each))


def latent(host_ip: str, protocol: str, port: int, facts: PortFacts) -> tuple[Binding, ...]:
    """Stopped containers that would take that port as soon as they are started."""
    wanted = plain_address(host_ip or ALL_V6)
    stopped = [each for each in facts.bindings if (each.port, each.protocol, each.running) == (port, protocol, False)]
    return tuple(each for each in stopped if _stands_in(wanted, each))


def holder(fact: Fact, names: Mapping[str, str], own_ports: Collection[int] = ()) -> dict[str, Any]:
    """Who that is (interface.md, Holder). Facts that are not known are None; `names` maps service ids to names.

    Beyond the contract: `parents`, the process's ancestors, nearest first, and `start_ticks`, which with the pid
    tells a process from all others of this boot; a `hint` where its process cannot be seen.
    """
    return _container_holder(fact, names) if isinstance(fact, Binding) else _listener_holder(fact, names, own_ports)


def _container_holder(fact: Binding, names: Mapping[str, str]) -> dict[str, Any]:
    of_service = fact.own and fact.service_id is not None
    return _nobody() | {
        "kind": "service" if of_service else "container",
        "running": fact.running,
        "name": names.get(fact.service_id or "", fact.service_id) if of_service else fact.container_name or None,
        "container_id": fact.container_id or None,
        "service_id": fact.service_id if of_service else None,
        "own": fact.own,
    }


def _listener_holder(fact: Listener, names: Mapping[str, str], own_ports: Collection[int]) -> dict[str, Any]:
    if is_proxy(fact):
        # Not its own: it is named with what it stands for, and by no pid that somebody could end.
        return _container_holder(
            Binding(
                fact.host_ip,
                fact.port,
                fact.protocol,
                fact.container_id or "",
                fact.container_name or "",
                True,
                fact.own,
                fact.service_id,
            ),
            names,
        )
    known = _nobody() | {
        "name": fact.name,
        "pid": fact.pid,
        "command": fact.command,
        "user": fact.user,
        "start_ticks": fact.start_ticks,
        "parents": [{"pid": pid, "name": name} for pid, name in fact.parents],
        "container_id": fact.container_id,
        "own": fact.own,
    }
    if fact.own and fact.service_id is not None:
        name = names.get(fact.service_id, fact.service_id)
        return known | {"kind": "service", "service_id": fact.service_id, "name": name}
    if fact.container_id is not None:
        return known | {"kind": "container", "name": fact.container_name or fact.container_id[:12]}
    if fact.own or (fact.port in own_ports and fact.protocol == "tcp"):
        return known | {"kind": "clos", "name": fact.name or "clos", "own": True}
    return known | ({"kind": "unknown", "hint": _HIDDEN} if fact.pid is None else {"kind": "process"})


def _nobody() -> dict[str, Any]:
    nothing = dict.fromkeys(("name", "container_id", "service_id", "pid", "command", "user", "started_at"))
    return {"kind": "unknown", "running": True, **nothing, "own": False, "start_ticks": None, "parents": []}


def holders(
    host_ip: str,
    protocol: str,
    port: int,
    facts: PortFacts,
    names: Mapping[str, str],
    own_ports: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Who stands in the way of a bind there, each once, whatever the number of their sockets."""
    found: list[dict[str, Any]] = []
    for each in in_the_way(host_ip, protocol, port, facts):
        described = holder(each, names, own_ports)
        if described not in found:
            found.append(described)
    return found


# What a bind probe found on (address, protocol): a verdict and its reason.
Probes = Mapping[tuple[str, str], tuple[str, str | None]]


def judge(
    port: int,
    facts: PortFacts | None,
    names: Mapping[str, str],
    own_ports: Collection[int] = (),
    probes: Probes | None = None,
) -> list[Entry]:
    """The verdict on every address that matters: always the four of `ALWAYS`, then every other one seen.

    `facts` None means that nobody has looked yet. `probes` are what binds at the same moment met, where some were
    tried: they know of what no table shows.
    """
    return [
        _judge_one(host_ip, protocol, port, facts, names, own_ports, (probes or {}).get((host_ip, protocol)))
        for host_ip in addresses(port, facts)
        for protocol in PROTOCOLS
    ]


def addresses(port: int, facts: PortFacts | None) -> tuple[str, ...]:
    """On which addresses a verdict is given."""
    if facts is None:
        return ALWAYS
    every: list[Fact] = [*facts.listeners, *facts.bindings]
    seen = {plain_address(each.host_ip) for each in every if each.port == port}
    return (*ALWAYS, *sorted(seen - {*ALWAYS, ""}))


def _judge_one(
    host_ip: str,
    protocol: str,
    port: int,
    facts: PortFacts | None,
    names: Mapping[str, str],
    own_ports: Collection[int],
    probe: tuple[str, str | None] | None,
) -> Entry:
    if facts is None:
        return Entry(host_ip, protocol, PortVerdict.UNKNOWN, "not_observed")
    found = in_the_way(host_ip, protocol, port, facts)
    if found:
        reason = "published" if all(isinstance(each, Binding) for each in found) else "listening"
        return Entry(
            host_ip, protocol, PortVerdict.HELD, reason, holders(host_ip, protocol, port, facts, names, own_ports)
        )
    if facts.unseen:
        return Entry(
            host_ip, protocol, PortVerdict.UNKNOWN, "; ".join(facts.unseen[key] for key in sorted(facts.unseen))
        )
    if probe is None:
        return Entry(host_ip, protocol, PortVerdict.FREE, None)
    verdict, why = probe
    if verdict == PortVerdict.HELD.value:
        # A bind fails though nobody listens. A connection is no holder; a socket that is only bound is somebody's.
        return Entry(host_ip, protocol, PortVerdict.HELD, why, [_nobody()] if why == BOUND_ONLY else [])
    return Entry(host_ip, protocol, PortVerdict(verdict), why)

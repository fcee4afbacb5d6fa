"""Who wants a port that another has or wants: conflicts found in claims and in what was seen. Pure.

A claim is what a service's spec names; claims may clash, and that is what is reported here. Each conflict is one of the
kinds of interface.md, with every claimant and the holder. `out_of_range` and `reserved` by the system's own ranges only
warn: a bind would succeed today.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from domain import port_runs, ports
from domain.errors import describe_holder
from domain.observation import Binding, Listener, PortFacts


class ConflictKind(StrEnum):
    """What a conflict is about."""

    DUPLICATE_CLAIM = "duplicate_claim"
    FOREIGN_CONTAINER = "foreign_container"
    LATENT_CLAIM = "latent_claim"
    FOREIGN_PROCESS = "foreign_process"
    STRAY_INSTANCE = "stray_instance"
    OUT_OF_RANGE = "out_of_range"
    RESERVED = "reserved"


class ConflictStatus(StrEnum):
    """Where a conflict stands: ignored ones last, but nobody is told of them."""

    ACTIVE = "active"
    IGNORED = "ignored"
    RESOLVED = "resolved"


OPEN = frozenset({ConflictStatus.ACTIVE, ConflictStatus.IGNORED})
# Somebody has the port now, so that a start would fail.
HELD = frozenset({ConflictKind.FOREIGN_CONTAINER, ConflictKind.FOREIGN_PROCESS, ConflictKind.STRAY_INSTANCE})
WARNINGS = frozenset({ConflictKind.OUT_OF_RANGE})


@dataclass(frozen=True, slots=True)
class Claim:
    """One port of one service's spec. `leased`: the lease of it is this service's. `up`: it was last seen to run."""

    service_id: str
    port: int
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"
    port_name: str = ""
    project: str = "development"
    leased: bool = True
    up: bool = False
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """All that conflicts are found in. `names` maps service ids to names, `ranges` projects to their ranges.

    `facts` None: nobody has looked at the host yet; then only claims are compared.
    """

    claims: Sequence[Claim]
    facts: PortFacts | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    own_ports: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One conflict as it is now."""

    kind: ConflictKind
    port: int
    host_ip: str
    protocol: str
    claimants: tuple[str, ...]
    holder: Mapping[str, Any] | None
    detail: str

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What makes it the same conflict as one that was found before."""
        return (self.kind.value, self.port, self.protocol, self.host_ip)


def detect(world: World) -> list[Found]:
    """Every conflict, each once, in the order of ports."""
    by_socket: dict[tuple[int, str], list[Claim]] = {}
    for claim in world.claims:
        by_socket.setdefault((claim.port, claim.protocol), []).append(claim)
    found: list[Found] = []
    for _, claims in sorted(by_socket.items()):
        ordered = sorted(claims, key=lambda each: each.service_id)
        duplicates = _duplicates(ordered, world)
        found += duplicates
        both = {service_id for each in duplicates for service_id in each.claimants}
        for claim in ordered:
            found += _held(claim, both, world) + _latent(claim, both, world)
    merged = _merged([*found, *_warnings(world)])
    return sorted(merged, key=lambda each: (each.port, each.protocol))


def before_start(world: World, starting: Collection[str]) -> list[Found]:
    """Of all conflicts those that would make a start of these services fail now: no warning, and no latent claim.

    Of a duplicate that is so where another claimant runs, or where several of them are to start.
    """
    return [found for found in detect(world) if _stops(found, set(starting), world)]


def _stops(found: Found, starting: set[str], world: World) -> bool:
    named = starting & set(found.claimants)
    if not named or found.kind in HELD:
        return bool(named)
    others = set(found.claimants) - named
    return found.kind is ConflictKind.DUPLICATE_CLAIM and (
        len(named) > 1 or any(claim.up and claim.service_id in others for claim in world.claims)
    )


def _duplicates(claims: Sequence[Claim], world: World) -> list[Found]:
    """Services whose claims overlap, each cluster once: claims that overlap a common one belong together."""
    found = []
    left = list(claims)
    while left:
        cluster = [left.pop(0)]
        grew = True
        while grew:
            joined = [c for c in left if any(ports.overlap(c.host_ip, other.host_ip) for other in cluster)]
            left = [c for c in left if c not in joined]
            cluster += joined
            grew = bool(joined)
        ids = tuple(sorted({each.service_id for each in cluster}))
        if len(ids) > 1:
            found.append(_duplicate(cluster, ids, world))
    return found


def _duplicate(cluster: Sequence[Claim], ids: tuple[str, ...], world: World) -> Found:
    first = min(cluster, key=lambda each: (each.host_ip, each.service_id))
    has = next((c for c in cluster if c.leased), None) or next((c for c in cluster if c.up), None)
    detail = f"{', '.join(ids[:-1])} and {ids[-1]} claim the same port {first.port}/{first.protocol}"
    if has is not None:
        detail += f"; {has.service_id} has the lease" if has.leased else f"; {has.service_id} runs on it"
    return Found(
        ConflictKind.DUPLICATE_CLAIM,
        first.port,
        first.host_ip,
        first.protocol,
        ids,
        None if has is None else service_holder(has.service_id, world.names, has.up),
        detail,
    )


def service_holder(service_id: str, names: Mapping[str, str], running: bool) -> dict[str, Any]:
    """A service as a Holder (interface.md) where nothing was seen of its instance."""
    nothing = dict.fromkeys(("container_id", "pid", "command", "user", "started_at"))
    return {
        "kind": "service",
        "running": running,
        "name": names.get(service_id, service_id),
        "service_id": service_id,
        **nothing,
        "own": True,
    }


def _warnings(world: World) -> list[Found]:
    """What only warns: one for each run of consecutive ports of a service that are warned of for the same cause.

    A service may publish a thousand ports, and each conflict costs a row, an event and options, all in one transaction.
    """
    by_cause: dict[tuple[ConflictKind, str, str, str, str], set[int]] = {}
    for claim in world.claims:
        if (cause := _cause(claim, world)) is not None:
            by_cause.setdefault((*cause, claim.service_id, claim.host_ip, claim.protocol), set()).add(claim.port)
    found = []
    for (kind, because, service_id, host_ip, protocol), numbers in sorted(by_cause.items()):
        for spans in port_runs.told_together(port_runs.runs(numbers)):
            detail = f"{port_runs.called(spans, protocol)} of {service_id} {because}"
            found.append(Found(kind, spans[0][0], host_ip, protocol, (service_id,), None, detail))
    return found


def _cause(claim: Claim, world: World) -> tuple[ConflictKind, str] | None:
    """What is to be warned of about one claim, and why."""
    if claim.port in world.own_ports and claim.protocol == "tcp":
        return ConflictKind.RESERVED, "is CLOS's own"
    if because := _reserved(claim.port, world.facts):
        return ConflictKind.RESERVED, because
    ranges = world.ranges.get(claim.project)
    if not ranges or any(low <= claim.port <= high for low, high in ranges):
        return None
    spans = ", ".join(f"{low}-{high}" for low, high in ranges)
    return ConflictKind.OUT_OF_RANGE, f"lies outside of the ranges of project {claim.project} ({spans})"


def _reserved(port: int, facts: PortFacts | None) -> str | None:
    if facts is None:
        return None
    if any(low <= port <= high for low, high in facts.reserved):
        return "is reserved by the system (net.ipv4.ip_local_reserved_ports)"
    low, high = facts.ephemeral
    if low <= port <= high:
        return f"lies in {low}-{high}, from which the system gives ports to outgoing connections at any moment"
    return None


def _held(claim: Claim, duplicates: Collection[str], world: World) -> list[Found]:
    if world.facts is None:
        return []
    by_kind: dict[ConflictKind, list[Listener | Binding]] = {}
    for fact in ports.in_the_way(claim.host_ip, claim.protocol, claim.port, world.facts):
        if fact.service_id == claim.service_id and fact.own:
            continue
        if fact.own and fact.service_id in duplicates:
            continue  # the duplicate claim tells of it
        if isinstance(fact, Listener) and fact.port in world.own_ports and fact.service_id is None:
            continue  # CLOS itself: `reserved` tells of it
        by_kind.setdefault(_kind(fact), []).append(fact)
    return [_taken(kind, claim, facts, world) for kind, facts in sorted(by_kind.items())]


def _kind(fact: Listener | Binding) -> ConflictKind:
    if fact.own:
        return ConflictKind.STRAY_INSTANCE
    if fact.container_id is not None or ports.is_proxy(fact):  # a proxy without its engine: some container's
        return ConflictKind.FOREIGN_CONTAINER
    return ConflictKind.FOREIGN_PROCESS


def _taken(kind: ConflictKind, claim: Claim, facts: Sequence[Listener | Binding], world: World) -> Found:
    holder = ports.holder(_head(facts), world.names, world.own_ports)
    detail = (
        f"port {claim.port}/{claim.protocol}, which {claim.service_id} claims, is held by {describe_holder(holder)}"
    )
    return Found(kind, claim.port, claim.host_ip, claim.protocol, (claim.service_id,), holder, detail)


def _head(facts: Sequence[Listener | Binding]) -> Listener | Binding:
    """Of several holders (a pre-fork server) the one that started the others."""
    pids = {fact.pid for fact in facts if isinstance(fact, Listener)}
    for fact in facts:
        if not isinstance(fact, Listener) or not any(pid in pids for pid, _name in fact.parents):
            return fact
    return facts[0]


def _latent(claim: Claim, duplicates: Collection[str], world: World) -> list[Found]:
    if world.facts is None:
        return []
    for binding in ports.latent(claim.host_ip, claim.protocol, claim.port, world.facts):
        if binding.own and (binding.service_id == claim.service_id or binding.service_id in duplicates):
            continue
        holder = ports.holder(binding, world.names, world.own_ports)
        detail = (
            f"the stopped container {binding.container_name} takes port {claim.port}/{claim.protocol}, which "
            f"{claim.service_id} claims, as soon as it is started"
        )
        kind, claimants = ConflictKind.LATENT_CLAIM, (claim.service_id,)
        return [Found(kind, claim.port, claim.host_ip, claim.protocol, claimants, holder, detail)]
    return []


def _merged(found: Iterable[Found]) -> list[Found]:
    """Two claimants of one address in the same conflict are one conflict."""
    by_key: dict[tuple[str, int, str, str], Found] = {}
    for each in found:
        before = by_key.get(each.key)
        if before is None:
            by_key[each.key] = each
            continue
        ids = tuple(sorted({*before.claimants, *each.claimants}))
        by_key[each.key] = replace(before, claimants=ids)
    return list(by_key.values())

"""A conflict with what judging it needs: who could move and whereto, who refers to it, who runs, what policy says."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.configuration import Conflicts
from domain.conflicts import ConflictKind, Found
from domain.errors import RangeFull
from domain.resolving import policy_of
from domain.states import UP, Desired
from domain.strategies import Move, Situation
from models import registry_ports, resolved_specs
from models.groups import Group
from models.ports import PortClaim, PortConflict, PortLease
from models.services import Service

_MAY_MOVE = 3
# For so many conflicts of one look a port to move to is looked for.
MOST_SOUGHT = 50
_UP = frozenset(status.value for status in UP)
_CLAIMANTS = select(
    Service.id, Service.status, Service.desired, Service.created_at, Group.project, Group.conflicts
).outerjoin(Group, Group.name == Service.group_name)


def found_of(row: PortConflict) -> Found:
    """A kept conflict as a value."""
    return Found(
        ConflictKind(row.kind),
        row.port,
        row.host_ip,
        row.protocol,
        tuple(row.claimants or ()),
        row.holder,
        row.detail or "",
    )


@dataclass(frozen=True, slots=True)
class Near:
    """What some conflicts are judged by, read at once: a service can have a thousand of them.

    `services` are their claimants, `leased` who has the lease of which port, `names` the claims' by service, port and
    protocol, `dependents` the running ones that refer to a service.
    """

    services: Mapping[str, Any]
    leased: Mapping[tuple[int, str], str | None]
    names: Mapping[tuple[str, int, str], str]
    dependents: Mapping[str, Sequence[str]]
    up: frozenset[str]
    waiting: frozenset[str]


def near(session: Session, found: Sequence[Found]) -> Near:
    """What is near these conflicts; in a number of statements that does not depend on how many they are."""
    claimants = {each for conflict in found for each in conflict.claimants}
    ids = claimants | {str(held) for each in found if (held := (each.holder or {}).get("service_id"))}
    referring = resolved_specs.referencing(session, ids, by_host_port=True)
    up = set(session.scalars(select(Service.id).where(Service.id.in_({*ids, *referring}), Service.status.in_(_UP))))
    dependents: dict[str, list[str]] = {}
    for consumer in sorted(up.intersection(referring)):
        for provider in referring[consumer] - {consumer}:
            dependents.setdefault(provider, []).append(consumer)
    rows = session.execute(_CLAIMANTS.where(Service.id.in_(claimants))).all()
    numbers = {each.port for each in found}
    leases = session.execute(
        select(PortLease.port, PortLease.protocol, PortLease.service_id).where(PortLease.port.in_(numbers))
    )
    return Near(
        {row.id: row for row in rows},
        {(row.port, row.protocol): row.service_id for row in leases},
        _names(session, claimants, numbers),
        dependents,
        frozenset(up),
        frozenset(row.id for row in rows if row.desired == Desired.RUNNING.value) - up,
    )


def _names(session: Session, claimants: Collection[str], numbers: Collection[int]) -> dict[tuple[str, int, str], str]:
    """What the claimants call these ports; the first claim of a port counts."""
    claims = session.execute(
        select(PortClaim.service_id, PortClaim.port, PortClaim.protocol, PortClaim.name)
        .where(PortClaim.service_id.in_(claimants), PortClaim.source == "spec", PortClaim.port.in_(numbers))
        .order_by(PortClaim.position.desc())
    ).all()
    return {(str(each.service_id), int(each.port or 0), each.protocol): each.name for each in claims}


def situation(
    session: Session,
    row: PortConflict,
    own_ports: Collection[int] = (),
    *,
    service_id: str | None = None,
    port: int | None = None,
    avoid: Collection[int] = (),
    installation: Conflicts | None = None,
) -> Situation:
    """A conflict with all that judging it needs. `service_id`: who should move; `avoid`: ports that are out of the
    question, beside those that are taken."""
    found = found_of(row)
    around = near(session, [found])
    movers = None if service_id is None else [service_id]
    return _judged(session, found, around, {*own_ports, *avoid}, movers=movers, port=port, installation=installation)


def situations(session: Session, rows: Sequence[PortConflict], own_ports: Collection[int] = ()) -> list[Situation]:
    """Many conflicts with what judging them needs, of which the record is asked once; in their order.

    Of many only the first get a port looked for to which a service could move: that takes statements of its own, and
    whoever resolves one of the others has it looked for then.
    """
    if not rows:
        return []
    found = [found_of(row) for row in rows]
    around = near(session, found)
    return [_judged(session, each, around, own_ports, seek=place < MOST_SOUGHT) for place, each in enumerate(found)]


def _judged(
    session: Session,
    found: Found,
    around: Near,
    avoid: Collection[int],
    *,
    movers: Sequence[str] | None = None,
    port: int | None = None,
    installation: Conflicts | None = None,
    seek: bool = True,
) -> Situation:
    moves: list[Move] = []
    for each in (_movers(found, around) if movers is None else movers)[:_MAY_MOVE]:
        out = frozenset({*avoid, found.port, *(move.to_port or 0 for move in moves)})
        moves += _moves(session, each, found, around, out, seek)
    ids = {*found.claimants, *filter(None, [(found.holder or {}).get("service_id")])}
    dependents = {provider: around.dependents.get(provider, ()) for provider in ids}
    first = around.services.get(moves[0].service_id if moves else next(iter(found.claimants), ""))
    policy = policy_of(installation or Conflicts(), None if first is None else first.conflicts)
    return Situation(found, tuple(moves), dependents, policy.dependents == "restart", around.up, around.waiting, port)


def policy_for(session: Session, installation: Conflicts, service_id: str, on_conflict: str | None = None) -> Conflicts:
    """What is done about the conflicts of one service: its group's policy, and a request's `on_conflict`."""
    of_group = session.scalar(
        select(Group.conflicts).join(Service, Service.group_name == Group.name).where(Service.id == service_id)
    )
    return policy_of(installation, of_group, on_conflict)


def _movers(found: Found, around: Near) -> list[str]:
    """Who should move first: who has no lease of the port, then who does not run, then the youngest."""
    holder_id = (found.holder or {}).get("service_id")
    leased = around.leased.get((found.port, found.protocol))
    services = [around.services[each] for each in found.claimants if each in around.services]
    youngest_first = sorted(services, key=lambda each: (each.created_at, each.id), reverse=True)
    ordered = sorted(youngest_first, key=lambda each: (each.id == leased, each.status in _UP, each.id == holder_id))
    return [each.id for each in ordered]


def _moves(
    session: Session, service_id: str, found: Found, around: Near, avoid: frozenset[int], seek: bool
) -> list[Move]:
    name = around.names.get((service_id, found.port, found.protocol))
    if name is None:
        return []
    row = around.services.get(service_id)
    project = (None if row is None else row.project) or "development"
    to_port: int | None = None
    if seek:
        with suppress(RangeFull):
            to_port = registry_ports.candidate(session, service_id, name, project, found.protocol, avoid)
    return [Move(service_id, found.protocol, found.port, to_port, name)]

"""A conflict with what judging it needs: who could move and whereto, who refers to it, who runs, what policy says."""

from collections.abc import Collection

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
_UP = frozenset(status.value for status in UP)


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
    movers = [service_id] if service_id is not None else _movers(session, found)
    moves: list[Move] = []
    for each in movers[:_MAY_MOVE]:
        moves += _moves(
            session, each, found, frozenset({*avoid, *own_ports, found.port, *(m.to_port or 0 for m in moves)})
        )
    ids = {*found.claimants, *filter(None, [(found.holder or {}).get("service_id")])}
    referring = resolved_specs.referencing(session, ids, by_host_port=True)
    up = set(session.scalars(select(Service.id).where(Service.id.in_({*ids, *referring}), Service.status.in_(_UP))))
    dependents = {
        provider: sorted(c for c, providers in referring.items() if provider in providers and c in up and c != provider)
        for provider in ids
    }
    wanted = select(Service.id).where(Service.id.in_(found.claimants), Service.desired == Desired.RUNNING.value)
    waiting = frozenset(session.scalars(wanted)) - up
    mover = moves[0].service_id if moves else next(iter(found.claimants), "")
    restarts = policy_for(session, installation or Conflicts(), mover).dependents == "restart"
    return Situation(found, tuple(moves), dependents, restarts, frozenset(up), waiting, port)


def policy_for(session: Session, installation: Conflicts, service_id: str, on_conflict: str | None = None) -> Conflicts:
    """What is done about the conflicts of one service: its group's policy, and a request's `on_conflict`."""
    of_group = session.scalar(
        select(Group.conflicts).join(Service, Service.group_name == Group.name).where(Service.id == service_id)
    )
    return policy_of(installation, of_group, on_conflict)


def _movers(session: Session, found: Found) -> list[str]:
    """Who should move first: who has no lease of the port, then who does not run, then the youngest."""
    holder_id = (found.holder or {}).get("service_id")
    services = session.execute(
        select(Service.id, Service.status, Service.created_at).where(Service.id.in_(found.claimants))
    ).all()
    leased = set(
        session.scalars(
            select(PortLease.service_id).where(PortLease.port == found.port, PortLease.protocol == found.protocol)
        )
    )
    youngest_first = sorted(services, key=lambda each: (each.created_at, each.id), reverse=True)
    ordered = sorted(youngest_first, key=lambda each: (each.id in leased, each.status in _UP, each.id == holder_id))
    return [each.id for each in ordered]


def _moves(session: Session, service_id: str, found: Found, avoid: frozenset[int]) -> list[Move]:
    claims = session.scalars(
        select(PortClaim)
        .where(
            PortClaim.service_id == service_id,
            PortClaim.source == "spec",
            PortClaim.port == found.port,
            PortClaim.protocol == found.protocol,
        )
        .order_by(PortClaim.position)
    ).all()
    project = session.scalar(
        select(Group.project).join(Service, Service.group_name == Group.name).where(Service.id == service_id)
    )
    moves = []
    for each in claims[:1]:
        try:
            to_port: int | None = registry_ports.candidate(
                session, service_id, each.name, project or "development", found.protocol, avoid
            )
        except RangeFull:
            to_port = None
        moves.append(Move(service_id, found.protocol, found.port, to_port, each.name))
    return moves

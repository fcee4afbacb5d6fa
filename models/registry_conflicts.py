"""Conflicts as the record keeps them: found again while they last, told of once, closed when their cause is gone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain import conflicts as decide
from domain import strategies
from domain.conflicts import OPEN, Claim, ConflictStatus, Found, World
from domain.errors import ClosError, NotFound
from domain.events import EventType, Severity
from domain.observation import PortFacts
from domain.specs import RuntimeKind
from domain.states import UP, Desired
from models import conflict_situations, events, registry_verdicts
from models.base import now, written
from models.groups import Group
from models.ports import PortClaim, PortConflict, PortLease, PortRange
from models.services import Service

_ACTOR = "system:conflicts"
_UP = frozenset(status.value for status in UP)


# Kind, port, protocol, address: what makes two looks find the same conflict.
Key = tuple[str, int, str, str]


class ConflictNotFound(NotFound):
    """No such conflict."""

    noun = "conflict"


class ConflictClosed(ClosError):
    """The conflict is resolved already."""

    code = "conflict_closed"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look at the conflicts changed: ids of those that began, and of those that ended."""

    opened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.opened or self.closed)


def world(session: Session, facts: PortFacts | None, own_ports: Collection[int] = ()) -> World:
    """What conflicts are found in. External services are watched, not run: what they name is no claim on a port."""
    rows = session.execute(
        select(
            PortClaim.service_id,
            PortClaim.port,
            PortClaim.host_ip,
            PortClaim.protocol,
            PortClaim.name,
            Service.name.label("service_name"),
            Service.status,
            Service.desired,
            Group.project,
            PortLease.service_id.label("lease_of"),
        )
        .join(Service, Service.id == PortClaim.service_id)
        .outerjoin(Group, Group.name == Service.group_name)
        .outerjoin(PortLease, (PortLease.port == PortClaim.port) & (PortLease.protocol == PortClaim.protocol))
        .where(
            PortClaim.source == "spec", PortClaim.port.is_not(None), Service.runtime != RuntimeKind.EXTERNAL.value
        )
        .order_by(PortClaim.service_id, PortClaim.position)
    ).all()  # fmt: skip
    ranges: dict[str, list[tuple[int, int]]] = {}
    for each in session.execute(select(PortRange.project, PortRange.start_port, PortRange.end_port)).all():
        ranges.setdefault(each.project, []).append((each.start_port, each.end_port))
    claims = [
        Claim(
            row.service_id,
            row.port,
            row.host_ip,
            row.protocol,
            row.name,
            row.project or "development",
            row.lease_of == row.service_id,
            row.status in _UP,
            row.desired == Desired.RUNNING.value,
        )
        for row in rows
    ]
    return World(claims, facts, {row.service_id: row.service_name for row in rows}, ranges, own_ports)


def refresh(
    session: Session, facts: PortFacts | None, own_ports: Collection[int] = (), hidden: Collection[Key] = ()
) -> Changes:
    """Compare what is found now with what is kept, and tell of what began and ended. In a write transaction.

    `hidden` are conflicts that a look cannot show and that last nevertheless.
    """
    return keep(session, decide.detect(world(session, facts, own_ports)), own_ports, hidden)


def is_current(
    session: Session, facts: PortFacts | None, own_ports: Collection[int] = (), hidden: Collection[Key] = ()
) -> bool:
    """Whether `refresh` would change nothing: most looks find what the last one found."""
    found = decide.detect(world(session, facts, own_ports))
    seen = {each.key for each in found}
    rows = [row for row in open_ones(session) if key_of(row) in seen or key_of(row) not in hidden]
    kept = {key_of(row): _shown_facts(row) for row in rows}
    return kept == {
        each.key: (list(each.claimants), holder, each.detail) for each, holder in _with_holders(session, found)
    }


def keep(
    session: Session, found: Iterable[Found], own_ports: Collection[int] = (), hidden: Collection[Key] = ()
) -> Changes:
    """Write down conflicts that were found: all that there are."""
    at = now()
    kept = {key_of(row): row for row in open_ones(session)}
    seen: set[Key] = set()
    opened = []
    for each, holder in _with_holders(session, found):
        seen.add(each.key)
        row = kept.get(each.key)
        if row is None:
            opened.append(_new(each, holder, at))
        else:
            row.claimants, row.holder, row.detail = list(each.claimants), holder, each.detail
    session.add_all(opened)
    session.flush()
    lasting = [*opened, *(row for key, row in kept.items() if key in seen)]
    judged = conflict_situations.situations(session, lasting, own_ports)
    for row, situation in zip(lasting, judged, strict=True):
        row.options = strategies.options(situation)
    closed = [row for key, row in kept.items() if key not in seen and key not in hidden]
    groups = _groups(session, [*opened, *closed])
    for row in opened:
        _tell(session, row, EventType.PORT_CONFLICT_DETECTED, groups)
    for row in closed:
        close(session, row, at, groups=groups)
    return Changes(tuple(row.id for row in opened), tuple(row.id for row in closed))


def open_ones(session: Session) -> Sequence[PortConflict]:
    """Those that last, ignored ones as well."""
    return session.scalars(
        select(PortConflict).where(PortConflict.status.in_([status.value for status in OPEN])).order_by(PortConflict.id)
    ).all()


def key_of(row: PortConflict) -> Key:
    """What makes it the same conflict as one that is found."""
    return (row.kind, row.port, row.protocol, row.host_ip)


def without_a_face(session: Session) -> list[PortConflict]:
    """Open conflicts whose holder nobody can see: a start ran into it, and only a bind can tell whether it lasts."""
    held = {kind.value for kind in decide.HELD}
    return [
        row
        for row in open_ones(session)
        if row.kind in held and (row.holder is None or row.holder.get("kind") == "unknown")
    ]


def add(session: Session, found: Found, own_ports: Collection[int] = ()) -> PortConflict:
    """Write down one conflict that a start has run into, though no look showed it."""
    row = next((each for each in open_ones(session) if key_of(each) == found.key), None)
    if row is not None:
        row.claimants = sorted({*(row.claimants or ()), *found.claimants})
        return row
    ((_, holder),) = _with_holders(session, [found])
    row = _new(found, holder, now())
    session.add(row)
    session.flush()
    row.options = strategies.options(conflict_situations.situation(session, row, own_ports))
    _tell(session, row, EventType.PORT_CONFLICT_DETECTED)
    return row


def _with_holders(session: Session, found: Iterable[Found]) -> list[tuple[Found, dict[str, Any] | None]]:
    """Conflicts with their holders as these are kept: with the time at which their processes began."""
    every = list(found)
    held = iter(registry_verdicts.dated(session, [dict(each.holder) for each in every if each.holder is not None]))
    return [(each, None if each.holder is None else next(held)) for each in every]


def _shown_facts(row: PortConflict) -> tuple[list[str], dict[str, Any] | None, str | None]:
    return (list(row.claimants or ()), row.holder, row.detail)


def _new(each: Found, holder: dict[str, Any] | None, at: datetime) -> PortConflict:
    return PortConflict(
        kind=each.kind.value,
        status=ConflictStatus.ACTIVE.value,
        port=each.port,
        host_ip=each.host_ip,
        protocol=each.protocol,
        claimants=list(each.claimants),
        holder=holder,
        detail=each.detail,
        detected_at=at,
    )


def close(
    session: Session,
    row: PortConflict,
    at: datetime,
    resolution: Mapping[str, Any] | None = None,
    groups: Mapping[str, str | None] | None = None,
) -> None:
    """Its cause is gone, by itself or by `resolution`. `groups`: those of services, where they are known already."""
    if row.status == ConflictStatus.RESOLVED.value:
        return
    row.status, row.resolved_at = ConflictStatus.RESOLVED.value, at
    row.resolution = None if resolution is None else dict(resolution)
    _tell(session, row, EventType.PORT_CONFLICT_RESOLVED, groups)


def ignore(session: Session, row: PortConflict, operation_id: str | None = None) -> None:
    """Leave it as it is: nobody is told of it again while it lasts.

    Raises:
        ConflictClosed: it is resolved.
    """
    require_open(row)
    row.status = ConflictStatus.IGNORED.value
    row.resolution = {"strategy": "ignore", "from_port": None, "to_port": None, "operation_id": operation_id}
    session.flush()


def _groups(session: Session, rows: Iterable[PortConflict]) -> dict[str, str | None]:
    """The groups of the services that these conflicts are about, for their events."""
    ids = {each for row in rows for each in row.claimants or ()}
    found = session.execute(select(Service.id, Service.group_name).where(Service.id.in_(ids))) if ids else ()
    return {row.id: row.group_name for row in found}


def _tell(
    session: Session, row: PortConflict, type_: EventType, groups: Mapping[str, str | None] | None = None
) -> None:
    began = type_ is EventType.PORT_CONFLICT_DETECTED
    claimants = row.claimants or []
    service_id = claimants[0] if len(claimants) == 1 else None
    known = _groups(session, [row]) if groups is None else groups
    events.append(
        session,
        type_,
        shown(row),
        severity=Severity.WARNING if began else Severity.INFO,
        actor=_ACTOR,
        service_id=service_id,
        group_name=None if service_id is None else known.get(service_id),
        operation_id=(row.resolution or {}).get("operation_id"),
    )


def shown(row: PortConflict) -> dict[str, Any]:
    """A conflict (interface.md, Conflict)."""
    return {
        "id": row.id,
        "kind": row.kind,
        "status": row.status,
        "port": row.port,
        "host_ip": row.host_ip,
        "protocol": row.protocol,
        "claimants": row.claimants or [],
        "holder": row.holder,
        "detail": row.detail,
        "options": row.options or [],
        "detected_at": written(row.detected_at),
        "resolved_at": written(row.resolved_at),
        "resolution": row.resolution,
        "undoable": row.undo is not None,
    }


def get(session: Session, conflict_id: int) -> PortConflict:
    """The conflict of that id.

    Raises:
        ConflictNotFound: there is none.
    """
    found = session.get(PortConflict, conflict_id)
    if found is None:
        raise ConflictNotFound(str(conflict_id))
    return found


def require_open(row: PortConflict) -> None:
    """Raises: ConflictClosed: it is resolved."""
    if row.status == ConflictStatus.RESOLVED.value:
        raise ConflictClosed(
            f"conflict {row.id} about port {row.port}/{row.protocol} is resolved already",
            conflict_id=row.id,
            resolution=row.resolution,
        )


def page(
    session: Session, statuses: Sequence[str] | None, after: int | None, limit: int
) -> tuple[int, Sequence[PortConflict]]:
    """How many there are of these statuses, and up to `limit` by id from after `after`."""
    wanted = [] if statuses is None else [PortConflict.status.in_(statuses)]
    total = session.scalar(select(func.count()).select_from(PortConflict).where(*wanted)) or 0
    query = select(PortConflict).where(*wanted).order_by(PortConflict.id).limit(limit)
    if after is not None:
        query = query.where(PortConflict.id > after)
    return total, session.scalars(query).all()


def on_port(session: Session, port: int) -> Sequence[PortConflict]:
    """The open conflicts of one port."""
    return [row for row in open_ones(session) if row.port == port]


def held_before_start(
    session: Session, facts: PortFacts, service_ids: Collection[str], own_ports: Collection[int] = ()
) -> list[Found]:
    """What would make a start of these services fail now."""
    return decide.before_start(world(session, facts, own_ports), service_ids)

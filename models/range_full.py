"""Who has the ports of a project whose ranges are full."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from domain.errors import RangeFull
from models import ports
from models.base import now, written
from models.ports import THIS_NODE, PortClaim, PortHistory, PortLease, PortRange, SeenListener

# Of each kind of holder so many are named, and the rest counted.
_NAMED = 20
_SAID = 5


def describe(
    session: Session,
    project: str,
    protocol: str,
    ranges: Sequence[PortRange],
    crowded: Sequence[PortRange],
    rest_s: float,
) -> RangeFull:
    """The error that says who has them; `crowded` are the ranges that admit no further service, `rest_s` how long a
    released port rests."""
    if not ranges:
        return RangeFull(
            f"project {project!r} has no port range", hint="define one: POST /api/v2/port-ranges", project=project
        )
    leased = _leased(session, protocol, ranges)
    listening = _listening(session, protocol, ranges)
    claimed = _claimed(session, protocol, ranges)
    resting = _resting(session, protocol, ranges, rest_s)
    spans = ", ".join(f"{each.start_port}-{each.end_port}" for each in ranges)
    words = [
        *_words("leased", leased),
        *_words("listened on", listening),
        *_words("claimed", claimed),
        *([f"{resting['count']} at rest until {resting['until']}"] if resting else []),
        *(f"{each.start_port}-{each.end_port} admits {each.max_services} services" for each in crowded),
    ]
    return RangeFull(
        f"every {protocol} port of project {project!r} ({spans}) is taken: {'; '.join(words) or 'all are reserved'}",
        hint="wait for those at rest" if resting and not crowded else "free one, or widen the range",
        project=project,
        protocol=protocol,
        ranges=[[each.start_port, each.end_port] for each in ranges],
        holders=leased[1],
        leased=leased[0],
        listening=listening[1],
        claimed=claimed[1],
        resting=resting,
    )


_Named = tuple[int, list[dict[str, Any]]]


def _words(how: str, found: _Named) -> list[str]:
    """`3 leased by shop-api (9000, 9001), project core (9002)`, the first few of each."""
    count, named = found
    if not count:
        return []
    ports_of: dict[str, list[str]] = {}
    for each in named:
        ports_of.setdefault(each["name"], []).append(str(each["port"]))
    names = [
        f"{name} ({', '.join(own[:_SAID])}{' …' if len(own) > _SAID else ''})"
        for name, own in list(ports_of.items())[:_SAID]
    ]
    more = " and others" if len(ports_of) > _SAID or count > len(named) else ""
    return [f"{count} {how} by {', '.join(names)}{more}"]


def _inside(column: InstrumentedAttribute[Any], ranges: Sequence[PortRange]) -> ColumnElement[bool]:
    return or_(*(column.between(each.start_port, each.end_port) for each in ranges))


def _named(
    session: Session, query: "Select[*tuple[Any, ...]]", column: InstrumentedAttribute[Any]
) -> tuple[int, Sequence[Any]]:
    count = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    return count, session.execute(query.order_by(column).limit(_NAMED)).all()


def _leased(session: Session, protocol: str, ranges: Sequence[PortRange]) -> _Named:
    query = select(PortLease.port, PortLease.service_id, PortLease.project, PortLease.expires_at).where(
        PortLease.node == THIS_NODE, PortLease.protocol == protocol, _inside(PortLease.port, ranges), ports.live()
    )
    count, rows = _named(session, query, PortLease.port)
    return count, [
        {
            "port": row.port,
            "service_id": row.service_id,
            "project": row.project,
            "expires_at": written(row.expires_at),
            "name": row.service_id or f"project {row.project}",
        }
        for row in rows
    ]


def _listening(session: Session, protocol: str, ranges: Sequence[PortRange]) -> _Named:
    query = (
        select(SeenListener.port, SeenListener.pid, SeenListener.name, SeenListener.container_name)
        .where(SeenListener.protocol == protocol, _inside(SeenListener.port, ranges))
        .where(_not_leased(SeenListener.port, protocol))
        .distinct()
    )
    count, rows = _named(session, query, SeenListener.port)
    return count, [
        {
            "port": row.port,
            "pid": row.pid,
            "name": row.container_name or row.name or (f"pid {row.pid}" if row.pid else "an unknown holder"),
        }
        for row in rows
    ]


def _claimed(session: Session, protocol: str, ranges: Sequence[PortRange]) -> _Named:
    query = (
        select(PortClaim.port, PortClaim.service_id, PortClaim.container_ref)
        .where(PortClaim.protocol == protocol, _inside(PortClaim.port, ranges))
        .where(_not_leased(PortClaim.port, protocol))
        .distinct()
    )
    count, rows = _named(session, query, PortClaim.port)
    return count, [
        {
            "port": row.port,
            "service_id": row.service_id,
            "container": row.container_ref,
            "name": row.service_id or row.container_ref,
        }
        for row in rows
    ]


def _resting(session: Session, protocol: str, ranges: Sequence[PortRange], rest_s: float) -> dict[str, Any] | None:
    """How many rest, and when the first of them has rested."""
    count, first = session.execute(
        select(func.count(), func.min(PortHistory.released_at)).where(
            PortHistory.node == THIS_NODE,
            PortHistory.protocol == protocol,
            _inside(PortHistory.port, ranges),
            PortHistory.released_at > now() - timedelta(seconds=rest_s),
            _not_leased(PortHistory.port, protocol),
        )
    ).one()
    return {"count": count, "until": written(first + timedelta(seconds=rest_s))} if count else None


def _not_leased(column: InstrumentedAttribute[Any], protocol: str) -> ColumnElement[bool]:
    same = and_(PortLease.node == THIS_NODE, PortLease.protocol == protocol, PortLease.port == column, ports.live())
    return ~select(PortLease.id).where(same).exists()

"""Who has the ports of a project whose ranges are full."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from domain.errors import RangeFull
from models import ports
from models.base import now, written
from models.ports import THIS_NODE, PortClaim, PortHistory, PortLease, PortRange, SeenListener

# Of each kind of holder so many are named, and the rest counted.
_NAMED = 20
_SAID = 5
_Named = tuple[int, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has the ports of some ranges."""

    leased: _Named
    listening: _Named
    claimed: _Named
    resting: dict[str, Any] | None

    def words(self) -> list[str]:
        """As parts of a sentence: `3 leased by shop-api (9000, 9001), project core (9002)`."""
        return [
            *_words("leased", self.leased),
            *_words("listened on", self.listening),
            *_words("claimed", self.claimed),
            *([f"{self.resting['count']} at rest until {self.resting['until']}"] if self.resting else []),
        ]

    def facts(self) -> dict[str, Any]:
        """As facts of an error."""
        return {
            "holders": self.leased[1],
            "leased": self.leased[0],
            "listening": self.listening[1],
            "claimed": self.claimed[1],
            "resting": self.resting,
        }


def holders(
    session: Session, protocol: str, ranges: Sequence[PortRange], rest_s: float, but: Collection[str] = ()
) -> Holders:
    """Who has ports of these ranges, `but` for some services; `rest_s` is how long a released port rests."""
    return Holders(
        _leased(session, protocol, ranges, but),
        _listening(session, protocol, ranges, but),
        _claimed(session, protocol, ranges, but),
        _resting(session, protocol, ranges, rest_s, but),
    )


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
    found = holders(session, protocol, ranges, rest_s)
    words = [*found.words(), *admitting(crowded)]
    return RangeFull(
        f"every {protocol} port of project {project!r} ({spans(ranges)}) is taken: "
        f"{'; '.join(words) or 'all are reserved'}",
        hint="wait for those at rest" if found.resting and not crowded else "free one, or widen the range",
        project=project,
        protocol=protocol,
        ranges=[[each.start_port, each.end_port] for each in ranges],
        **found.facts(),
    )


def spans(ranges: Sequence[PortRange]) -> str:
    """`9000-9099, 9200-9299`."""
    return ", ".join(f"{each.start_port}-{each.end_port}" for each in ranges)


def admitting(ranges: Sequence[PortRange]) -> list[str]:
    """How many services each of them admits, as parts of a sentence."""
    return [f"{each.start_port}-{each.end_port} admits {each.max_services} services" for each in ranges]


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


def _leased(session: Session, protocol: str, ranges: Sequence[PortRange], but: Collection[str]) -> _Named:
    query = (
        select(PortLease.port, PortLease.service_id, PortLease.project, PortLease.expires_at)
        .where(
            PortLease.node == THIS_NODE, PortLease.protocol == protocol, _inside(PortLease.port, ranges), ports.live()
        )
        .where(_is_none_of(PortLease.service_id, but))
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


def _listening(session: Session, protocol: str, ranges: Sequence[PortRange], but: Collection[str]) -> _Named:
    query = (
        select(SeenListener.port, SeenListener.pid, SeenListener.name, SeenListener.container_name)
        .where(SeenListener.protocol == protocol, _inside(SeenListener.port, ranges))
        .where(_not_leased(SeenListener.port, protocol), _is_none_of(SeenListener.service_id, but))
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


def _claimed(session: Session, protocol: str, ranges: Sequence[PortRange], but: Collection[str]) -> _Named:
    query = (
        select(PortClaim.port, PortClaim.service_id, PortClaim.container_ref)
        .where(PortClaim.protocol == protocol, _inside(PortClaim.port, ranges))
        .where(_not_leased(PortClaim.port, protocol), _is_none_of(PortClaim.service_id, but))
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


def _resting(
    session: Session, protocol: str, ranges: Sequence[PortRange], rest_s: float, but: Collection[str]
) -> dict[str, Any] | None:
    """How many rest, and when the first of them has rested."""
    count, first = session.execute(
        select(func.count(), func.min(PortHistory.released_at)).where(
            PortHistory.node == THIS_NODE,
            PortHistory.protocol == protocol,
            _inside(PortHistory.port, ranges),
            PortHistory.released_at > now() - timedelta(seconds=rest_s),
            _not_leased(PortHistory.port, protocol),
            _is_none_of(PortHistory.service_id, but),
        )
    ).one()
    return {"count": count, "until": written(first + timedelta(seconds=rest_s))} if count else None


def _not_leased(column: InstrumentedAttribute[Any], protocol: str) -> ColumnElement[bool]:
    same = and_(PortLease.node == THIS_NODE, PortLease.protocol == protocol, PortLease.port == column, ports.live())
    return ~select(PortLease.id).where(same).exists()


def _is_none_of(column: InstrumentedAttribute[str | None], services: Collection[str]) -> ColumnElement[bool]:
    return or_(column.is_(None), column.not_in(services)) if services else true()

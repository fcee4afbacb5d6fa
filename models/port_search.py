"""Which port a project's ranges give: lowest first, and in constant time however many are taken.

The search looks at windows of ports: first the lowest of the range, so that a range of ordinary size is always filled
from below, then from where the last search ended (`PortRange.next_port`) to the end, then the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select, true, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from domain.ports import EPHEMERAL_START
from models import ports, range_full
from models.base import now
from models.installation import SystemConfig
from models.ports import THIS_NODE, PortClaim, PortHistory, PortLease, PortRange, SeenListener

# How long a released port is given to nobody but its last holder: browsers, proxies and TIME_WAIT still mean the old.
REST_S = 120.0
_WINDOW = 512
_PAST = 16
_LAST_SCAN = "listeners.scanned"
_EPHEMERAL = (EPHEMERAL_START, 60_999)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wish:
    """For whom a port is looked for; `avoid` are ports that it must not be, CLOS's own among them."""

    project: str
    protocol: str = "tcp"
    service_id: str | None = None
    port_name: str = ""
    avoid: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SystemPorts:
    """What the operating system keeps for itself, as the last scan found it."""

    reserved: tuple[Span, ...] = ()
    ephemeral: Span = _EPHEMERAL


def system_ports(session: Session) -> SystemPorts:
    """The system's ranges; its usual ones if nobody has looked yet."""
    row = session.get(SystemConfig, _LAST_SCAN)
    known = (row.value if row is not None else None) or {}
    low, high = known.get("ephemeral") or _EPHEMERAL
    return SystemPorts(tuple((int(a), int(b)) for a, b in known.get("reserved") or ()), (int(low), int(high)))


def find(session: Session, wish: Wish) -> tuple[int, PortRange]:
    """The port that this wish gets, and of which range: the one that its service had last, else the lowest free one.

    What is leased, claimed, listened on, at rest, reserved or to be avoided is not free. Ports that the system gives to
    outgoing connections come last, and only where a range was defined among them.

    Raises:
        RangeFull: none is left; it says who has them.
    """
    ranges = ports.ranges_of(session, wish.project)
    system = system_ports(session)
    open_ranges = [each for each in ranges if not _is_crowded(session, each, wish)]
    for port in _had(session, wish):
        row = next((each for each in open_ranges if each.start_port <= port <= each.end_port), None)
        if row is not None and not _taken(session, wish, (port, port), system):
            return port, row
    for row in open_ranges:
        for low, high in _windows(row, system.ephemeral):
            taken = _taken(session, wish, (low, high), system)
            if len(taken) <= high - low:
                return next(port for port in range(low, high + 1) if port not in taken), row
    crowded = [each for each in ranges if each not in open_ranges]
    full = range_full.describe(session, wish.project, wish.protocol, ranges, crowded, REST_S)
    full.service, full.crowded = wish.service_id, tuple(each.id for each in crowded)
    raise full


def moved_on(row: PortRange, port: int) -> None:
    """Let the next search begin where this one ended, but in the lowest window, where every search begins anyway."""
    lowest = row.start_port + _WINDOW
    if port >= lowest or (row.next_port or 0) < lowest:
        row.next_port = port


def _had(session: Session, wish: Wish) -> Sequence[int]:
    """The ports that its service had, the last one first."""
    if wish.service_id is None:
        return ()
    return session.scalars(
        select(PortHistory.port)
        .where(PortHistory.node == THIS_NODE, PortHistory.protocol == wish.protocol)
        .where(PortHistory.service_id == wish.service_id, PortHistory.port_name == wish.port_name)
        .order_by(PortHistory.released_at.desc(), PortHistory.port)
        .limit(_PAST)
    ).all()


def _windows(row: PortRange, ephemeral: Span) -> Iterator[Span]:
    """The spans in which to look, in their order."""
    low, high = row.start_port, row.end_port
    begin = max(low, min(row.next_port or low, high))
    steady = [*_without((low, min(low + _WINDOW - 1, high)), ephemeral)]
    for span in ((begin, high), (low, begin - 1)):
        steady += _without(span, ephemeral)
    for span in (*steady, (max(low, ephemeral[0]), min(high, ephemeral[1]))):
        for first in range(span[0], span[1] + 1, _WINDOW):
            yield first, min(first + _WINDOW - 1, span[1])


def _without(span: Span, hole: Span) -> Iterator[Span]:
    """What is left and right of a hole."""
    for low, high in ((span[0], min(span[1], hole[0] - 1)), (max(span[0], hole[1] + 1), span[1])):
        if low <= high:
            yield low, high


def _taken(session: Session, wish: Wish, span: Span, system: SystemPorts) -> set[int]:
    """The ports of a span that this wish cannot have."""
    found = set(session.scalars(union_all(*_takers(wish, span))))
    found.update(port for port in wish.avoid if span[0] <= port <= span[1])
    for low, high in system.reserved:
        found.update(range(max(low, span[0]), min(high, span[1]) + 1))
    return found


def _takers(wish: Wish, span: Span) -> Iterable[Select[Any]]:
    """Each way to have a port. A service's own container, instance and past do not stand in its way."""
    yield select(PortLease.port).where(
        PortLease.node == THIS_NODE, PortLease.protocol == wish.protocol, PortLease.port.between(*span), ports.live()
    )
    yield select(PortClaim.port).where(
        PortClaim.protocol == wish.protocol, PortClaim.port.between(*span), _is_not(PortClaim.owner_id, wish)
    )
    yield select(SeenListener.port).where(
        SeenListener.protocol == wish.protocol, SeenListener.port.between(*span), _is_not(SeenListener.service_id, wish)
    )
    yield select(PortHistory.port).where(
        PortHistory.node == THIS_NODE,
        PortHistory.protocol == wish.protocol,
        PortHistory.port.between(*span),
        PortHistory.released_at > now() - timedelta(seconds=REST_S),
        _is_not(PortHistory.service_id, wish),
    )


def _is_not(column: InstrumentedAttribute[str | None], wish: Wish) -> ColumnElement[bool]:
    return true() if wish.service_id is None else or_(column.is_(None), column != wish.service_id)


def _is_crowded(session: Session, row: PortRange, wish: Wish) -> bool:
    """Whether as many services as the range admits have ports in it, and this is none of them.

    A lease without a service counts as one.
    """
    if row.max_services is None:
        return False
    inside = select(PortLease.id).where(
        PortLease.node == THIS_NODE, PortLease.port.between(row.start_port, row.end_port), ports.live()
    )
    if wish.service_id is not None and session.scalar(inside.where(PortLease.service_id == wish.service_id).limit(1)):
        return False
    named = inside.with_only_columns(PortLease.service_id).where(PortLease.service_id.is_not(None)).distinct()
    count = select(func.count())
    services = session.scalar(count.select_from(named.limit(row.max_services).subquery())) or 0
    unnamed = inside.where(PortLease.service_id.is_(None)).limit(row.max_services)
    return services + (session.scalar(count.select_from(unnamed.subquery())) or 0) >= row.max_services

"""Who has a port: leases are given, moved on and ended here, and it is remembered who had a port last.

Whoever calls this holds the write transaction, which is exclusive over all processes; so what is read here is still so
when it is written.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import PortHeld
from models import port_search, ports
from models.base import now
from models.groups import Group
from models.ports import THIS_NODE, PortClaim, PortHistory, PortLease
from models.services import Service

_AT_ONCE = 2000
# So many are ended in passing by an allocation, which must stay short.
_MEANWHILE = 50


def lease(
    session: Session,
    project: str,
    *,
    protocol: str = "tcp",
    host_ip: str = "127.0.0.1",
    service_id: str | None = None,
    port_name: str = "",
    preferred: int | None = None,
    expires_at: datetime | None = None,
    avoid: Collection[int] = (),
) -> PortLease:
    """Lease the preferred port if nobody has it, else the one that the project's ranges give (`port_search`).

    `avoid` are ports that CLOS keeps for itself. Whether somebody listens on the preferred one, or had it a moment ago,
    is its caller's to judge, who has chosen it.

    Raises:
        RangeFull: no port is left; it says who has them.
    """
    expire(session, _MEANWHILE)
    port = preferred
    if port is None or holder(session, port, protocol) is not None:
        wish = port_search.Wish(project, protocol, service_id, port_name, frozenset(avoid))
        port, row = port_search.find(session, wish)
        port_search.moved_on(row, port)
    return grant(session, port, project, protocol, host_ip, service_id, port_name, expires_at)


def holder(session: Session, port: int, protocol: str = "tcp") -> PortLease | None:
    """Who has that port, if anybody; a lease that is found expired is ended."""
    found = session.scalar(
        select(PortLease).where(PortLease.node == THIS_NODE, PortLease.protocol == protocol, PortLease.port == port)
    )
    if found is None or found.expires_at is None or found.expires_at > now():
        return found
    release(session, [found])
    return ports.lease_holder(session, port, protocol)


def grant(
    session: Session,
    port: int,
    project: str,
    protocol: str = "tcp",
    host_ip: str = "127.0.0.1",
    service_id: str | None = None,
    port_name: str = "",
    expires_at: datetime | None = None,
) -> PortLease:
    """Write down who has that port from now on.

    Raises:
        PortHeld: somebody has it.
    """
    if (other := holder(session, port, protocol)) is not None:
        raise PortHeld(port, protocol, other.host_ip, as_holder(session, other))
    granted = PortLease(
        port=port,
        project=project,
        protocol=protocol,
        host_ip=host_ip,
        service_id=service_id,
        port_name=port_name,
        expires_at=expires_at,
    )
    session.add(granted)
    session.flush()
    return granted


def release(session: Session, leases: Iterable[PortLease]) -> None:
    """End leases; a service that claimed such a port in vain has it from now on."""
    ended = list(leases)
    for each in ended:
        remember(session, each)
        session.delete(each)
    session.flush()
    for each in ended:
        hand_over(session, each.protocol, each.port, each.service_id)


def expire(session: Session, at_once: int = _AT_ONCE) -> int:
    """End leases whose time is over, the last ones first: these still rest. How many these were, at most `at_once`."""
    over = select(PortLease).where(PortLease.expires_at <= now())
    rows = session.scalars(over.order_by(PortLease.expires_at.desc()).limit(at_once)).all()
    release(session, rows)
    return len(rows)


def remember(session: Session, ended: PortLease) -> None:
    """Write down who had a port until now: it comes first where that service asks again, and rests for the others."""
    session.merge(
        PortHistory(
            node=ended.node,
            protocol=ended.protocol,
            port=ended.port,
            project=ended.project,
            service_id=ended.service_id,
            port_name=ended.port_name,
            released_at=min(now(), ended.expires_at or now()),
        )
    )


def hand_over(session: Session, protocol: str, port: int, leaver: str | None) -> None:
    """Lease a port that nobody has to the service that has claimed it in vain for longest, `leaver` apart."""
    heir = session.execute(
        select(PortClaim, Group.project)
        .join(Service, Service.id == PortClaim.service_id)
        .outerjoin(Group, Group.name == Service.group_name)
        .where(PortClaim.protocol == protocol, PortClaim.port == port, PortClaim.source == "spec")
        .where(Service.id != (leaver or ""))
        .order_by(PortClaim.id)
        .limit(1)
    ).first()
    if heir is not None:
        claim, project = heir
        grant(session, port, project or "development", protocol, claim.host_ip, claim.service_id, claim.name)


def as_holder(session: Session, held: PortLease) -> Mapping[str, Any]:
    """Who has a lease, as a Holder (interface.md): its service, or the project for which somebody asked for it."""
    service = None if held.service_id is None else session.get(Service, held.service_id)
    return {
        "kind": "unknown" if service is None else "service",
        "running": None,
        "name": held.service_id or f"project {held.project}",
        "container_id": None,
        "service_id": held.service_id,
        "pid": None,
        "command": None,
        "user": None,
        "started_at": None,
        "own": service is not None,
    }

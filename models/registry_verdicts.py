"""What the record says of a port: the verdict on binding it, its lease, its claims, its range."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from domain import ports as decide
from domain.observation import Listener
from domain.states import UP
from models.base import now, written
from models.installation import SystemConfig
from models.ports import THIS_NODE, PortClaim, PortLease, PortRange, SeenListener
from models.services import Service

_SCANNED = "listeners.scanned"


def record_scan(session: Session, at: datetime) -> None:
    """Say that the socket table was read at `at`; an unchanged one leaves no other trace."""
    row = session.get(SystemConfig, _SCANNED)
    if row is None:
        row = SystemConfig(key=_SCANNED)
        session.add(row)
    row.value = {"at": at.isoformat()}


def scanned_at(session: Session) -> datetime | None:
    """When the socket table was last read; None if never."""
    row = session.get(SystemConfig, _SCANNED)
    if row is not None and row.value:
        return datetime.fromisoformat(row.value["at"])
    return session.scalar(select(func.max(SeenListener.observed_at)))


def listener_of(row: SeenListener) -> Listener:
    """A recorded socket as a value."""
    return Listener(row.host_ip, row.port, row.protocol, row.pid, row.name, row.command, row.user, row.start_ticks)


def candidates(session: Session, port: int, pids: Collection[int]) -> list[decide.Candidate]:
    """The services that may be the ones that listen on a port: up, and theirs is the lease or the process."""
    leased = select(PortLease.service_id).where(PortLease.port == port, PortLease.service_id.is_not(None))
    rows = session.execute(
        select(
            Service.id,
            Service.name,
            Service.runtime,
            Service.container_id,
            Service.pid,
            Service.started_at,
            Service.id.in_(leased).label("has_port"),
        )
        .where(Service.status.in_([status.value for status in UP]))
        .where(or_(Service.id.in_(leased), Service.pid.in_(pids)))
        .order_by(Service.id)
    )
    return [
        decide.Candidate(
            row.id, row.name, row.runtime, row.container_id, row.pid, written(row.started_at), bool(row.has_port)
        )
        for row in rows
    ]


def holders(
    session: Session, port: int, listeners: Sequence[Listener], own_ports: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Who stands behind some listeners of a port (interface.md, Holder)."""
    known = candidates(session, port, {each.pid for each in listeners if each.pid is not None})
    return decide.merge_holders(listeners, lambda each: decide.holder(each, known, own_ports))


def listeners_on(session: Session, port: int) -> list[Listener]:
    """Who was last seen to listen on a port."""
    rows = session.scalars(select(SeenListener).where(SeenListener.port == port).order_by(SeenListener.id))
    return [listener_of(row) for row in rows]


def verdict(session: Session, port: int, own_ports: Collection[int] = ()) -> dict[str, Any]:
    """Everything that is known of a port, as it was last seen (interface.md, Verdict). JSON values only."""
    observed_at = scanned_at(session)
    found = listeners_on(session, port)
    entries = decide.judge(port, found, observed_at)
    leases = _leases(session, port)
    held = any(each.verdict is decide.PortVerdict.HELD and each.protocol == "tcp" for each in entries)
    return {
        "port": port,
        "observed_at": written(observed_at),
        "allocatable": not held and port not in own_ports and not any(each.protocol == "tcp" for each in leases),
        "entries": [
            {
                "host_ip": each.host_ip,
                "protocol": each.protocol,
                "verdict": each.verdict.value,
                "reason": each.reason,
                "holders": holders(session, port, each.listeners, own_ports) if each.listeners else [],
            }
            for each in entries
        ],
        "lease": lease_shown(leases[0]) if leases else None,
        "claims": [claim_shown(each) for each in _claims(session, port)],
        "range": _range(session, port),
    }


def _leases(session: Session, port: int) -> Sequence[PortLease]:
    return session.scalars(
        select(PortLease)
        .where(
            PortLease.node == THIS_NODE,
            PortLease.port == port,
            or_(PortLease.expires_at.is_(None), PortLease.expires_at > now()),
        )
        .order_by(PortLease.protocol)
    ).all()


def _claims(session: Session, port: int) -> Sequence[PortClaim]:
    return session.scalars(select(PortClaim).where(PortClaim.port == port).order_by(PortClaim.id).limit(100)).all()


def _range(session: Session, port: int) -> dict[str, Any] | None:
    row = session.scalar(
        select(PortRange).where(PortRange.start_port <= port, PortRange.end_port >= port).order_by(PortRange.id)
    )
    return None if row is None else range_shown(row, used(session, [row])[row.id])


def used(session: Session, ranges: Sequence[PortRange]) -> dict[int, int]:
    """How many ports of each range are leased."""
    leased = sorted(
        set(
            session.scalars(
                select(PortLease.port).where(or_(PortLease.expires_at.is_(None), PortLease.expires_at > now()))
            )
        )
    )
    return {each.id: sum(each.start_port <= port <= each.end_port for port in leased) for each in ranges}


def range_shown(row: PortRange, in_use: int) -> dict[str, Any]:
    """A range (interface.md, PortRange)."""
    size = row.end_port - row.start_port + 1
    return {
        "id": row.id,
        "project": row.project,
        "start_port": row.start_port,
        "end_port": row.end_port,
        "description": row.description,
        "priority": row.priority,
        "max_services": row.max_services,
        "used": in_use,
        "usage_percent": round(100 * in_use / size, 1),
    }


def lease_shown(row: PortLease) -> dict[str, Any]:
    """A lease (interface.md, Lease)."""
    return {
        "id": row.id,
        "port": row.port,
        "host_ip": row.host_ip,
        "protocol": row.protocol,
        "project": row.project,
        "service_id": row.service_id,
        "port_name": row.port_name,
        "created_at": written(row.created_at),
        "expires_at": written(row.expires_at),
    }


def claim_shown(row: PortClaim) -> dict[str, Any]:
    """A claim, by a service or a container."""
    return {
        "service_id": row.service_id,
        "container": row.container_ref,
        "port": row.port,
        "host_ip": row.host_ip,
        "protocol": row.protocol,
        "latent": bool(row.latent),
        "source": row.source,
    }


def listener_shown(row: SeenListener) -> dict[str, Any]:
    """A socket as it was last seen."""
    return {
        "host_ip": row.host_ip,
        "port": row.port,
        "protocol": row.protocol,
        "pid": row.pid,
        "name": row.name,
        "command": row.command,
        "user": row.user,
        "observed_at": written(row.observed_at),
    }

"""What the record says of a port: the verdict on binding it, its lease, its claims, its range."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from domain import ports as decide
from domain.observation import PortFacts
from models import port_facts
from models.base import now, written
from models.port_facts import dated, facts, holders, listeners_on, names, record_facts, record_scan, scanned_at
from models.ports import THIS_NODE, PortClaim, PortLease, PortRange, SeenListener

__all__ = ["dated", "facts", "holders", "listeners_on", "names", "record_facts", "record_scan", "scanned_at"]
_MOST_CLAIMS = 100
_PROCESS = ("pid", "name", "command", "user")


def verdict(
    session: Session,
    port: int,
    own_ports: Collection[int] = (),
    seen: PortFacts | None = None,
    probes: decide.Probes | None = None,
) -> dict[str, Any]:
    """Everything that is known of a port (interface.md, Verdict). JSON values only.

    As it was last seen; or, with `seen` and `probes`, as a look found it just now.
    """
    looked = seen or port_facts.facts(session, port)
    called = port_facts.names_in(session, looked, port)
    entries = decide.judge(port, looked, called, own_ports, probes)
    leases, claims = _leases(session, port), _claims(session, port)
    return {
        "port": port,
        "observed_at": written(looked.observed_at if looked else None),
        "allocatable": _is_allocatable(session, port, own_ports, looked, entries, leases),
        "entries": [
            {
                "host_ip": each.host_ip,
                "protocol": each.protocol,
                "verdict": each.verdict.value,
                "reason": each.reason,
                "holders": port_facts.dated(session, each.holders),
            }
            for each in entries
        ],
        "lease": lease_shown(leases[0]) if leases else None,
        "claims": [claim_shown(each) for each in claims],
        "range": _range(session, port),
    }


def _is_allocatable(
    session: Session,
    port: int,
    own_ports: Collection[int],
    looked: PortFacts | None,
    entries: Sequence[decide.Entry],
    leases: Sequence[PortLease],
) -> bool:
    """Whether it may be leased for tcp: nobody has it, nobody takes it when it is started, and the system may not."""
    if port in own_ports or any(each.protocol == "tcp" for each in leases):
        return False
    if any(each.verdict is decide.PortVerdict.HELD and each.protocol == "tcp" for each in entries):
        return False
    if looked is None:
        return True
    if decide.latent("", "tcp", port, looked) or any(low <= port <= high for low, high in looked.reserved):
        return False
    low, high = looked.ephemeral
    # A range that reaches in there was defined so on purpose (`allow_ephemeral`).
    return not low <= port <= high or _range_of(session, port) is not None


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
    return session.scalars(
        select(PortClaim).where(PortClaim.port == port).order_by(PortClaim.id).limit(_MOST_CLAIMS)
    ).all()


def _range_of(session: Session, port: int) -> PortRange | None:
    return session.scalar(
        select(PortRange).where(PortRange.start_port <= port, PortRange.end_port >= port).order_by(PortRange.id)
    )


def _range(session: Session, port: int) -> dict[str, Any] | None:
    row = _range_of(session, port)
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
        "service_id": row.service_id or row.owner_id,
        "container": row.container_ref,
        "port": row.port,
        "host_ip": row.host_ip,
        "protocol": row.protocol,
        "latent": bool(row.latent),
        "source": row.source,
    }


def listener_shown(row: SeenListener, called: Mapping[str, str], own_ports: Collection[int] = ()) -> dict[str, Any]:
    """A socket as it was last seen, and who stands behind it."""
    fact = port_facts.listener_of(row)
    behind = decide.holder(fact, called, own_ports)
    # The engine's proxy is shown as what it stands for: nobody is to end it by its pid.
    process = behind if decide.is_proxy(fact) else {name: getattr(row, name) for name in _PROCESS}
    return {
        "host_ip": row.host_ip,
        "port": row.port,
        "protocol": row.protocol,
        **{name: process[name] for name in _PROCESS},
        "holder": behind,
        "observed_at": written(row.observed_at),
    }

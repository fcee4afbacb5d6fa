"""Port ranges and leases as people define them: no two ranges share a port, and no lease is given twice."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain import ports as decide
from domain.errors import ClosError, LeaseNotFound, PortHeld, PortRangeNotFound, ValidationFailed
from domain.observation import Binding, Listener
from models import leases, port_search, ports, registry_verdicts
from models.base import now
from models.groups import Group
from models.ports import PortClaim, PortLease, PortRange
from models.services import Service

_DEFAULT_PROJECT = "development"


class LeaseInUse(ClosError):
    """A service's spec names the leased port."""

    code = "lease_in_use"


def get(session: Session, range_id: int) -> PortRange:
    """The range of that id.

    Raises:
        PortRangeNotFound: there is none.
    """
    found = session.get(PortRange, range_id)
    if found is None:
        raise PortRangeNotFound(str(range_id))
    return found


def page(session: Session, after: int | None, limit: int) -> tuple[int, Sequence[PortRange]]:
    """How many ranges there are, and up to `limit` by id from after `after`."""
    query = select(PortRange).order_by(PortRange.id).limit(limit)
    if after is not None:
        query = query.where(PortRange.id > after)
    return session.scalar(select(func.count()).select_from(PortRange)) or 0, session.scalars(query).all()


def add(session: Session, fields: Mapping[str, Any], ephemeral_start: int | None = None) -> PortRange:
    """Define a range. `ephemeral_start`: where the ports of outgoing connections begin, if not as the last scan found.

    Raises:
        ValidationFailed: it is upside down, overlaps another, or reaches into the ports of outgoing connections.
    """
    made = PortRange(priority=0)
    _write(session, made, fields, ephemeral_start)
    session.add(made)
    session.flush()
    return made


def change(session: Session, row: PortRange, fields: Mapping[str, Any], ephemeral_start: int | None = None) -> None:
    """Change a range; leases outside of it stay.

    Raises:
        ValidationFailed: as `add`.
    """
    _write(session, row, fields, ephemeral_start)
    session.flush()


def _write(session: Session, row: PortRange, fields: Mapping[str, Any], ephemeral_start: int | None) -> None:
    values = {name: fields.get(name, getattr(row, name)) for name in ("start_port", "end_port")}
    start, end = values["start_port"], values["end_port"]
    if start > end:
        raise ValidationFailed({"end_port": [f"The range is upside down: {start} to {end}."]})
    moved = (start, end) != (row.start_port, row.end_port)
    low, high = port_search.system_ports(session).ephemeral if ephemeral_start is None else (ephemeral_start, 65_535)
    if moved and start <= high and end >= low and not fields.get("allow_ephemeral"):
        raise ValidationFailed(
            {
                "end_port": [
                    f"From {low} to {high} the system itself gives ports to outgoing connections; "
                    "allow_ephemeral: true takes them nevertheless."
                ]
            }
        )
    with session.no_autoflush:
        other = session.scalar(
            select(PortRange)
            .where(PortRange.start_port <= end, PortRange.end_port >= start, PortRange.id != (row.id or 0))
            .order_by(PortRange.start_port)
            .limit(1)
        )
    if other is not None:
        raise ValidationFailed(
            {"start_port": [f"It overlaps {other.project}'s range {other.start_port}-{other.end_port}."]}
        )
    for name in ("project", "start_port", "end_port", "description", "priority", "max_services"):
        if name in fields:
            setattr(row, name, fields[name])
    if moved:
        row.next_port = None


def allocate(session: Session, fields: Mapping[str, Any], own_ports: Collection[int]) -> PortLease:
    """Lease a port of a project, the preferred one or any.

    Raises:
        PortHeld: the preferred one is leased, CLOS's own, or was seen to be held.
        RangeFull: no port of the project's ranges is left.
        ValidationFailed: there is no such service, or the preferred port lies outside of the project's ranges.
    """
    protocol, preferred = fields.get("protocol", "tcp"), fields.get("preferred_port")
    service_id, ttl_s = fields.get("service_id"), fields.get("ttl")
    service = None if service_id is None else session.get(Service, service_id)
    if service_id is not None and service is None:
        raise ValidationFailed({"service_id": [f"There is no service {service_id!r}."]})
    project = fields.get("project") or _project_of(session, service)
    if preferred is not None:
        refuse_held(session, preferred, protocol, own_ports=own_ports)
        _refuse_outside(session, project, preferred)
    return leases.lease(
        session,
        project,
        protocol=protocol,
        service_id=service_id,
        preferred=preferred,
        expires_at=None if ttl_s is None else now() + timedelta(seconds=ttl_s),
        avoid=own_ports,
    )


def _refuse_outside(session: Session, project: str, port: int) -> None:
    """A lease is of a project's own ports: not of another's, the system's, or those that clients are given."""
    spans = [(each.start_port, each.end_port) for each in ports.ranges_of(session, project)]
    if not any(low <= port <= high for low, high in spans):
        named = ", ".join(f"{low}-{high}" for low, high in spans[:10]) or "it has none"
        raise ValidationFailed(
            {"preferred_port": [f"{port} lies outside of the ranges of project {project!r}: {named}."]}
        )


def _project_of(session: Session, service: Service | None) -> str:
    group = None if service is None else session.get(Group, service.group_name)
    return _DEFAULT_PROJECT if group is None else group.project


def refuse_held(session: Session, port: int, protocol: str, host_ip: str = "", own_ports: Collection[int] = ()) -> None:
    """Refuse a port that somebody has, or would have as soon as his container is started; no `host_ip` is any address.

    Raises:
        PortHeld: it is leased, CLOS's own, or was held when the host was last looked at.
    """
    leased = leases.holder(session, port, protocol)
    if leased is not None:
        raise PortHeld(port, protocol, leased.host_ip, leases.as_holder(session, leased))
    if port in own_ports:
        raise PortHeld(port, protocol, host_ip, _holder("clos", "clos", None))
    facts = registry_verdicts.facts(session)
    if facts is None:
        return
    found: Sequence[Listener | Binding] = decide.in_the_way(host_ip, protocol, port, facts)
    found = found or decide.latent(host_ip, protocol, port, facts)
    if found:
        names = registry_verdicts.names(session, {each.service_id for each in found if each.service_id})
        holder = registry_verdicts.dated(session, [decide.holder(found[0], names, own_ports)])[0]
        raise PortHeld(port, protocol, found[0].host_ip, holder)


def _holder(kind: str, name: str, service_id: str | None) -> dict[str, Any]:
    nothing = dict.fromkeys(("container_id", "pid", "command", "user", "started_at"))
    return {"kind": kind, "running": None, "name": name, "service_id": service_id, **nothing, "own": kind != "unknown"}


def give_back(session: Session, lease_id: int) -> None:
    """End a lease.

    Raises:
        LeaseNotFound: there is none.
        LeaseInUse: a service's ports name it; changing them gives it back.
    """
    found = session.get(PortLease, lease_id)
    if found is None:
        raise LeaseNotFound(str(lease_id))
    named = found.service_id is not None and session.scalar(
        select(PortClaim.id).where(
            PortClaim.service_id == found.service_id,
            PortClaim.port == found.port,
            PortClaim.protocol == found.protocol,
        )
    )
    if named:
        raise LeaseInUse(
            f"{found.service_id} has port {found.port} in its definition",
            hint="change the service's ports; that gives the lease back",
            service_id=found.service_id,
        )
    leases.release(session, [found])

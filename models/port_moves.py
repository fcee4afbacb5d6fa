"""A service's port is another one from now on, and can be what it was again.

What is moved: the claims of that port, the lease, `services.port`, and a literal health URL of this host that names it.
A container's own port stays, since what listens inside does not know of the move; without a network of its own
(`network_mode: host`) there is only one port, and it moves along.
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from domain.errors import ClosError, PortHeld, ValidationFailed
from models import leases
from models.ports import PortClaim, PortLease
from models.services import Service

_OWN_NAMES = frozenset({"localhost", "0.0.0.0", "::"})  # noqa: S104 - names to compare with, not to bind
_USUAL = {"http": 80, "https": 443}


class UndoImpossible(ClosError):
    """What was changed cannot be brought back: somebody has the port, or the definition is another one by now."""

    code = "undo_impossible"


def move(
    session: Session,
    service: Service,
    protocol: str,
    from_port: int,
    to_port: int,
    project: str,
    reserved: Collection[int] = (),
) -> dict[str, Any]:
    """Give a service `to_port` in the place of `from_port`. What `restore` needs to take that back, as JSON.

    `reserved` are CLOS's own ports. Whether somebody listens on the new port is the caller's to look at.

    Raises:
        ValidationFailed: the service claims no such port.
        PortHeld: somebody has the new one, or it is CLOS's own.
    """
    moved = claims_of(service, protocol, from_port)
    if not moved:
        raise ValidationFailed({"port": [f"{service.id} has no port {from_port}/{protocol}."]})
    if to_port in reserved:
        raise PortHeld(to_port, protocol, moved[0].host_ip, {"kind": "clos", "name": "clos", "own": True})
    undo: dict[str, Any] = {
        "service_id": service.id,
        "protocol": protocol,
        "from_port": from_port,
        "to_port": to_port,
        "project": project,
        "health_url": service.health_url,
        "container_ports": [each.container_port for each in moved],
    }
    undo["leased"] = _move_lease(session, service, moved[0], to_port, project)
    for each in moved:
        each.port = to_port
        if service.network_mode == "host" and each.container_port == from_port:
            each.container_port = to_port
    _adjust(session, service, protocol, from_port, to_port)
    return undo | {"moved": [_as_json(each) for each in moved], "moved_url": service.health_url}


def claims_of(service: Service, protocol: str, port: int) -> list[PortClaim]:
    """What a service's spec says of one port: one claim, or one for each address."""
    return [each for each in service.claims if (each.source, each.protocol, each.port) == ("spec", protocol, port)]


def _as_json(claim: PortClaim) -> list[Any]:
    return [claim.position, claim.name, claim.host_ip, claim.port, claim.container_port, claim.protocol]


def _move_lease(session: Session, service: Service, claim: PortClaim, to_port: int, project: str) -> bool:
    """The lease keeps its id; whoever claimed the old port in vain has it now. Whether there was one."""
    from_port = claim.port or 0
    other = leases.holder(session, to_port, claim.protocol)
    if other is not None:
        if other.service_id != service.id or claims_of(service, claim.protocol, to_port):
            raise PortHeld(to_port, claim.protocol, other.host_ip, leases.as_holder(session, other))
        leases.release(session, [other])  # it was allocated for this service; the lease that moves takes its place
    held = leases.holder(session, from_port, claim.protocol)
    if held is None or held.service_id != service.id:
        leases.grant(
            session,
            to_port,
            project,
            protocol=claim.protocol,
            host_ip=claim.host_ip,
            service_id=service.id,
            port_name=claim.name,
        )
        return False
    leases.remember(session, held)
    held.port, held.expires_at = to_port, None
    session.flush()
    leases.hand_over(session, claim.protocol, from_port, service.id)
    return True


def _adjust(session: Session, service: Service, protocol: str, from_port: int, to_port: int) -> None:
    """What else of a service names its port, and its version."""
    if protocol == "tcp":
        service.health_url = followed(service.health_url, from_port, to_port, {each.host_ip for each in service.claims})
    service.port = service.claims[0].port
    service.spec_version += 1
    session.flush()


def followed(url: str | None, from_port: int, to_port: int, own: Collection[str] = ()) -> str | None:
    """A health URL after a move: another port if it names this host and exactly the old one, else as it is.

    `own` are further addresses of this host.
    """
    if not url or "://" not in url or "${" in url.split("://", 1)[1].split("/", 1)[0]:
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _USUAL.get(parts.scheme)
    except ValueError:
        return url
    if port != from_port or not _is_this_host(host, own):
        return url
    before, at, place = parts.netloc.rpartition("@")
    bare = place if parts.port is None else place.rpartition(":")[0]
    return url.replace(parts.netloc, f"{before}{at}{bare}:{to_port}", 1)


def _is_this_host(host: str, own: Collection[str]) -> bool:
    if host in _OWN_NAMES or host in own or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def restore(session: Session, undo: Mapping[str, Any]) -> None:
    """Take a move back.

    Raises:
        UndoImpossible: the service is gone, its definition of that port was changed since, or somebody has the old
            port. Nothing is changed.
    """
    service = session.get(Service, undo["service_id"])
    from_port, to_port, protocol = int(undo["from_port"]), int(undo["to_port"]), str(undo["protocol"])
    if service is None:
        raise UndoImpossible(f"{undo['service_id']} is gone", service_id=undo["service_id"])
    moved = claims_of(service, protocol, to_port)
    lease = leases.holder(session, to_port, protocol)
    if [_as_json(each) for each in moved] != undo["moved"] or lease is None or lease.service_id != service.id:
        raise UndoImpossible(
            f"the ports of {service.id} were changed since",
            hint="change its definition instead",
            service_id=service.id,
            port=to_port,
        )
    if undo.get("leased", True):
        _refuse_taken(session, from_port, protocol)
    _back(session, undo, service, moved, lease)


def _refuse_taken(session: Session, port: int, protocol: str) -> None:
    other = leases.holder(session, port, protocol)
    if other is not None:
        held = PortHeld(port, protocol, other.host_ip, leases.as_holder(session, other))
        raise UndoImpossible(
            f"port {port}/{protocol} is taken since: {held.message}",
            hint="free it first",
            port=port,
            protocol=protocol,
            holder=held.facts["holder"],
        )


def _back(
    session: Session, undo: Mapping[str, Any], service: Service, moved: Collection[PortClaim], lease: PortLease
) -> None:
    from_port, to_port = int(undo["from_port"]), int(undo["to_port"])
    if undo.get("leased", True):
        leases.remember(session, lease)
        lease.port = from_port
        session.flush()
    else:
        leases.release(session, [lease])  # it had claimed the port without a lease, and does so again
    for each, container_port in zip(moved, undo["container_ports"], strict=True):
        each.port, each.container_port = from_port, container_port
    untouched = service.health_url == undo["moved_url"]
    _adjust(session, service, lease.protocol, to_port, from_port)
    if untouched:
        service.health_url = undo["health_url"]
        session.flush()
    leases.hand_over(session, lease.protocol, to_port, service.id)

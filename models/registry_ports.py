"""What a service's ports claim, and the leases that go with them.

A claim is what a spec says and may be said twice; a lease is what one has for itself. A host port that a spec leaves
open is leased from the project's ranges and written into the claim, so that a spec is always complete.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import ValidationFailed
from domain.specs import RuntimeKind
from models import leases, port_search
from models.leases import release
from models.port_moves import UndoImpossible, move, restore
from models.ports import PortClaim, PortLease
from models.services import Service

__all__ = ["UndoImpossible", "candidate", "claim", "lease_all", "leases_of", "move", "release", "restore"]

Request = Mapping[str, Any]


def claim(service: Service, requests: Sequence[Request], reserved: frozenset[int]) -> None:
    """Replace a service's claims. A port left open keeps what a claim of the same name had before.

    Raises:
        ValidationFailed: two are the same, or one is CLOS's own port.
    """
    _check(requests, reserved)
    before = {(each.name, each.protocol): each.port for each in service.claims}
    service.claims = [
        PortClaim(
            position=position,
            name=(name := request.get("name") or ""),
            host_ip=request.get("host_ip") or "127.0.0.1",
            port=request.get("host_port") or before.get((name, request.get("protocol") or "tcp")),
            left_open=request.get("host_port") is None,
            container_port=request.get("container_port"),
            protocol=request.get("protocol") or "tcp",
        )
        for position, request in enumerate(requests)
    ]
    _complete(service)


def _check(requests: Sequence[Request], reserved: frozenset[int]) -> None:
    errors: dict[int, dict[str, list[str]]] = {}
    names: set[str] = set()
    sockets: set[tuple[Any, ...]] = set()
    for position, request in enumerate(requests):
        name, host_port = request.get("name") or "", request.get("host_port")
        socket = (request.get("host_ip") or "127.0.0.1", host_port, request.get("protocol") or "tcp")
        if host_port in reserved:
            errors[position] = {"host_port": [f"{host_port} is CLOS's own port."]}
        elif name in names:
            errors[position] = {"name": [f"{name!r} is given twice: each port needs its own name."]}
        elif host_port is not None and socket in sockets:
            errors[position] = {"host_port": [f"{host_port} is given twice."]}
        names.add(name)
        sockets.add(socket)
    if errors:
        raise ValidationFailed({"ports": errors})


def _complete(service: Service) -> None:
    if service.runtime == RuntimeKind.DOCKER:
        for each in service.claims:
            each.container_port = each.container_port or each.port
    service.port = service.claims[0].port if service.claims else None


def lease_all(session: Session, service: Service, project: str, reserved: frozenset[int]) -> None:
    """Lease what the service claims, and a port of the project's ranges for each claim that leaves it open.

    A port that somebody else has is left to them: the claim stays, and is the conflict.

    Raises:
        RangeFull: no port of the ranges is left.
    """
    session.flush()
    wanted = {(each.protocol, each.port) for each in service.claims}
    released = [lease for lease in leases_of(session, service.id) if (lease.protocol, lease.port) not in wanted]
    for each in service.claims:
        held = None if each.port is None else leases.holder(session, each.port, each.protocol)
        if held is not None:
            _follow(held, each, service.id)
            continue
        granted = leases.lease(
            session,
            project,
            protocol=each.protocol,
            host_ip=each.host_ip,
            service_id=service.id,
            port_name=each.name,
            preferred=each.port,
            avoid=reserved,
        )
        each.port = granted.port
    _complete(service)
    leases.release(session, released)


def _follow(held: PortLease, claim: PortClaim, service_id: str) -> None:
    """A service's own lease has its claim's name and address, and lasts as long as the claim."""
    if held.service_id == service_id:
        held.port_name, held.host_ip, held.expires_at = claim.name, claim.host_ip, None


def leases_of(session: Session, service_id: str) -> Sequence[PortLease]:
    """What a service has leased."""
    return session.scalars(select(PortLease).where(PortLease.service_id == service_id)).all()


def candidate(
    session: Session, service_id: str, port_name: str, project: str, protocol: str, avoid: Collection[int]
) -> int:
    """The port that the service would be given now from its project's ranges: its last one, else the lowest free one.

    Nothing is leased. `avoid` are ports that it must not be.

    Raises:
        RangeFull: none is left; it says who has them.
    """
    wish = port_search.Wish(project, protocol, service_id, port_name, frozenset(avoid))
    return port_search.find(session, wish)[0]

"""Clones of groups in the record: read the originals, write the same anew, and say until when it is kept.

Whoever calls this holds the write transaction, which is exclusive; so clones made at once get different ports.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import cloning
from domain.clone_remarks import Remark
from domain.clone_storage import MARK
from domain.cloning import Cloning, Original
from domain.errors import ValidationFailed
from domain.specs import RuntimeKind
from models import definitions, groups, port_moves, registry, registry_graph, registry_groups, registry_references
from models.groups import Group
from models.services import Service, ServiceNetwork

LONGEST_NAME = 50


@dataclass(frozen=True)
class Wanted:
    """A clone that is asked for. `others` are groups that are cloned with it, as `<name>-<group>`."""

    source: str
    name: str
    others: Sequence[str] = ()
    directory: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Cloned:
    """The groups that were made, the one that was named first, and what is to be said about them."""

    groups: Sequence[Group]
    remarks: Sequence[Remark]


def clone(session: Session, wanted: Wanted, reserved: Collection[int] = registry.NO_PORTS) -> Cloned:
    """Register the same groups again under new names, every port leased anew. Nothing runs yet.

    Raises:
        GroupNotFound: there is no such group.
        GroupExists: the clone's name is taken.
        RangeFull: the project has not as many ports left.
        ValidationFailed: a name is too long, a group named twice, or paths cannot be moved.
    """
    sources = [groups.get(session, name) for name in (wanted.source, *wanted.others)]
    _check(wanted, sources)
    originals = {group.name: _original(session, group) for group in sources}
    names = {wanted.source: wanted.name} | {other: f"{wanted.name}-{other}" for other in wanted.others}
    plan = Cloning(names, uuid4().hex, wanted.directory, _networks_elsewhere(session, originals))
    made = cloning.clones(originals, plan)
    rows = _write(session, made.groups, frozenset(reserved))
    for group, source in zip(rows, sources, strict=True):
        group.cloned_from, group.expires_at = source.name, wanted.expires_at
    session.flush()
    return Cloned(rows, made.remarks)


def _check(wanted: Wanted, sources: Sequence[Group]) -> None:
    errors: dict[str, list[str]] = {}
    if len({wanted.source, *wanted.others}) != 1 + len(wanted.others):
        errors["with"] = ["Each group may be named once, and the cloned one is there already."]
    longest = max((f"{wanted.name}-{other}" for other in wanted.others), key=len, default=wanted.name)
    if len(longest) > LONGEST_NAME:
        errors["as"] = [f"{longest!r} would be longer than {LONGEST_NAME} characters."]
    if wanted.directory is not None and not sources[0].directory:
        text = f"Group {wanted.source!r} has no directory, so it is not known which paths lie in it: give it one first."
        errors["directory"] = [text]
    if errors:
        raise ValidationFailed(errors)


def _original(session: Session, group: Group) -> Original:
    body = definitions.of_group(session, group)
    return Original(body, tuple(body.pop("services")))


def _networks_elsewhere(session: Session, names: Collection[str]) -> frozenset[str]:
    rows = select(ServiceNetwork.network).join(Service, Service.id == ServiceNetwork.service_id)
    return frozenset(session.scalars(rows.where(Service.group_name.not_in(names))))


def _write(session: Session, bodies: Sequence[Mapping[str, Any]], reserved: frozenset[int]) -> list[Group]:
    """All groups, then all services, then what they need of each other."""
    columns = registry_groups.PLAIN
    made = [groups.add(session, body["name"], **{name: body.get(name) for name in columns}) for body in bodies]
    drafts = [
        (group, registry.draft(session, group, fields, reserved), fields)
        for group, body in zip(made, bodies, strict=True)
        for fields in body["services"]
    ]
    for group, service, fields in drafts:
        registry.bind(session, group, service, fields, reserved)
        _follow(service, fields)
    for _, service, _ in drafts:
        registry_references.check(session, service)
    registry_graph.refuse_cycles(session)
    return made


def _follow(service: Service, fields: Mapping[str, Any]) -> None:
    """A health URL that names the original's port on this host names the clone's, as after a move."""
    was = {(port.get("name") or "", port["protocol"]): port for port in fields["was"]}
    own = {port["host_ip"] for port in fields["was"]}
    for claim in service.claims:
        before = was.get((claim.name, claim.protocol))
        if before and before["host_port"] and claim.port:
            service.health_url = port_moves.followed(service.health_url, before["host_port"], claim.port, own)


def own_volumes(group: Group) -> dict[str, str]:
    """The volumes that are a clone's own, by the engine's names, and what they are marked with."""
    found = {}
    for name, definition in (group.volumes or {}).items():
        mark = ((definition or {}).get("labels") or {}).get(MARK)
        if group.cloned_from is not None and mark is not None:
            found[str(definition.get("name") or name)] = str(mark)
    return found


def has_containers(session: Session, group: Group) -> bool:
    """Whether any of its services is a container."""
    kind = RuntimeKind.DOCKER.value
    return (
        session.scalar(select(Service.id).where(Service.group_name == group.name, Service.runtime == kind)) is not None
    )

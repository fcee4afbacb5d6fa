"""What an import writes: a group from a Compose project, new or changed, with what it remembers of the project.

Whoever calls this holds the write transaction. The file itself is never written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.compose import difference
from domain.compose.difference import Difference
from domain.container_policy import ContainerPolicy, PolicyDenied, violations
from domain.errors import ClosError, GroupExists, OperationInProgress, ValidationFailed
from models import (
    definitions,
    groups,
    import_ports,
    registry,
    registry_graph,
    registry_groups,
    registry_references,
    resolved_specs,
)
from models.groups import Group
from models.operations import OperationLock, group_target, service_target
from models.ports import PortClaim
from models.services import Service


class GroupNotImported(ClosError):
    """A group that comes from no Compose file cannot be read from one again."""

    code = "group_not_imported"

    def __init__(self, name: str) -> None:
        super().__init__(f"group {name!r} was not imported", hint="clos groups import FILE --name NAME", group=name)


def remembered(session: Session, name: str) -> dict[str, Any]:
    """What a group remembers of its Compose project.

    Raises:
        GroupNotFound: there is no such group.
        GroupNotImported: it comes from no Compose file.
    """
    found = groups.get(session, name).compose
    if not found:
        raise GroupNotImported(name)
    return dict(found)


def compared(session: Session, name: str, body: Mapping[str, Any]) -> Difference:
    """What reading the project again changes; everything is new where there is no such group.

    Raises:
        GroupExists: a group of that name is there, and comes from no Compose file.
    """
    group = session.get(Group, name)
    file = difference.snapshot(body)
    if group is None:
        return Difference(added=tuple(sorted(file["services"])))
    if not group.compose:
        raise GroupExists(
            f"there is a group {name!r} already, which was not imported", hint="give another name", group=name
        )
    return difference.compare(group.compose["base"], file, difference.snapshot(definitions.of_group(session, group)))


def targets(session: Session, name: str) -> list[str]:
    """What an import of that group changes: the group, and all of its services."""
    members = session.scalars(select(Service.id).where(Service.group_name == name)).all()
    return [group_target(name), *(service_target(each) for each in members)]


def hold(session: Session, operation_id: str, wanted: list[str]) -> None:
    """Take the locks that only the file tells: its project's name is the group's.

    Raises:
        OperationInProgress: another operation works on one of these.
    """
    rows = session.execute(
        select(OperationLock.target, OperationLock.operation_id).where(OperationLock.target.in_(wanted))
    )
    held = {row.target: row.operation_id for row in rows}
    for target in sorted(wanted):
        if held.get(target, operation_id) != operation_id:
            raise OperationInProgress(target, held[target])
        if target not in held:
            session.add(OperationLock(target=target, operation_id=operation_id))
    session.flush()


def ids_of(session: Session, name: str, services: tuple[str, ...]) -> list[str]:
    """The ids of a group's services by their names."""
    found = session.scalars(select(Service.id).where(Service.group_name == name, Service.name.in_(services)))
    return sorted(found)


def write(
    session: Session, body: Mapping[str, Any], changed: Difference, project: Mapping[str, Any], reserved: frozenset[int]
) -> Group:
    """Carry out a difference, and remember the project with its new base.

    Raises:
        ValidationFailed, RangeFull, UnknownDependency, DependencyCycle, ServiceRequired …: nothing is written then.
    """
    group = session.get(Group, body["name"])
    with import_ports.told_of_others(session, body):
        group = _written(session, group, body, changed, reserved)
    group.compose = dict(project) | {"base": difference.snapshot(body)}
    group.compose_file = next(iter(project.get("files") or ()), None)
    session.flush()
    return group


def _written(
    session: Session, group: Group | None, body: Mapping[str, Any], changed: Difference, reserved: frozenset[int]
) -> Group:
    if group is None:
        group = registry_groups.create_group(session, body, reserved)
    else:
        registry_groups.change_group(session, group, {key: body.get(key) for key in changed.fields_of(None)})
        _services(session, group, body, changed, reserved)
    return group


def _services(
    session: Session, group: Group, body: Mapping[str, Any], changed: Difference, reserved: frozenset[int]
) -> None:
    wanted = {each["name"]: each for each in body["services"]}
    new = [wanted[name] for name in (*changed.added, *changed.gone)]
    drafts = _registered(session, group, new, reserved)
    for name in changed.changed():
        service = session.scalars(select(Service).where(Service.group_name == group.name, Service.name == name)).one()
        with _of_service(name):
            registry.change_service(session, service, _fields(service, wanted[name], changed.fields_of(name)), reserved)
    for service in drafts:
        with _of_service(service.name):
            registry_references.check(session, service)
    going = ids_of(session, group.name, changed.removed)
    if going:
        registry.refuse_if_required(session, f"what the file no longer has ({', '.join(changed.removed)})", going)
        registry.forget(session, going)
    registry_graph.refuse_cycles(session)


def _registered(
    session: Session, group: Group, new: Sequence[Mapping[str, Any]], reserved: frozenset[int]
) -> list[Service]:
    """All of them are there before the first is bound to what it needs: that may be another new one."""
    drafts = []
    for each in new:
        with _of_service(each["name"]):
            drafts.append(registry.draft(session, group, each, reserved))
    for service, each in zip(drafts, new, strict=True):
        with _of_service(service.name):
            registry.bind(session, group, service, each, reserved)
    return drafts


@contextmanager
def _of_service(name: str) -> Iterator[None]:
    """Say of which service it is what is refused inside the block."""
    try:
        yield
    except ValidationFailed as refusal:
        refusal.errors = {"services": {name: refusal.errors}}
        raise


# What must not be null in the record: a field that the file says nothing of has its default again.
_NEVER_NOTHING: dict[str, Any] = {
    "runtime": "docker", "network_mode": "bridge", "restart_policy": "unless-stopped", "restart_by": "clos",
    "stop_timeout": 30.0,
}  # fmt: skip


def _fields(service: Service, wanted: Mapping[str, Any], changed: list[str]) -> dict[str, Any]:
    """The fields that change, so that nothing of what they were before is left behind."""
    found = {key: wanted.get(key, _NEVER_NOTHING.get(key)) for key in changed}
    if "secrets" in found:
        given = found["secrets"] or {}
        gone = {row.key: None for row in service.environment if row.secret and row.key not in given}
        found["secrets"] = gone | {key: value for key, value in given.items() if value is not None}
    if found.get("health_check"):
        found["health_check"] = difference.canonical(wanted)["health_check"]
    return found


def shared_ports(session: Session, body: Mapping[str, Any]) -> list[str]:
    """A sentence for each port that a file fixes and a service of another group has or claims; at most 50."""
    fixed: dict[tuple[str, int], str] = {}
    for service in body["services"]:
        for port in service.get("ports") or ():
            if port.get("host_port"):
                fixed.setdefault((port.get("protocol") or "tcp", port["host_port"]), service["name"])
    rows = session.execute(
        select(PortClaim.protocol, PortClaim.port, PortClaim.service_id)
        .join(Service, Service.id == PortClaim.service_id)
        .where(PortClaim.source == "spec", PortClaim.port.in_({port for _, port in fixed}))
        .where(Service.group_name != body["name"])
        .order_by(PortClaim.port, PortClaim.service_id)
    )
    shared = [(fixed[row.protocol, row.port], row) for row in rows if (row.protocol, row.port) in fixed]
    return [
        f"services.{name}.ports: {row.port}/{row.protocol} is a port of {row.service_id} as well: "
        "only one of them can have it. Leave the host port out, and CLOS leases one"
        for name, row in shared[:50]
    ]


def refuse_denied(session: Session, name: str, policy: ContainerPolicy) -> None:
    """Raises: PolicyDenied: services of the group ask for what the policy forbids; all of it is told."""
    members = session.scalars(select(Service).where(Service.group_name == name).order_by(Service.id)).all()
    specs = resolved_specs.specs(session, members).values()
    if found := {spec.name: wrong for spec in specs if (wrong := violations(spec, policy))}:
        raise PolicyDenied.of_group(name, found)


def name_services(body: Mapping[str, Any], refusal: ValidationFailed) -> None:
    """Let a refusal name services by their names: they stand in no list that the caller has seen."""
    places = refusal.errors.get("services")
    if isinstance(places, Mapping):
        names = [each["name"] for each in body["services"]]
        named = {names[place] if isinstance(place, int) else place: each for place, each in places.items()}
        refusal.errors = {**refusal.errors, "services": named}

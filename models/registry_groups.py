"""Defining groups: all of one request or nothing, and references may go forward inside it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from domain.errors import GroupNotFound, UnknownDependency, ValidationFailed
from models import groups, registry, registry_graph, registry_reach, registry_references
from models.groups import Group
from models.services import Service

# The fields that are columns of the same name.
PLAIN = (
    "description",
    "project",
    "dependencies",
    "start_order",
    "compose_file",
    "network_name",
    "networks",
    "volumes",
    "directory",
    "restart_policy",
    "conflicts",
    "reconcile",
)


def create_group(session: Session, fields: Mapping[str, Any], reserved: Collection[int] = registry.NO_PORTS) -> Group:
    """Register a group with the services that stand in `fields["services"]`.

    Raises:
        GroupExists, ServiceExists, UnknownDependency, DependencyCycle, RangeFull
        ValidationFailed, UnreachableReference: its errors name the service by its place in the list.
    """
    group = groups.add(session, fields["name"], **{name: fields[name] for name in PLAIN if name in fields})
    _check_dependencies(session, group)
    wanted: Sequence[Mapping[str, Any]] = fields.get("services") or ()
    _refuse_doubles(wanted)
    own = frozenset(reserved)
    drafts = []
    for place, each in enumerate(wanted):
        with _At(place):
            drafts.append(registry.draft(session, group, each, own))
    # Every explicit port is claimed by now, so that none of them is leased to a service that leaves it open.
    for place, (service, each) in enumerate(zip(drafts, wanted, strict=True)):
        with _At(place):
            registry.bind(session, group, service, each, own)
    for place, service in enumerate(drafts):
        with _At(place):
            registry_references.check(session, service)
    if group.dependencies or any(each.get(name) for each in wanted for name in registry.ORDERING):
        registry_graph.refuse_cycles(session)
    return group


class _At:
    """Says which of a list of services is the wrong one."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ValidationFailed):
            error.errors = {"services": {self._place: error.errors}}


def _refuse_doubles(wanted: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    errors = {}
    for place, each in enumerate(wanted):
        if each["name"] in seen:
            errors[place] = {"name": [f"{each['name']!r} is given twice."]}
        seen.add(each["name"])
    if errors:
        raise ValidationFailed({"services": errors})


def _check_dependencies(session: Session, group: Group) -> None:
    for other in group.dependencies or ():
        if session.get(Group, other) is None:
            raise UnknownDependency(f"group {group.name}", f"group {other}")


def change_group(session: Session, group: Group, fields: Mapping[str, Any]) -> bool:
    """Change what is wanted of a group. Whether anything changed. Leases that its services have stay theirs.

    Raises:
        UnknownDependency, DependencyCycle
    """
    before = {name: getattr(group, name) for name in PLAIN}
    for name in PLAIN:
        if name in fields:
            setattr(group, name, fields[name])
    if "dependencies" in fields:
        _check_dependencies(session, group)
        registry_graph.refuse_cycles(session)
    changed = before != {name: getattr(group, name) for name in PLAIN}
    if changed:
        group.spec_version += 1
    session.flush()
    return changed


def members(session: Session, name: str) -> Sequence[Service]:
    """A group's services, by id."""
    return session.scalars(select(Service).where(Service.group_name == name).order_by(Service.id)).all()


def refuse_if_required(session: Session, name: str) -> None:
    """Raises: ServiceRequired: another group, or a service outside, cannot do without this one."""
    rows = session.execute(select(Group.name, Group.dependencies)).all()
    needing = sorted(other for other, needs in rows if name in (needs or ()))
    if needing:
        raise registry.ServiceRequired(f"group {name}", [f"group {other}" for other in needing])
    registry.refuse_if_required(session, f"group {name}", registry_reach.services_of(session, [name]))


def delete_group(session: Session, name: str) -> None:
    """Forget a group and its services. What they had running is not touched.

    Raises:
        GroupNotFound: there is none.
        ServiceRequired: something outside cannot do without it.
    """
    if session.get(Group, name) is None:
        raise GroupNotFound(name)
    refuse_if_required(session, name)
    registry.forget(session, registry_reach.services_of(session, [name]))
    session.execute(delete(Group).where(Group.name == name))

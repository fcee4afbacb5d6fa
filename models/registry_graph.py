"""Who needs whom, over the whole registry: references, cycles, and what an operation takes along.

A group that depends on another needs all of its services. In the graph a group is a node of its own
(`group:<name>`), so that a ring of services and groups together is found as well.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Row, Select, bindparam, select, update
from sqlalchemy.orm import Session

from domain import graph
from domain.errors import DependencyCycle, GroupNotFound, UnknownDependency
from domain.specs import RuntimeKind
from domain.states import UP, Desired
from models import groups
from models.base import table_of
from models.groups import Group
from models.operations import group_target, service_target
from models.services import Service, ServiceDependency

_RUNNING = tuple(status.value for status in UP)
_services, _needs = table_of(Service), table_of(ServiceDependency)


def _reach(roots: ColumnElement[bool], start: ColumnElement[str], end: ColumnElement[str]) -> Select[Any]:
    reached = select(_services.c.id).where(roots).cte("reached", recursive=True)
    reached = reached.union(select(end).join(reached, start == reached.c.id))
    # A row that v1's tools left may name a service that is gone.
    return select(_services.c.id, _services.c.runtime, _services.c.group_name).join(
        reached, _services.c.id == reached.c.id
    )


# Built once: building one takes longer than its answer, and a start waits for it.
_roots: BindParameter[str] = bindparam("roots", expanding=True)
_NEEDED = _reach(_services.c.id.in_(_roots), _needs.c.service_id, _needs.c.depends_on)
_NEEDED_BY_GROUPS = _reach(_services.c.group_name.in_(_roots), _needs.c.service_id, _needs.c.depends_on)
_NEEDING = _reach(_services.c.id.in_(_roots), _needs.c.depends_on, _needs.c.service_id)
_GROUP_NEEDS = select(table_of(Group).c.dependencies).where(table_of(Group).c.name == bindparam("name"))
_WANT = update(_services).where(
    _services.c.id.in_(bindparam("ids", expanding=True)), _services.c.runtime != RuntimeKind.EXTERNAL.value
)


@dataclass(frozen=True, slots=True)
class Targets:
    """What an operation works on.

    `named` are the services that were asked for, `services` those and what comes along (dependencies of a start,
    dependents of a cascading stop), `locks` what must be held, `running_dependents` who still needs what is stopped.
    """

    named: tuple[str, ...]
    services: tuple[str, ...]
    locks: tuple[str, ...]
    running_dependents: tuple[str, ...] = ()


def resolve(session: Session, group: str, service_name: str, references: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids that references mean: a name of the same group, or `group/service`.

    Raises:
        UnknownDependency: one is not registered.
    """
    ids = []
    for reference in references:
        other_group, slash, other_name = reference["service"].rpartition("/")
        found = session.scalar(
            select(Service.id).where(
                Service.group_name == (other_group if slash else group),
                Service.name == other_name,
            )
        )
        if found is None:
            raise UnknownDependency(f"{group}/{service_name}", reference["service"])
        ids.append(found)
    return ids


def edges(session: Session) -> dict[str, set[str]]:
    """The whole registry's graph: services and groups, each with what it needs."""
    found: dict[str, set[str]] = {}
    needs = {name: needed or [] for name, needed in session.execute(select(Group.name, Group.dependencies)).all()}
    for name, needed in needs.items():
        found[group_target(name)] = {group_target(other) for other in needed}
    for service_id, group in session.execute(select(Service.id, Service.group_name)).all():
        found[service_id] = {group_target(other) for other in needs.get(group, ())}
        if group in needs:
            found[group_target(group)].add(service_id)
    for service_id, other in session.execute(select(ServiceDependency.service_id, ServiceDependency.depends_on)).all():
        found.setdefault(service_id, set()).add(other)
    return found


def refuse_cycles(session: Session) -> None:
    """Check what stands in this transaction.

    Raises:
        DependencyCycle: services or groups need each other in a ring.
    """
    session.flush()
    try:
        graph.order(edges(session))
    except DependencyCycle as found:
        # A group's own services are not what a reader looks for in a ring of groups.
        named = [each.removeprefix("group:") for each in found.cycle]
        raise DependencyCycle(named) from None


def closure(session: Session, roots: Collection[str]) -> dict[str, str]:
    """Services and everything that they need, each with its runtime."""
    return {row.id: row.runtime for row in _rows(session, _NEEDED, roots)}


def dependents(session: Session, roots: Collection[str]) -> set[str]:
    """Everything that needs one of these services, however far, without them."""
    return {row.id for row in _rows(session, _NEEDING, roots)} - set(roots)


def _rows(session: Session, reach: Select[Any], roots: Collection[str]) -> Sequence[Row[Any]]:
    if not roots:
        return ()
    session.flush()
    return session.execute(reach, {"roots": list(roots)}).all()


def required_by(session: Session, service_ids: Collection[str]) -> list[str]:
    """Services outside of these that cannot do without one of them."""
    return sorted(
        set(
            session.scalars(
                select(ServiceDependency.service_id).where(
                    ServiceDependency.depends_on.in_(service_ids),
                    ServiceDependency.service_id.not_in(service_ids),
                    ServiceDependency.required,
                )
            )
        )
    )


def groups_needed(session: Session, name: str) -> list[str]:
    """The groups that a group depends on, however far, without itself.

    Raises:
        GroupNotFound: there is no such group.
    """
    session.flush()
    found = session.execute(_GROUP_NEEDS, {"name": name}).first()
    if found is None:
        raise GroupNotFound(name)
    if not found.dependencies:
        return []  # most have none, and this is on the way of every start
    needs = {each: needed or [] for each, needed in session.execute(select(Group.name, Group.dependencies)).all()}
    return sorted(graph.closure(needs, [name]) - {name})


def services_of(session: Session, group_names: Collection[str]) -> list[str]:
    """The ids of the groups' services, in order."""
    if not group_names:
        return []
    return list(
        session.scalars(select(Service.id).where(Service.group_name.in_(group_names)).order_by(Service.id)).all()
    )


def targets_for(
    session: Session,
    kind: str,
    *,
    group: str | None = None,
    service: str | None = None,
    only: Collection[str] | None = None,
    with_dependencies: bool = True,
    cascade: bool = False,
) -> Targets:
    """What `start`, `stop`, `restart` or `remove` of a group or a service works on.

    `only` are ids of the group's services, where not all are meant. A start and a restart take what is needed along
    (`with_dependencies`), a group's also the services of the groups that it depends on; a stop takes what needs it
    only with `cascade`. External services are watched, so they are not held.

    Raises:
        GroupNotFound: there is no such group.
    """
    running: set[str] = set()
    if kind in ("start", "restart") and with_dependencies:
        named, taken = _with_what_is_needed(session, group, service, only)
    else:
        named = [service] if service is not None else _of_group(session, str(group), only)
        if kind == "stop":
            running = _running(session, dependents(session, named))
        chosen = select(Service.id, Service.runtime).where(Service.id.in_({*named, *(running if cascade else ())}))
        taken = {row.id: row.runtime for row in session.execute(chosen)}
    locks = [service_target(each) for each, runtime in sorted(taken.items()) if runtime != RuntimeKind.EXTERNAL]
    if group is not None:
        locks.insert(0, group_target(group))
    return Targets(tuple(sorted(named)), tuple(sorted(taken)), tuple(locks), () if cascade else tuple(sorted(running)))


def _with_what_is_needed(
    session: Session, group: str | None, service: str | None, only: Collection[str] | None
) -> tuple[Sequence[str], dict[str, str]]:
    if group is None:
        return [str(service)], closure(session, [str(service)])
    others = groups_needed(session, group)
    if only is None:
        rows = _rows(session, _NEEDED_BY_GROUPS, [group, *others])
        return [row.id for row in rows if row.group_name == group], {row.id: row.runtime for row in rows}
    named = _of_group(session, group, only)
    return named, closure(session, {*named, *services_of(session, others)})


def _of_group(session: Session, group: str, only: Collection[str] | None) -> Sequence[str]:
    groups.get(session, group)
    members = services_of(session, [group])
    return members if only is None else [each for each in members if each in only]


def _running(session: Session, service_ids: Collection[str]) -> set[str]:
    if not service_ids:
        return set()
    return set(
        session.scalars(
            select(Service.id).where(
                Service.id.in_(service_ids),
                Service.runtime != RuntimeKind.EXTERNAL.value,
                Service.status.in_(_RUNNING),
            )
        )
    )


def want(session: Session, service_ids: Collection[str], desired: Desired) -> None:
    """Say what these services are wanted to be. A start asked for by a person begins a new count of crashes."""
    if not service_ids:
        return
    values: dict[str, Any] = {"desired": desired.value}
    if desired is Desired.RUNNING:
        values |= {"crash_count": 0, "restart_not_before": None}
    session.flush()
    session.execute(_WANT, values | {"ids": list(service_ids)})

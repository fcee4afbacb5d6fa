"""Who needs whom, over the whole registry: references, cycles, and what an operation takes along.

A group that depends on another needs all of its services. In the graph a group is a node of its own
(`group:<name>`), so that a ring of services and groups together is found as well.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, bindparam, select, update
from sqlalchemy.orm import Session

from domain import graph
from domain.errors import DependencyCycle, UnknownDependency
from domain.specs import RuntimeKind
from domain.states import Desired
from models import groups as registered_groups
from models import registry_reach
from models.base import table_of
from models.groups import Group
from models.operation_rows import group_target, service_target
from models.services import Service, ServiceDependency

_services, _needs = table_of(Service), table_of(ServiceDependency)


_ROWS: Select[Any] = select(_services.c.id, _services.c.runtime, _services.c.group_name, _services.c.desired).where(
    _services.c.id.in_(bindparam("ids", expanding=True))
)
_WANT = update(_services).where(
    _services.c.id.in_(bindparam("ids", expanding=True)), _services.c.runtime != RuntimeKind.EXTERNAL.value
)


@dataclass(frozen=True, slots=True)
class Targets:
    """What an operation works on.

    `named` are the services that were asked for, `services` those and what comes along (dependencies of a start,
    dependents of a cascading stop), `locks` what must be held, `running_dependents` who still needs what is stopped,
    `desired` what the services are wanted to be as yet. `narrowed`: only some of a group were asked for.
    """

    named: tuple[str, ...]
    services: tuple[str, ...]
    locks: tuple[str, ...]
    running_dependents: tuple[str, ...] = ()
    desired: Mapping[str, str] = field(default_factory=dict)
    narrowed: bool = False


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


def targets_for(
    session: Session,
    kind: str,
    *,
    group: str | None = None,
    service: str | None = None,
    only: Collection[str] | None = None,
    groups: Collection[str] = (),
    services: Collection[str] = (),
    with_dependencies: bool = True,
    cascade: bool = False,
) -> Targets:
    """What `start`, `stop`, `restart`, `update` or `remove` of a group, a service, or several of both works on.

    `only` are ids of the group's services, where not all are meant. A start and a restart take what is needed along
    (`with_dependencies`), also the services of the groups that their groups depend on, and a start who runs and lives
    in their containers; a restart and an update what runs and asks to be restarted with them; a stop takes what needs
    it only with `cascade`. External services are watched, so they are not held.

    Raises:
        GroupNotFound: there is no such group.
    """
    whole = [group] if group is not None else sorted(groups)
    single = [service] if service is not None else sorted(services)
    running: set[str] = set()
    if kind in ("start", "restart") and with_dependencies:
        named, taken = _with_what_is_needed(session, whole, single, only)
    else:
        named = {*single, *(each for name in whole for each in _of_group(session, name, only))}
        if kind == "stop":
            running = registry_reach.running(session, registry_reach.dependents(session, named))
        taken = {row.id: row for row in _rows_of(session, {*named, *(running if cascade else ())})}
    if kind == "start":
        taken |= {
            row.id: row
            for row in _rows_of(session, registry_reach.running(session, registry_reach.residents(session, taken)))
        }
    if kind in ("restart", "update"):
        following = registry_reach.running(session, registry_reach.following(session, named)) - taken.keys()
        taken |= {row.id: row for row in _rows_of(session, following)}
    rows = [taken[each] for each in sorted(taken)]
    locks = [service_target(row.id) for row in rows if row.runtime != RuntimeKind.EXTERNAL]
    return Targets(
        tuple(sorted(named)),
        tuple(row.id for row in rows),
        (*(group_target(name) for name in whole), *locks),
        () if cascade else tuple(sorted(running)),
        {row.id: row.desired for row in rows if row.runtime != RuntimeKind.EXTERNAL},
        only is not None,
    )


def _rows_of(session: Session, service_ids: Collection[str]) -> Sequence[Row[Any]]:
    return session.execute(_ROWS, {"ids": list(service_ids)}).all() if service_ids else ()


def together(targets: Sequence[Targets]) -> Targets:
    """What several operations would work on, as one."""
    services = {one for found in targets for one in found.services}
    return Targets(
        tuple(sorted({one for found in targets for one in found.named})),
        tuple(sorted(services)),
        tuple(sorted({one for found in targets for one in found.locks})),
        tuple(sorted({one for found in targets for one in found.running_dependents} - services)),
    )


def _with_what_is_needed(
    session: Session, whole: Sequence[str], single: Collection[str], only: Collection[str] | None
) -> tuple[set[str], dict[str, Row[Any]]]:
    if only is None:
        rows = registry_reach.needed(session, single, whole)
        return {*single, *(row.id for row in rows.values() if row.group_name in whole)}, rows
    named = {*single, *(each for name in whole for each in _of_group(session, name, only))}
    rows = registry_reach.needed(session, named)
    return named, rows


def _of_group(session: Session, group: str, only: Collection[str] | None) -> Sequence[str]:
    registered_groups.get(session, group)
    members = registry_reach.services_of(session, [group])
    return members if only is None else [each for each in members if each in only]


def want(session: Session, service_ids: Collection[str], desired: Desired) -> None:
    """Say what these services are wanted to be. A start asked for by a person begins a new count of crashes."""
    if not service_ids:
        return
    values: dict[str, Any] = {"desired": desired.value, "down_cause": None, "down_since": None}
    if desired is Desired.RUNNING:
        values |= {"crash_count": 0, "restart_not_before": None}
    session.flush()
    session.execute(_WANT, values | {"ids": list(service_ids)})

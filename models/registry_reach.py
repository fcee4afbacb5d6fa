"""How far services and groups reach: what they need, who needs them, and who is restarted with them.

A group that depends on another needs all of its services, and so does each of its own services.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Row, Select, bindparam, select
from sqlalchemy.orm import Session

from domain import graph
from domain.container import services_lived_in
from domain.errors import GroupNotFound
from domain.specs import RuntimeKind
from domain.states import UP
from models.base import table_of
from models.groups import Group
from models.services import Service, ServiceDependency

_UP = tuple(status.value for status in UP)
_services, _needs, _groups = table_of(Service), table_of(ServiceDependency), table_of(Group)


def _reach(roots: ColumnElement[bool], start: ColumnElement[str], end: ColumnElement[str], *on: Any) -> Select[Any]:
    reached = select(_services.c.id).where(roots).cte("reached", recursive=True)
    reached = reached.union(select(end).join(reached, start == reached.c.id).where(*on))
    # A row that v1's tools left may name a service that is gone.
    return select(_services.c.id, _services.c.runtime, _services.c.group_name, _services.c.desired).join(
        reached, _services.c.id == reached.c.id
    )


# Built once: building one takes longer than its answer, and a start waits for it.
_roots: BindParameter[str] = bindparam("roots", expanding=True)
_NEEDED = _reach(_services.c.id.in_(_roots), _needs.c.service_id, _needs.c.depends_on)
_NEEDED_BY_GROUPS = _reach(_services.c.group_name.in_(_roots), _needs.c.service_id, _needs.c.depends_on)
_NEEDING = _reach(_services.c.id.in_(_roots), _needs.c.depends_on, _needs.c.service_id)
_FOLLOWING = _reach(_services.c.id.in_(_roots), _needs.c.depends_on, _needs.c.service_id, _needs.c.restart)
# Who needs one of these directly, and as what; only a service of the same group can be lived in.
_other = _services.alias("other")
_NEEDING_ONE = (
    select(_services.c.id, _services.c.container, _services.c.network_mode, _other.c.name)
    .join(_needs, _needs.c.service_id == _services.c.id)
    .join(_other, (_other.c.id == _needs.c.depends_on) & (_other.c.group_name == _services.c.group_name))
    .where(_other.c.id.in_(_roots))
)
_GROUP_NEEDS = select(_groups.c.name, _groups.c.dependencies).where(_groups.c.name.in_(_roots))
_ALL_GROUP_NEEDS = select(_groups.c.name, _groups.c.dependencies).where(_groups.c.dependencies.is_not(None))


def needed(session: Session, services: Collection[str], groups: Collection[str] = ()) -> dict[str, Row[Any]]:
    """These services, those of these groups, and all that they and their groups need, however far, by id.

    Raises:
        GroupNotFound: one of the groups is not registered.
    """
    found: dict[str, Row[Any]] = {row.id: row for row in _rows(session, _NEEDED, services)}
    names, whole, seen = set(groups), set[str](), set[str]()
    while True:
        found |= {row.id: row for row in _rows(session, _NEEDED_BY_GROUPS, names)}
        whole |= names
        # Of a group one service may be needed first, and all of it only later.
        fresh = ({row.group_name for row in found.values()} | names) - seen
        if not fresh:
            return found
        needs = {row.name: row.dependencies or () for row in _rows(session, _GROUP_NEEDS, fresh)}
        if missing := set(groups) & fresh - needs.keys():
            raise GroupNotFound(min(missing))
        seen |= fresh
        names = {other for each in needs.values() for other in each} - whole


def dependents(session: Session, roots: Collection[str]) -> set[str]:
    """Everything that needs one of these services, itself or as a group, however far, without them."""
    found: dict[str, Row[Any]] = {}
    waiting = set(roots)
    while waiting:
        found |= {row.id: row for row in _rows(session, _NEEDING, waiting)}
        groups = _groups_needing(session, {row.group_name for row in found.values()})
        waiting = set(services_of(session, groups)) - found.keys()
    return found.keys() - set(roots)


def _groups_needing(session: Session, names: Collection[str]) -> set[str]:
    """Without those that are named, unless they need one of these: of such a one all services do."""
    needs = {row.name: row.dependencies or () for row in session.execute(_ALL_GROUP_NEEDS)}
    turned = graph.reverse(needs)
    return graph.closure(turned, {other for name in names for other in turned.get(name, ())})


def following(session: Session, roots: Collection[str]) -> set[str]:
    """Who is restarted with one of these services, however far, without them: who asks for it (`restart: true`), and
    who lives in its container, whatever it asks for."""
    return _grown(roots, lambda new: {row.id for row in _rows(session, _FOLLOWING, new)} | _residents(session, new))


def residents(session: Session, of: Collection[str]) -> set[str]:
    """Who lives in the containers of these services, however far, without them: cut off when those are started."""
    return _grown(of, lambda new: _residents(session, new))


def _grown(roots: Collection[str], next_to: Callable[[set[str]], set[str]]) -> set[str]:
    """All that is reached from these over whatever is next to what was reached, without them."""
    found, new = set[str](), set(roots)
    while new:
        found |= new
        new = next_to(new) - found
    return found - set(roots)


def _residents(session: Session, of: Collection[str]) -> set[str]:
    rows = session.execute(_NEEDING_ONE, {"roots": list(of)})
    return {row.id for row in rows if row.name in services_lived_in(row.container or {}, row.network_mode)}


def running(session: Session, service_ids: Collection[str]) -> set[str]:
    """Those of these that run, by the record, and that CLOS starts and stops."""
    if not service_ids:
        return set()
    return set(
        session.scalars(
            select(Service.id).where(
                Service.id.in_(service_ids),
                Service.runtime != RuntimeKind.EXTERNAL.value,
                Service.status.in_(_UP),
            )
        )
    )


def _rows(session: Session, reach: Select[Any], roots: Collection[str]) -> Sequence[Row[Any]]:
    if not roots:
        return ()
    session.flush()
    return session.execute(reach, {"roots": list(roots)}).all()


def services_of(session: Session, group_names: Collection[str]) -> list[str]:
    """The ids of the groups' services, in order."""
    if not group_names:
        return []
    return list(
        session.scalars(select(Service.id).where(Service.group_name.in_(group_names)).order_by(Service.id)).all()
    )

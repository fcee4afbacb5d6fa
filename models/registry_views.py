"""Reading services for answers: plain rows in a handful of statements, since a list of 50 must cost milliseconds.

Mapped objects with eight eager relationships each take several times as long as the rows below.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from domain import references
from domain.errors import ServiceNotFound
from models import registry_drift, registry_waiting
from models.groups import Group
from models.installation import ServiceMetric
from models.ports import PortClaim
from models.services import (
    Service,
    ServiceDependency,
    ServiceEnvironment,
    ServiceNetwork,
    ServiceTag,
    ServiceVolume,
)

_table = Service.__table__
_columns = _table.c
_depended = aliased(Service)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_NO_TEXT, _NO_NUMBER, _NO_FLAG = literal_column("''", String), literal_column("0", Integer), false()


@dataclass(slots=True)
class ServiceView:
    """A service as it stands in the record. `depends_on` are (group, name or id, condition, required,
    restart)."""

    row: Row[Any]
    tags: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    waiting_for: list[dict[str, Any]] = field(default_factory=list)
    depends_on: list[tuple[str | None, str, str, bool, bool]] = field(default_factory=list)
    claims: list[Row[Any]] = field(default_factory=list)
    # The texts of its instance in which something is to be put in; a secret's is shown to nobody.
    texts: list[str] = field(default_factory=list)
    drift: bool = False
    drift_detail: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which services are meant. Several values of one field mean *or*; None means any."""

    group: Collection[str] | None = None
    status: Collection[str] | None = None
    health: Collection[str] | None = None
    runtime: Collection[str] | None = None
    tag: Collection[str] | None = None
    q: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As parts of a WHERE."""
        named = (
            (Service.group_name, self.group),
            (Service.status, self.status),
            (Service.health_status, self.health),
            (Service.runtime, self.runtime),
        )
        found: list[ColumnElement[bool]] = [column.in_(values) for column, values in named if values is not None]
        if self.tag is not None:
            found.append(exists().where(ServiceTag.service_id == Service.id, ServiceTag.tag.in_(self.tag)))
        if self.q:
            texts = (Service.id, Service.name, Service.description, Service.image)
            found.append(or_(*(column.icontains(self.q, autoescape=True) for column in texts)))
        return found


def count(session: Session, wanted: Filter) -> int:
    """How many services are meant."""
    return session.scalar(select(func.count()).select_from(Service).where(*wanted.conditions())) or 0


def page(session: Session, wanted: Filter, after: str | None, limit: int) -> list[ServiceView]:
    """Up to `limit` services by id, from after `after`."""
    query = select(_table).where(*wanted.conditions()).order_by(_columns.id).limit(limit)
    return _views(session, query if after is None else query.where(_columns.id > after))


def of_group(session: Session, group: str) -> list[ServiceView]:
    """Every service of a group, by id."""
    return _views(session, select(_table).where(_columns.group_name == group).order_by(_columns.id))


def one(session: Session, service_id: str) -> ServiceView:
    """The service of that id.

    Raises:
        ServiceNotFound: there is none.
    """
    found = _views(session, select(_table).where(_columns.id == service_id))
    if not found:
        raise ServiceNotFound(service_id)
    return found[0]


def runtime_of(session: Session, service_id: str) -> str:
    """What runs a service.

    Raises:
        ServiceNotFound: there is none.
    """
    found = session.scalar(select(Service.runtime).where(Service.id == service_id))
    if found is None:
        raise ServiceNotFound(service_id)
    return found


def _views(session: Session, query: Select[Any]) -> list[ServiceView]:
    views = {row.id: ServiceView(row) for row in session.execute(query).all()}
    if views:
        _add_children(session, views)
        registry_drift.add(session, list(views.values()))
        registry_waiting.add(session, views.values())
    return list(views.values())


def _child(kind: str, mapped: Any, a: Any, b: Any = _NO_TEXT, n: Any = _NO_NUMBER, flag: Any = _NO_FLAG) -> Select[Any]:
    return select(
        literal_column(f"'{kind}'").label("kind"),
        mapped.service_id.label("service_id"),
        a.label("a"),
        b.label("b"),
        n.label("n"),
        flag.label("flag"),
    ).where(mapped.service_id.in_(_IDS))


# One statement for all that hangs on services but ports and dependencies: each statement costs more than its rows.
_CHILDREN = union_all(
    _child("tag", ServiceTag, ServiceTag.tag),
    _child(
        "variable", ServiceEnvironment, ServiceEnvironment.key, ServiceEnvironment.value, flag=ServiceEnvironment.secret
    ),
    _child("volume", ServiceVolume, ServiceVolume.volume, n=ServiceVolume.position),
    _child("network", ServiceNetwork, ServiceNetwork.network),
).order_by("n", "a")
_CLAIMS = (
    select(PortClaim.__table__)
    .where(PortClaim.service_id.in_(_IDS), PortClaim.source == "spec")
    .order_by(PortClaim.position)
)
_DEPENDENCIES = (
    select(
        ServiceDependency.service_id,
        ServiceDependency.depends_on,
        _depended.group_name,
        _depended.name,
        ServiceDependency.condition,
        ServiceDependency.required,
        ServiceDependency.restart,
    )
    .outerjoin(_depended, _depended.id == ServiceDependency.depends_on)
    .where(ServiceDependency.service_id.in_(_IDS))
    .order_by(ServiceDependency.depends_on)
)


def _add_children(session: Session, views: dict[str, ServiceView]) -> None:
    ids = {"ids": list(views)}
    for kind, service_id, a, b, _, flag in session.execute(_CHILDREN, ids).all():
        view = views[service_id]
        if kind == "tag":
            view.tags.append(a)
        elif kind == "volume":
            view.volumes.append(a)
        elif kind == "network":
            view.networks.append(a)
        elif flag:
            view.secrets.append(a)
        else:
            view.environment[a] = b
        if kind == "variable" and "${" in b and references.written_in(b):
            view.texts.append(b)
    for claim in session.execute(_CLAIMS, ids).all():
        views[claim.service_id].claims.append(claim)
    for row in session.execute(_DEPENDENCIES, ids).all():
        need = (row.group_name, row.name or row.depends_on, row.condition, bool(row.required), bool(row.restart))
        views[row.service_id].depends_on.append(need)


def last_metrics(session: Session, service_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """The newest sample of each service that has one."""
    newest = (
        select(ServiceMetric.service_id, func.max(ServiceMetric.timestamp).label("at"))
        .where(ServiceMetric.service_id.in_(service_ids))
        .group_by(ServiceMetric.service_id)
        .subquery()
    )
    query = select(ServiceMetric.__table__).join(
        newest,
        (newest.c.service_id == ServiceMetric.service_id) & (newest.c.at == ServiceMetric.timestamp),
    )
    return {row.service_id: row for row in session.execute(query)}


def members_by_group(session: Session, names: Collection[str]) -> dict[str, list[Any]]:
    """Each group's services: id, status, health_status, desired, runtime."""
    found: dict[str, list[Any]] = defaultdict(list)
    query = (
        select(Service.group_name, Service.id, Service.status, Service.health_status, Service.desired, Service.runtime)
        .where(Service.group_name.in_(names))
        .order_by(Service.id)
    )
    for row in session.execute(query):
        found[row.group_name].append(row)
    return found


def count_groups(session: Session) -> int:
    """How many groups there are."""
    return session.scalar(select(func.count()).select_from(Group)) or 0


def names_of_group(session: Session, group: str) -> dict[str, str]:
    """The names of a group's services by id."""
    rows = session.execute(select(Service.id, Service.name).where(Service.group_name == group))
    return {row.id: row.name for row in rows}


def graph_rows(session: Session, service_ids: Collection[str]) -> tuple[Sequence[Any], Sequence[Any]]:
    """These services as nodes, and what each of them needs as edges."""
    nodes = session.execute(
        select(
            Service.id,
            Service.name,
            Service.group_name,
            Service.runtime,
            Service.status,
            Service.health_status,
            (
                Service.health_check_enabled & (Service.health_check_type.is_not(None) | (Service.health_url != ""))
            ).label("checked"),
        )
        .where(Service.id.in_(service_ids))
        .order_by(Service.id)
    ).all()
    edges = session.execute(
        select(ServiceDependency.__table__)
        .where(ServiceDependency.service_id.in_(service_ids))
        .order_by(ServiceDependency.service_id, ServiceDependency.depends_on)
    ).all()
    return nodes, edges

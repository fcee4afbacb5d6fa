"""Specs as they are made to act: every reference is what it means just now. And who refers to whom.

Whatever starts, probes or compares a service gets its spec here; in `Service.spec()` the texts are as written.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Text,
    bindparam,
    cast,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from domain import references
from domain.container import own_network
from domain.reachability import Consumer, Provider, prober_of
from domain.references import Kind, Providers, Reference
from domain.specs import PortRequest, RuntimeKind, ServiceSpec
from models.groups import Group
from models.ports import PortClaim
from models.services import Service, ServiceEnvironment
from models.surroundings import NOTHING, Surroundings, of_groups, surrounded

_COMMAND, HEALTH_URL = "command", "health_check.url"
_MENTION = "%${%:%}%"


def _mentions(*where: ColumnElement[bool]) -> CompoundSelect[Any]:
    """Every text that may hold references. Raw JSON will do: it escapes none of their characters."""
    named = (Service.id, Service.group_name, Service.runtime, Service.network_mode)
    variables: Any = (
        select(
            *named,
            ServiceEnvironment.key.label("field"),
            ServiceEnvironment.value.label("text"),
            ServiceEnvironment.secret.label("secret"),
        )
        .join(ServiceEnvironment, ServiceEnvironment.service_id == Service.id)
        .where(ServiceEnvironment.value.like(_MENTION), *where)
    )
    own: list[Any] = [
        select(*named, literal_column(f"'{field}'"), cast(column, Text), null()).where(
            cast(column, Text).like(_MENTION), *where
        )
        for field, column in ((_COMMAND, Service.command), (HEALTH_URL, Service.health_url))
    ]
    return union_all(variables, *own).order_by("id", "field")


_ALL_MENTIONS = _mentions()
_MENTIONS_IN_GROUP = _mentions(Service.group_name == bindparam("group"))
_PROVIDERS = (
    select(
        Service.id,
        Service.name,
        Service.group_name,
        Service.runtime,
        Service.network_mode,
        Service.port,
        Group.network_name,
        Group.networks,
        PortClaim.id.label("claim"),
        PortClaim.name.label("port_name"),
        PortClaim.host_ip,
        PortClaim.port.label("host_port"),
        PortClaim.container_port,
        PortClaim.protocol,
    )
    .outerjoin(Group, Group.name == Service.group_name)
    .outerjoin(PortClaim, (PortClaim.service_id == Service.id) & (PortClaim.source == "spec"))
    .order_by(Service.id, PortClaim.position)
)


def specs(
    session: Session, services: Sequence[Service], around: Mapping[str, Surroundings] | None = None
) -> dict[str, ServiceSpec]:
    """These services as values that can be started, by id. `around` is what their groups give them, if it is known.

    What a reference cannot mean any more stands in the spec's `unresolved`.
    """
    if around is None:
        around = of_groups(session, {service.group_name for service in services})
    written = [service.spec(around.get(service.group_name, NOTHING).network_name) for service in services]
    written = surrounded(session, written, around)
    wanted: set[tuple[str, str]] = set()
    for spec in written:
        url = spec.health_check.url if spec.health_check is not None else None
        wanted |= references.named_by(references.find((*references.texts_of(spec), url)), spec.group)
    known = providers(session, wanted)
    return {spec.id: references.resolved(spec, known) for spec in written}


def providers(session: Session, wanted: Collection[tuple[str, str]]) -> Providers:
    """What can be referred to, of these groups and names; asks the record once, and not at all for nothing."""
    if not wanted:
        return {}
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    groups, names = {group for group, _ in wanted}, {name for _, name in wanted}
    for row in session.execute(_PROVIDERS.where(Service.group_name.in_(groups), Service.name.in_(names))):
        if (row.group_name, row.name) in wanted:
            found[row.group_name, row.name].append(row)
    return {key: _provider(rows) for key, rows in found.items()}


def _provider(rows: Sequence[Any]) -> Provider:
    first = rows[0]
    ports = [
        PortRequest(row.port_name, row.host_ip, row.host_port, row.container_port, row.protocol)
        for row in rows
        if row.claim is not None
    ]
    if not ports and first.port is not None:  # a row that v1 wrote
        ports = [PortRequest(host_port=first.port, container_port=first.port)]
    return Provider(
        first.id,
        first.name,
        first.group_name,
        RuntimeKind(first.runtime),
        first.network_mode,
        own_network(first.network_name, first.networks),
        tuple(ports),
    )


@dataclass(frozen=True, slots=True)
class Mention:
    """A reference in a field of a service. `consumer` is who reaches for it: for a health URL, the host."""

    consumer: Consumer
    field: str
    reference: Reference

    def named(self) -> set[tuple[str, str]]:
        """The groups and names of the services that it may mean."""
        return references.named_by([self.reference], self.consumer.group)


def mentions(session: Session, group: str | None = None) -> Iterator[Mention]:
    """Every reference in one group's services, or in the whole registry: that reads all texts, so it is for writing."""
    session.flush()
    rows = session.execute(_ALL_MENTIONS) if group is None else session.execute(_MENTIONS_IN_GROUP, {"group": group})
    for row in rows:
        field = row.field
        if row.secret is not None:
            field = f"{'secrets' if row.secret else 'environment'}.{row.field}"
        consumer = Consumer(row.id, row.group_name, RuntimeKind(row.runtime), row.network_mode)
        if field == HEALTH_URL:
            consumer = prober_of(consumer)
        for reference in references.find([row.text]):
            yield Mention(consumer, field, reference)


def referencing(session: Session, service_ids: Collection[str], *, by_host_port: bool = False) -> dict[str, set[str]]:
    """Whose instances refer to one of these services, and to which of them.

    A service's references to itself do not count, nor does a health URL: it follows by itself. With `by_host_port`,
    only who would have to be started again if these services got other host ports: containers know each other by the
    ports inside.
    """
    meant: dict[str, set[str]] = defaultdict(set)
    for mention, provider in meeting(session, service_ids):
        inside = mention.consumer.bridged and provider.bridged
        follows = by_host_port and (inside or mention.reference.kind is Kind.HOST)
        if provider.id != mention.consumer.id and mention.field != HEALTH_URL and not follows:
            meant[mention.consumer.id].add(provider.id)
    return dict(meant)


def meeting(session: Session, service_ids: Collection[str]) -> Iterator[tuple[Mention, Provider]]:
    """Every reference that means one of these services, with that service."""
    if not service_ids:
        return
    rows = session.execute(select(Service.group_name, Service.name).where(Service.id.in_(service_ids)))
    wanted = {(group, name) for group, name in rows}
    near = [each for each in mentions(session) if not each.named().isdisjoint(wanted)]
    known = providers(session, {pair for each in near for pair in each.named()})
    for mention in near:
        found = references.provider_of(mention.reference, mention.consumer.group, known)
        if found is not None and found[0].id in service_ids:
            yield mention, found[0]

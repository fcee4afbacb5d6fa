"""What a group gives its services: its network, the networks and volumes that it defines, its folder."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.container import networks_named, own_network, services_lived_in, services_named
from domain.errors import UnknownDependency
from domain.specs import ServiceSpec
from models.groups import Group
from models.services import Service, ServiceDependency


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of one group. `version` is the group's own: what stands here changes with it."""

    network_name: str = ""
    networks: Mapping[str, Any] = field(default_factory=dict)
    volumes: Mapping[str, Any] = field(default_factory=dict)
    directory: str = ""
    version: int = 0


NOTHING = Surroundings()


def attach(session: Session, service: Service) -> None:
    """Let a service wait for those whose containers its own is attached to: it cannot be made without them.

    Raises:
        UnknownDependency: one is not registered.
    """
    named = services_named(service.container or {}, service.network_mode)
    if not named:
        return
    known = {row.depends_on for row in service.dependencies}
    # As Compose has it: who lives in another one's container is restarted with it.
    inside = services_lived_in(service.container or {}, service.network_mode)
    ids = _ids(session, {(service.group_name, name) for name in named})
    for name in sorted(named):
        other = ids.get((service.group_name, name))
        if other is None:
            raise UnknownDependency(f"{service.group_name}/{service.name}", name)
        if other not in known:
            need = ServiceDependency(depends_on=other, condition="started", required=True, restart=name in inside)
            service.dependencies.append(need)


def of(group: Any) -> Surroundings:
    """Those of a group, or of a row with its columns."""
    networks = group.networks or {}
    name = own_network(group.network_name, networks)
    return Surroundings(name, networks, group.volumes or {}, group.directory or "", group.spec_version)


def of_groups(session: Session, groups: Collection[str]) -> dict[str, Surroundings]:
    """Those of these groups, in one statement; none for groups that there are not."""
    if not groups:
        return {}
    columns = (Group.name, Group.network_name, Group.networks, Group.volumes, Group.directory, Group.spec_version)
    return {row.name: of(row) for row in session.execute(select(*columns).where(Group.name.in_(groups)))}


def surrounded(session: Session, specs: Iterable[ServiceSpec], around: Mapping[str, Surroundings]) -> list[ServiceSpec]:
    """These specs with what their groups define of what they name."""
    listed = list(specs)
    ids = _ids(session, {(spec.group, name) for spec in listed for name in _attached(spec)})
    return [_surrounded(spec, around.get(spec.group, NOTHING), ids) for spec in listed]


def _surrounded(spec: ServiceSpec, group: Surroundings, ids: Mapping[tuple[str, str], str]) -> ServiceSpec:
    networks, volumes = networks_named(spec.container, spec.networks), volumes_named(spec)
    found = {
        "networks": {name: group.networks[name] or {} for name in networks if name in group.networks},
        "volumes": {name: group.volumes[name] or {} for name in volumes if name in group.volumes},
        "services": {name: ids[spec.group, name] for name in _attached(spec) if (spec.group, name) in ids},
    }
    return replace(spec, definitions={kind: each for kind, each in found.items() if each}, directory=group.directory)


def _attached(spec: ServiceSpec) -> list[str]:
    return sorted(services_named(spec.container, spec.network_mode))


def volumes_named(spec: ServiceSpec) -> list[str]:
    """The volumes that a service mounts by name, as its group would define them."""
    short = (volume.partition(":")[0] for volume in spec.volumes if ":" in volume and not volume.startswith("/"))
    long = (each.get("source") for each in spec.container.get("volumes") or () if each["type"] == "volume")
    return sorted({name for name in (*short, *long) if name})


def _ids(session: Session, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    if not wanted:
        return {}
    groups, names = {group for group, _ in wanted}, {name for _, name in wanted}
    rows = session.execute(
        select(Service.group_name, Service.name, Service.id).where(
            Service.group_name.in_(groups), Service.name.in_(names)
        )
    )
    return {(group, name): service_id for group, name, service_id in rows if (group, name) in wanted}

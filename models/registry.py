"""Defining services: what is written when one is created, changed or deleted.

`fields` are validated already (`api/v2/service_schemas.py`); what only the record can tell is checked here: names,
dependencies, ports, and that what the runtime needs is there. Whoever calls this holds the write transaction.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from domain.errors import ClosError, OperationInProgress, ServiceExists, ServiceNotFound, ValidationFailed
from domain.specs import CheckType, RuntimeKind
from domain.states import UP, ServiceStatus
from models import groups, registry_graph, registry_ports, registry_references, surroundings
from models.groups import Group
from models.operations import OperationLock
from models.ports import PortClaim, PortLease
from models.services import (
    Service,
    ServiceDependency,
    ServiceEnvironment,
    ServiceNetwork,
    ServiceTag,
    ServiceVolume,
)

NO_PORTS: frozenset[int] = frozenset()
# The fields that are columns of the same name.
PLAIN = (
    "runtime",
    "image",
    "build",
    "command",
    "working_dir",
    "user",
    "labels",
    "restart_policy",
    "restart_by",
    "cpu_limit",
    "memory_limit",
    "network_mode",
    "dns_servers",
    "container",
    "stop_timeout",
    "description",
    "version",
    "owner",
)
# What says whom a service waits for.
ORDERING = ("depends_on", "container", "network_mode")
_CHECK = {
    "enabled": "health_check_enabled",
    "type": "health_check_type",
    "url": "health_url",
    "port": "health_check_port",
    "test": "health_check_test",
    "interval": "health_check_interval",
    "timeout": "health_check_timeout",
    "retries": "health_check_retries",
    "start_period": "health_check_start_period",
    "expected_status": "health_expected_status",
}
_CHECK_DEFAULTS: dict[str, Any] = {
    "health_check_enabled": True,
    "health_check_interval": 30.0,
    "health_check_timeout": 10.0,
    "health_check_retries": 3,
    "health_check_start_period": 30.0,
    "health_expected_status": 200,
}


class ServiceRequired(ClosError):
    """Others cannot do without it; `required_by` names them."""

    code = "service_required"

    def __init__(self, what: str, required_by: list[str]) -> None:
        super().__init__(
            f"{what} is needed by {', '.join(required_by[:10])}",
            hint="change or delete what needs it first",
            required_by=required_by,
        )


def get(session: Session, service_id: str) -> Service:
    """The service of that id.

    Raises:
        ServiceNotFound: there is none.
    """
    found = session.get(Service, service_id)
    if found is None:
        raise ServiceNotFound(service_id)
    return found


def has_instance(service: Service) -> bool:
    """Whether a container or a process of it is there, running or not, or may be."""
    if service.runtime == RuntimeKind.EXTERNAL:
        return False
    # A process that has ended leaves its record behind, and perhaps processes that it had started.
    ended = service.runtime == RuntimeKind.PROCESS and service.observed_hash is not None
    return bool(service.container_id or service.pid) or ended or is_running(service)


def may_have_left(service: Service) -> bool:
    """Whether something of it may be on the machine: an instance, or the networks of a container that is gone."""
    tried = service.started_at is not None or service.status == ServiceStatus.FAILED
    return has_instance(service) or (service.runtime == RuntimeKind.DOCKER and tried)


def is_running(service: Service) -> bool:
    """Whether it was last seen to run; what cannot be seen now may run if it is wanted to."""
    if service.runtime == RuntimeKind.EXTERNAL:
        return False
    status = ServiceStatus(service.status)
    unseen = status is ServiceStatus.UNKNOWN and service.desired == "running"
    return status in UP or status is ServiceStatus.STOPPING or unseen


def create_service(session: Session, fields: Mapping[str, Any], reserved: Collection[int] = NO_PORTS) -> Service:
    """Register a service, and its group if there is none. `reserved` are CLOS's own ports.

    Raises:
        ServiceExists, UnknownDependency, DependencyCycle, RangeFull, UnreachableReference
        ValidationFailed: something that its runtime needs or that it refers to is missing, or a port is CLOS's own.
    """
    group = groups.ensure(session, fields["group"])
    neighbours = registry_references.Referring(session, group.name, fields["name"], within=group.name)
    service = draft(session, group, fields, frozenset(reserved))
    bind(session, group, service, fields, frozenset(reserved))
    registry_references.check(session, service)
    # What meant a service of a group of that name may mean a port of this one from now on.
    neighbours.refuse_if_broken(session, service, ("name",))
    if any(fields.get(name) for name in ORDERING):
        registry_graph.refuse_cycles(session)
    return service


def draft(session: Session, group: Group, fields: Mapping[str, Any], reserved: frozenset[int]) -> Service:
    """The first half of registering: the row and its claims, so that others of the same request can name it."""
    name = fields["name"]
    taken = session.scalar(select(Service.id).where(Service.group_name == group.name, Service.name == name))
    if taken is not None:
        raise ServiceExists(f"there is a service {name!r} in group {group.name!r} already", service_id=taken)
    service = Service(id=_new_id(session, group.name, name), name=name, group_name=group.name, desired="stopped")
    service.runtime = RuntimeKind.DOCKER.value
    service.restart_policy = group.restart_policy or "unless-stopped"
    service.restart_by = "clos"
    service.network_mode = "bridge"
    service.stop_timeout = 30.0
    service.status = ServiceStatus.STOPPED.value
    service.spec_version = 1
    for column, value in _CHECK_DEFAULTS.items():
        setattr(service, column, value)
    session.add(service)
    _write(service, fields, reserved)
    session.flush()
    return service


def bind(session: Session, group: Group, service: Service, fields: Mapping[str, Any], reserved: frozenset[int]) -> None:
    """The second half: its dependencies and leases, once everything that they may name is there."""
    if "depends_on" in fields:
        _depend(session, service, fields["depends_on"] or [])
    surroundings.attach(session, service)
    _check(service)
    if "ports" in fields or "port" in fields:
        registry_ports.lease_all(session, service, group.project, reserved)
    session.flush()


def _new_id(session: Session, group: str, name: str) -> str:
    """`<group>-<name>`; where `a-b` + `c` and `a` + `b-c` would be equal, the later one gets a number."""
    wish = f"{group}-{name}"
    candidate, number = wish, 1
    while session.scalar(select(Service.id).where(Service.id == candidate)) is not None:
        number += 1
        candidate = f"{wish}-{number}"
    return candidate


def change_service(
    session: Session, service: Service, fields: Mapping[str, Any], reserved: Collection[int] = NO_PORTS
) -> bool:
    """Change what is wanted of a service; its instance is left as it is. Whether anything changed.

    A field that is given replaces what was, null takes it away; `secrets` and `health_check` are changed key by key.

    Raises:
        UnknownDependency, DependencyCycle, RangeFull, ValidationFailed, UnreachableReference
    """
    kind = fields.get("runtime", service.runtime)
    if kind != service.runtime and has_instance(service):
        raise ValidationFailed({"runtime": ["It has an instance: stop and remove that first."]})
    before = _wanted(service)
    group = groups.get(session, service.group_name)
    referring = None
    if registry_references.is_felt(fields):
        referring = registry_references.Referring(session, service.group_name, service.name)
    _write(service, fields, frozenset(reserved))
    bind(session, group, service, fields, frozenset(reserved))
    registry_references.check(session, service)
    if referring is not None:
        referring.refuse_if_broken(session, service, fields)
    if any(fields.get(name) for name in ORDERING):
        registry_graph.refuse_cycles(session)
    changed = _wanted(service) != before
    if changed:
        service.spec_version += 1
    session.flush()
    return changed


def _wanted(service: Service) -> tuple[Any, ...]:
    """Everything that a change of makes a new version."""
    return (
        service.spec(),
        service.description,
        service.version,
        service.owner,
        service.health_check_enabled,
        sorted(row.tag for row in service.tags),
        sorted((row.key, row.value, bool(row.secret)) for row in service.environment),
    )


def _write(service: Service, fields: Mapping[str, Any], reserved: frozenset[int]) -> None:
    for name in PLAIN:
        if name in fields:
            setattr(service, name, fields[name])
    if "tags" in fields:
        service.tags = [ServiceTag(tag=tag) for tag in sorted(set(fields["tags"] or ()))]
    if "volumes" in fields:
        service.volumes = [ServiceVolume(position=i, volume=v) for i, v in enumerate(fields["volumes"] or ())]
    if "networks" in fields:
        service.networks = [ServiceNetwork(network=name) for name in sorted(set(fields["networks"] or ()))]
    if "environment" in fields or "secrets" in fields:
        _write_environment(service, fields)
    if "ports" in fields or "port" in fields:
        registry_ports.claim(service, _ports(service, fields), reserved)
    if "health_check" in fields or "health_url" in fields:
        _write_health_check(service, fields)


def _write_environment(service: Service, fields: Mapping[str, Any]) -> None:
    secrets = {row.key: row.value for row in service.environment if row.secret}
    plain = {row.key: row.value for row in service.environment if not row.secret}
    if "environment" in fields:
        plain = dict(fields["environment"] or {})
    if "secrets" in fields:
        given = fields["secrets"]
        secrets = {} if given is None else {k: v for k, v in (secrets | given).items() if v is not None}
    if both := sorted(plain.keys() & secrets.keys()):
        raise ValidationFailed({"secrets": {key: ["It stands in environment as well."] for key in both}})
    service.environment = [
        ServiceEnvironment(key=key, value=value, secret=secret)
        for rows, secret in ((plain, False), (secrets, True))
        for key, value in sorted(rows.items())
    ]


def _ports(service: Service, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ports that a request means; `port` alone is the first one's host port."""
    if "ports" in fields:
        return list(fields["ports"] or ())
    kept: list[dict[str, Any]] = [
        {
            "name": each.name,
            "host_ip": each.host_ip,
            "host_port": None if each.left_open else each.port,
            "container_port": each.container_port,
            "protocol": each.protocol,
        }
        for each in service.claims
    ]
    if fields["port"] is None:
        return kept[1:]
    return [(kept[0] if kept else {}) | {"host_port": fields["port"]}, *kept[1:]]


def _write_health_check(service: Service, fields: Mapping[str, Any]) -> None:
    given = fields.get("health_check", {})
    if given is None or ("health_check" not in fields and fields["health_url"] is None):
        for column in _CHECK.values():
            setattr(service, column, _CHECK_DEFAULTS.get(column))
        return
    if "health_url" in fields:
        given = {"url": fields["health_url"], **given}
    for name, column in _CHECK.items():
        if name in given:
            setattr(service, column, given[name] if given[name] is not None else _CHECK_DEFAULTS.get(column))
    if given.get("type") is None:
        implied = (("url", CheckType.HTTP), ("port", CheckType.TCP), ("test", CheckType.EXEC))
        kind = next((kind for name, kind in implied if given.get(name)), None)
        if kind is not None:
            service.health_check_type = kind.value


def _depend(session: Session, service: Service, references: list[Mapping[str, Any]]) -> None:
    ids = registry_graph.resolve(session, service.group_name, service.name, references)
    rows = {
        other: ServiceDependency(
            depends_on=other,
            condition=reference.get("condition") or "started",
            required=reference.get("required", True),
            restart=reference.get("restart", False),
        )
        for other, reference in zip(ids, references, strict=True)
    }
    if len(rows) != len(ids):
        raise ValidationFailed({"depends_on": ["Each service may be named once."]})
    service.dependencies = list(rows.values())


def _check(service: Service) -> None:
    """Raises: ValidationFailed: something that its runtime or its health check needs is missing."""
    errors: dict[str, list[str]] = {}
    if service.runtime == RuntimeKind.DOCKER and not (service.image or service.build):
        errors["image"] = ["A docker service needs an image or a build."]
    if service.runtime == RuntimeKind.PROCESS and not service.command:
        errors["command"] = ["A process service needs a command."]
    if service.runtime == RuntimeKind.EXTERNAL and not (service.claims or service.health_url):
        errors["port"] = ["An external service needs a port or a health_url, to be watched by."]
    if service.runtime == RuntimeKind.EXTERNAL and any(each.port is None for each in service.claims):
        errors["ports"] = ["An external service's host_port must be given: CLOS does not choose it."]
    if service.container and service.runtime != RuntimeKind.DOCKER:
        errors["container"] = [f"Only docker services are containers; this one's runtime is {service.runtime}."]
    errors |= _check_health(service)
    if errors:
        raise ValidationFailed(errors)


def _check_health(service: Service) -> dict[str, list[str]]:
    kind, url = service.health_check_type, service.health_url
    if kind is None and url is None:
        return {}
    named = service.health_check_port
    wrong = {
        "an http check needs a url": kind == CheckType.HTTP and not url,
        "an exec check needs a test": kind == CheckType.EXEC and not service.health_check_test,
        "a tcp check needs a port": kind == CheckType.TCP and not service.claims,
        "a path needs a port to be asked on": bool(url and url.startswith("/") and not service.claims),
        "no port has that name": named is not None and named not in {each.name for each in service.claims},
        "docker checks only docker services": kind == CheckType.DOCKER and service.runtime != RuntimeKind.DOCKER,
    }
    messages = [f"{text[0].upper()}{text[1:]}." for text, is_so in wrong.items() if is_so]
    return {"health_check": messages} if messages else {}


def refuse_if_held(session: Session, targets: Collection[str]) -> None:
    """Raises: OperationInProgress: an operation works on one of these lock targets."""
    rival = session.execute(
        select(OperationLock.target, OperationLock.operation_id)
        .where(OperationLock.target.in_(targets))
        .order_by(OperationLock.target)
        .limit(1)
    ).first()
    if rival is not None:
        raise OperationInProgress(rival.target, rival.operation_id)


def refuse_if_required(session: Session, what: str, service_ids: Collection[str]) -> None:
    """Raises: ServiceRequired: a service outside of these waits for one of them, or refers to one."""
    waiting = registry_graph.required_by(session, service_ids)
    others = sorted({*waiting, *registry_references.referring(session, service_ids)})
    if others:
        raise ServiceRequired(what, others)


def delete_service(session: Session, service_id: str) -> None:
    """Forget a service; its leases are free from then on. What it had running is not touched.

    Raises:
        ServiceNotFound: there is none.
        ServiceRequired: another cannot do without it.
    """
    get(session, service_id)
    refuse_if_required(session, service_id, [service_id])
    forget(session, [service_id])


def forget(session: Session, service_ids: Collection[str]) -> None:
    """Take services out of the record, with all that belongs to them."""
    session.flush()
    leases = session.scalars(select(PortLease).where(PortLease.service_id.in_(service_ids))).all()
    session.execute(delete(ServiceDependency).where(ServiceDependency.depends_on.in_(service_ids)))
    session.execute(delete(PortClaim).where(PortClaim.service_id.in_(service_ids)))
    registry_ports.release(session, leases)
    # The rest goes by the database's own rule: foreign keys cascade.
    session.execute(delete(Service).where(Service.id.in_(service_ids)))

"""Groups as they stand in the record, in the form in which they were defined: what a new import is compared with."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.groups import Group
from models.services import Service

_GROUP = (
    "name", "description", "project", "dependencies", "start_order", "network_name", "restart_policy", "conflicts",
    "reconcile", "networks", "volumes", "directory",
)  # fmt: skip
_SERVICE = (
    "name", "runtime", "image", "build", "command", "working_dir", "user", "network_mode", "dns_servers", "labels",
    "restart_policy", "restart_by", "cpu_limit", "memory_limit", "stop_timeout", "description", "version", "owner",
    "container",
)  # fmt: skip


def of_group(session: Session, group: Group) -> dict[str, Any]:
    """A group as a body of `POST /groups`, with its services' secrets: never to be shown."""
    services = session.scalars(select(Service).where(Service.group_name == group.name).order_by(Service.id)).all()
    body = {name: getattr(group, name) for name in _GROUP}
    names = _names(session, services)
    return body | {"services": [of_service(service, names) for service in services]}


def of_service(service: Service, names: dict[str, str]) -> dict[str, Any]:
    """A service as a body of `POST /services`, with its secrets. `names` are those of what it depends on, by id."""
    body: dict[str, Any] = {name: getattr(service, name) for name in _SERVICE}
    body["environment"] = {row.key: row.value for row in service.environment if not row.secret}
    body["secrets"] = {row.key: row.value for row in service.environment if row.secret}
    body["volumes"] = [row.volume for row in service.volumes]
    body["networks"] = [row.network for row in service.networks]
    body["tags"] = [row.tag for row in service.tags]
    body["ports"] = [
        {
            "name": port.name,
            "host_ip": port.host_ip,
            "host_port": port.host_port,
            "container_port": port.container_port,
            "protocol": port.protocol,
        }
        for port in service.port_requests()
    ]
    body["depends_on"] = [
        {
            "service": names.get(row.depends_on, row.depends_on),
            "condition": row.condition,
            "required": row.required,
            "restart": row.restart,
        }
        for row in service.dependencies
    ]
    return body | {"health_check": _health_check(service)}


def _health_check(service: Service) -> dict[str, Any] | None:
    kind = service.health_check_type or ("http" if service.health_url else None)
    if kind is None and service.health_check_enabled:
        return None
    return {
        "enabled": service.health_check_enabled,
        "type": kind,
        "url": service.health_url,
        "port": service.health_check_port,
        "test": service.health_check_test,
        "interval": service.health_check_interval,
        "timeout": service.health_check_timeout,
        "retries": service.health_check_retries,
        "start_period": service.health_check_start_period,
        "expected_status": service.health_expected_status,
    }


def _names(session: Session, services: Sequence[Service]) -> dict[str, str]:
    """How each service that these depend on is named from their group."""
    wanted = {row.depends_on for service in services for row in service.dependencies}
    if not wanted:
        return {}
    rows = session.execute(select(Service.id, Service.group_name, Service.name).where(Service.id.in_(wanted)))
    own = {service.group_name for service in services}
    return {row.id: row.name if row.group_name in own else f"{row.group_name}/{row.name}" for row in rows}

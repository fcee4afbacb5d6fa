"""A group as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.v2.service_answers import definition
from api.yaml_text import yaml_text
from domain.compose.writing import written as as_compose
from domain.states import UP, Desired, HealthStatus, ServiceStatus, group_status
from models.base import written
from models.groups import Group
from models.registry_views import ServiceView

_PLAIN = (
    "name", "description", "project", "start_order", "compose_file", "network_name", "restart_policy", "reconcile",
    "spec_version", "cloned_from",
)  # fmt: skip
_WELL = {HealthStatus.HEALTHY.value, HealthStatus.NONE.value}


def shown(group: Group, members: Sequence[Any]) -> dict[str, Any]:
    """A group (interface.md, Group). `members` are rows of its services (`registry_views.members_by_group`)."""
    statuses = [ServiceStatus(row.status) for row in members]
    body: dict[str, Any] = {name: getattr(group, name) for name in _PLAIN}
    body["conflicts"] = _policy(group)
    body["networks"], body["volumes"], body["directory"] = group.networks or {}, group.volumes or {}, group.directory
    body["dependencies"] = group.dependencies or []
    body["services"] = [row.id for row in members]
    body["status"] = group_status(statuses).value
    body["health_score"] = health_score(members)
    body["counts"] = {
        "total": len(members),
        "running": sum(status in UP for status in statuses),
        "healthy": sum(_is_well(row) for row in members),
        "failed": sum(status is ServiceStatus.FAILED for status in statuses),
    }
    body["expires_at"] = written(group.expires_at)
    body["created_at"] = written(group.created_at)
    body["updated_at"] = written(group.updated_at)
    return body


def _policy(group: Group) -> dict[str, Any] | None:
    """Its conflict policy under the names of the contract."""
    if group.conflicts is None:
        return None
    return {name.removesuffix("_s"): value for name, value in group.conflicts.items()}


def _is_well(row: Any) -> bool:
    return row.status == ServiceStatus.RUNNING.value and row.health_status in _WELL


def health_score(members: Sequence[Any]) -> float:
    """The share of the services that are wanted to run which run and are not ill; 1 if none is wanted."""
    wanted = [row for row in members if row.desired == Desired.RUNNING.value]
    return round(sum(_is_well(row) for row in wanted) / len(wanted), 3) if wanted else 1.0


_DEFINED = (
    "name", "description", "project", "dependencies", "start_order", "compose_file", "network_name", "restart_policy",
    "conflicts", "reconcile", "networks", "volumes", "directory",
)  # fmt: skip


def export(group: Group, views: Sequence[ServiceView]) -> dict[str, Any]:
    """A group as a body of `POST /groups`. Secrets are never given back, so they are not in it."""
    named = {name: getattr(group, name) for name in _DEFINED} | {"conflicts": _policy(group)}
    body = {name: value for name, value in named.items() if value not in (None, [], {})}
    return body | {"services": [definition(view) for view in views]}


def export_compose(body: Mapping[str, Any], views: Sequence[ServiceView]) -> dict[str, Any]:
    """The same as a Compose file's text, and the secrets that have to be given again."""
    secrets = {view.row.name: view.secrets for view in views if view.secrets}
    text = yaml_text(as_compose(body, secrets))
    names = [f"{service}.{name}" for service, each in sorted(secrets.items()) for name in each]
    return {"name": body["name"], "compose": text, "secrets": names}

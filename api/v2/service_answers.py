"""A service as JSON, made by hand: marshmallow would take longer over a list of 50 than all the rest together."""

from collections.abc import Mapping
from typing import Any

from flask import Response, json

from models.base import written
from models.registry_views import ServiceView

_PLAIN = (
    "id", "name", "runtime", "desired", "status", "image", "build", "command", "working_dir", "user", "network_mode",
    "restart_policy", "restart_by", "cpu_limit", "memory_limit", "stop_timeout", "port", "health_url", "description",
    "version", "owner", "spec_version",
)  # fmt: skip
_POINT = (
    "cpu_usage", "memory_usage", "memory_percent", "network_rx", "network_tx", "disk_read", "disk_write",
    "response_time",
)  # fmt: skip
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - where to call, not to bind


def as_json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is JSON already, so that no schema goes over it again."""
    response = Response(json.dumps(body), status, mimetype="application/json")
    response.headers.extend(dict(headers or {}))
    return response


def shown(view: ServiceView, metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    """A service (interface.md, Service)."""
    row = view.row._mapping
    body: dict[str, Any] = {name: row[name] for name in _PLAIN}
    group = body["group"] = row["group_name"]
    body["health"] = health(row)
    body["waiting_for"] = view.waiting_for
    body["drift"] = view.drift
    body["drift_detail"] = view.drift_detail
    body["observed"] = {
        "container_id": row["container_id"],
        "pid": row["pid"],
        "exit_code": row["exit_code"],
        "restarts": row["restarts"],
        "down_cause": row["down_cause"],
        "down_since": written(row["down_since"]),
        "observed_at": written(row["observed_at"]),
    }
    body["environment"] = view.environment
    body["secrets"] = view.secrets
    body["volumes"] = view.volumes
    body["networks"] = view.networks
    body["dns_servers"] = row["dns_servers"] or []
    body["labels"] = row["labels"] or {}
    body["container"] = row["container"] or {}
    body["ports"] = _ports(view)
    body["depends_on"] = [
        {
            "service": name if other in (None, group) else f"{other}/{name}",
            "condition": condition,
            "required": required,
            "restart": restart,
        }
        for other, name, condition, required, restart in view.depends_on
    ]
    body["health_check"] = _health_check(row)
    body["tags"] = view.tags
    for name in ("started_at", "stopped_at", "created_at", "updated_at"):
        body[name] = written(row[name])
    return body if metrics is None else body | metrics


def health(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What its health check last said."""
    return {
        "status": row["health_status"],
        "last_check": written(row["last_health_check"]),
        "response_time_ms": row["health_response_time"],
        "detail": row["health_detail"],
    }


def _ports(view: ServiceView) -> list[dict[str, Any]]:
    if not view.claims and view.row.port is not None:  # a row that v1 wrote
        return [_port("", "127.0.0.1", view.row.port, view.row.port, "tcp")]
    return [_port(each.name, each.host_ip, each.port, each.container_port, each.protocol) for each in view.claims]


def _port(name: str, host_ip: str, host_port: int | None, container_port: int | None, protocol: str) -> dict[str, Any]:
    url = None
    if protocol == "tcp" and host_port is not None:
        host = _EVERYWHERE.get(host_ip) or (f"[{host_ip}]" if ":" in host_ip else host_ip)
        url = f"http://{host}:{host_port}"
    return {
        "name": name,
        "host_ip": host_ip,
        "host_port": host_port,
        "container_port": container_port,
        "protocol": protocol,
        "url": url,
    }


def _health_check(row: Mapping[Any, Any]) -> dict[str, Any] | None:
    kind = row["health_check_type"] or ("http" if row["health_url"] else None)
    if kind is None and row["health_check_enabled"]:
        return None
    return {
        "enabled": bool(row["health_check_enabled"]),
        "type": kind,
        "url": row["health_url"],
        "port": row["health_check_port"],
        "test": row["health_check_test"],
        "interval": row["health_check_interval"],
        "timeout": row["health_check_timeout"],
        "retries": row["health_check_retries"],
        "start_period": row["health_check_start_period"],
        "expected_status": row["health_expected_status"],
    }


def point(row: Any) -> dict[str, Any]:
    """One sample of a service's resources."""
    return {"timestamp": written(row.timestamp)} | {name: getattr(row, name) for name in _POINT}


# What a definition may hold, so that an export can be given to POST again.
_DEFINED = (
    "name", "runtime", "image", "build", "command", "working_dir", "user", "environment", "volumes", "networks",
    "network_mode", "dns_servers", "labels", "container", "restart_policy", "restart_by", "cpu_limit", "memory_limit",
    "stop_timeout", "ports", "depends_on", "health_check", "tags", "description", "version", "owner",
)  # fmt: skip


def definition(view: ServiceView) -> dict[str, Any]:
    """A service as a body of `POST /services`, without its group and its secrets, as it was asked for."""
    body = shown(view)
    found = {name: body[name] for name in _DEFINED if body[name] not in (None, [], {})}
    found["ports"] = [_asked_for(each, view) for each in body["ports"]]
    if "health_check" in found:
        found["health_check"] = {k: v for k, v in body["health_check"].items() if v is not None}
    return found


def _asked_for(port: Mapping[str, Any], view: ServiceView) -> dict[str, Any]:
    """A port without the number that was only leased: whoever registers it again is given one of their own."""
    chosen = view.row.runtime == "external"  # nobody else can choose its ports
    leased = not chosen and any(each.left_open for each in view.claims if each.name == port["name"])
    found = {key: value for key, value in port.items() if key != "url" and value is not None}
    if leased:
        number = found.pop("host_port", None)
        # In the host's network there is but one number.
        if view.row.network_mode == "host" and found.get("container_port") == number:
            found.pop("container_port", None)
    return found

"""The system itself: health, probes, facts, metrics."""

import os
import platform
import shutil
from typing import Any

from flask import Response, json
from marshmallow import Schema, fields
from sqlalchemy import func, select

from api import condition
from api.auth import public, requires
from api.blueprints import ClosBlueprint
from api.parts import parts
from domain import engine_api
from models import events
from models.operations import Operation
from models.services import Service

_CHECKS = ("database", "redis", "workers", "scheduler", "docker", "disk")
blp = ClosBlueprint("system", __name__, description="CLOS itself")


class CheckSchema(Schema):
    """One part of the whole."""

    status = fields.String(required=True, metadata={"enum": ["ok", "degraded", "failed", "absent"]})
    detail = fields.String(required=True)
    latency_ms = fields.Float(required=True, allow_none=True)


class SystemHealthSchema(Schema):
    """`degraded`: it works, something is missing. `unhealthy`: it does not work."""

    status = fields.String(required=True, metadata={"enum": ["healthy", "degraded", "unhealthy"]})
    version = fields.String(required=True)
    uptime = fields.Float(required=True, metadata={"description": "seconds"})
    checks = fields.Nested(
        Schema.from_dict(
            {name: fields.Nested(CheckSchema, required=True) for name in _CHECKS}, name="SystemHealthChecks"
        ),
        required=True,
    )


class ProbeSchema(Schema):
    """A probe's answer."""

    status = fields.String(required=True)


class EngineSchema(Schema):
    """Docker's engine, as a worker last saw it."""

    id = fields.String(required=True, allow_none=True)
    name = fields.String(required=True, allow_none=True)
    version = fields.String(required=True, allow_none=True)
    api_version = fields.String(
        required=True, allow_none=True, metadata={"description": "what is spoken; of one not supported, its newest"}
    )
    warning = fields.String(required=True, allow_none=True)
    supported = fields.Dict(keys=fields.String(), values=fields.String(), required=True)


class InfoSchema(Schema):
    """The machine and what runs on it. Memory in MB, disk in MB."""

    version = fields.String(required=True)
    build = fields.String(required=True)
    instance_id = fields.String(required=True)
    environment = fields.String(required=True)
    cpu_count = fields.Integer(required=True)
    memory_total = fields.Integer(required=True)
    disk_total = fields.Integer(required=True)
    docker = fields.Nested(EngineSchema, required=True, allow_none=True)
    websocket_url = fields.String(required=True)


def _as_json(body: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")


@blp.route("/health", endpoint="health_short")
@blp.route("/api/v2/health")
@public
@blp.response(200, SystemHealthSchema)
@blp.alt_response(503, schema=SystemHealthSchema)
def health() -> Response:
    """How CLOS is

    503 only if it does not work at all.
    """
    found = condition.condition(parts())
    return _as_json(found, 503 if found["status"] == "unhealthy" else 200)


@blp.route("/health/live")
@public
@blp.response(200, ProbeSchema)
def live() -> Response:
    """Whether the process answers"""
    return _as_json({"status": "ok"}, 200)


@blp.route("/health/ready")
@public
@blp.response(200, ProbeSchema)
@blp.alt_response(503, schema=ProbeSchema)
def ready() -> Response:
    """Whether it can take requests: whether the record answers"""
    status = condition.check_database(parts().record)["status"]
    return _as_json({"status": status}, 200 if status == "ok" else 503)


@blp.route("/api/v2/system/info")
@requires("system:read")
@blp.response(200, InfoSchema)
def info() -> dict[str, Any]:
    """Read what this installation is"""
    settings = parts().settings
    engine = condition.docker_facts(condition.heartbeats(parts().record))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "version": settings.version,
        "build": f"python-{platform.python_version()}",
        "instance_id": settings.instance_id,
        "environment": settings.environment,
        "cpu_count": os.cpu_count() or 1,
        "memory_total": memory // 1024**2,
        "disk_total": shutil.disk_usage(settings.home).total // 1024**2,
        "docker": _engine(engine),
        "websocket_url": settings.websocket.public_url,
    }


def _engine(facts: dict[str, Any]) -> dict[str, Any] | None:
    """The engine, if one answers, also one that is not supported; and between which API versions one is."""
    if not facts.get("api_version"):
        return None
    warning = facts.get("warning") if facts.get("status") == "ok" else facts.get("detail")
    named = {name: facts.get(name) for name in ("id", "name", "version", "api_version")}
    return named | {"warning": warning, "supported": {"oldest": engine_api.OLDEST, "newest": engine_api.NEWEST}}


@blp.route("/metrics")
@requires("metrics:read")
@blp.response(200, {"type": "string"}, content_type="text/plain")
def metrics() -> Response:
    """Read counters and gauges as Prometheus text"""
    shared = parts()
    with shared.record.read() as session:
        operations = session.execute(select(Operation.status, func.count()).group_by(Operation.status)).all()
        services = session.execute(select(Service.status, func.count()).group_by(Service.status)).all()
        last_event = events.last_id(session)
    beats = condition.heartbeats(shared.record)
    lines = [
        *_family("clos_operations", "gauge", "Operations by status", [(f'status="{s}"', n) for s, n in operations]),
        *_family("clos_services", "gauge", "Services by status", [(f'status="{s}"', n) for s, n in services]),
        *_family("clos_events_total", "counter", "Events ever logged", [("", last_event)]),
        *_family(
            "clos_processes",
            "gauge",
            "Processes heard of",
            [(f'role="{role}"', sum(b.role == role for b in beats)) for role in ("worker", "scheduler")],
        ),
    ]
    return Response("\n".join(lines) + "\n", mimetype="text/plain", content_type="text/plain; version=0.0.4")


def _family(name: str, kind: str, text: str, samples: list[tuple[str, int]]) -> list[str]:
    shown = [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in samples]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *shown]

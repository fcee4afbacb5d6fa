"""How CLOS is: what `/health` says. Reads the record, asks Redis, looks at the disk; never touches the machine."""

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from api.parts import Parts
from models.base import now
from models.installation import SILENT_AFTER_S, Heartbeat
from models.record import Record
from models.services import Service

_LOW_BYTES = 1024**3
_FULL_BYTES = 100 * 1024**2
Check = dict[str, Any]


def _check(status: str, detail: str, latency_ms: float | None = None) -> Check:
    return {"status": status, "detail": detail, "latency_ms": latency_ms}


def _timed(look: Callable[[], str]) -> Check:
    began = time.perf_counter()
    detail = look()
    return _check("ok", detail, round((time.perf_counter() - began) * 1000, 3))


def check_database(record: Record) -> Check:
    """Whether the record answers."""

    def look() -> str:
        with record.read() as session:
            session.execute(text("SELECT 1"))
        return record.url.get_backend_name()

    try:
        return _timed(look)
    except SQLAlchemyError as refusal:
        return _check("failed", f"the database does not answer ({type(refusal).__name__})")


def check_redis(client: "redis.Redis") -> Check:
    """Whether Redis answers; without it work is accepted and waits."""

    def look() -> str:
        client.ping()
        return "answers"

    try:
        return _timed(look)
    except (redis.RedisError, OSError) as refusal:
        return _check("failed", f"Redis does not answer ({type(refusal).__name__})")


def check_disk(home: Path) -> Check:
    """How much room is left where CLOS keeps its things."""
    try:
        free = shutil.disk_usage(home).free
    except OSError as refusal:
        return _check("failed", f"{home}: {refusal.strerror}")
    status = "failed" if free < _FULL_BYTES else "degraded" if free < _LOW_BYTES else "ok"
    return _check(status, f"{free // 1024**2} MB free")


def heartbeats(record: Record) -> list[Heartbeat]:
    """What the other processes last said of themselves, newest first, as long as it is fresh.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    with record.read() as session:
        fresh = Heartbeat.at > now() - timedelta(seconds=SILENT_AFTER_S)
        return list(session.scalars(select(Heartbeat).where(fresh).order_by(Heartbeat.at.desc())))


def check_processes(beats: list[Heartbeat], role: str) -> Check:
    """Whether a process of that role was heard of."""
    heard = sum(beat.role == role for beat in beats)
    return _check("ok", f"{heard} running") if heard else _check("failed", f"no {role} was heard of")


def docker_facts(beats: list[Heartbeat]) -> dict[str, Any]:
    """What a worker last saw of Docker's engine; empty if no worker says anything."""
    for beat in beats:
        if beat.role == "worker" and (beat.facts or {}).get("docker"):
            return dict((beat.facts or {})["docker"])
    return {}


def check_docker(record: Record, beats: list[Heartbeat]) -> Check:
    """Whether the engine answers; absent is no fault while no service needs one."""
    facts = docker_facts(beats)
    status = str(facts.get("status", "absent"))
    if status == "ok":
        told = str(facts.get("version") or facts.get("detail") or "answers")
        if facts.get("api_version"):
            told += f", API {facts['api_version']}"
        return _check("ok", "; ".join(filter(None, (told, facts.get("warning")))), facts.get("latency_ms"))
    detail = str(facts.get("detail") or "no engine was seen")
    if status == "absent":
        with record.read() as session:
            needed = session.scalar(select(Service.id).where(Service.runtime == "docker").limit(1))
        return _check("failed", f"{detail}; services need one") if needed else _check("absent", detail)
    return _check("failed", detail)


def condition(shared: Parts) -> dict[str, Any]:
    """The whole answer of `/health`."""
    checks = {"database": check_database(shared.record), "redis": check_redis(shared.redis)}
    unknown = _check("degraded", "the database does not answer")
    checks |= {"workers": unknown, "scheduler": unknown, "docker": unknown}
    if checks["database"]["status"] == "ok":
        try:
            beats = heartbeats(shared.record)
            checks["workers"] = check_processes(beats, "worker")
            checks["scheduler"] = check_processes(beats, "scheduler")
            checks["docker"] = check_docker(shared.record, beats)
        except SQLAlchemyError as refusal:
            checks["database"] = _check("failed", f"the database does not answer ({type(refusal).__name__})")
    checks["disk"] = check_disk(shared.settings.home)
    wrong = any(check["status"] in ("failed", "degraded") for check in checks.values())
    status = "unhealthy" if checks["database"]["status"] == "failed" else "degraded" if wrong else "healthy"
    return {
        "status": status,
        "version": shared.settings.version,
        "uptime": round(time.monotonic() - shared.started_at, 3),
        "checks": checks,
    }

"""The health round: every check that is due, dead ones delaying no other."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta

import structlog
from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, lazyload

from domain.errors import ClosError
from domain.events import EventType, Severity
from domain.specs import RuntimeKind, ServiceSpec
from domain.states import UP, HealthStatus, ServiceStatus
from models import events, resolved_specs
from models.base import now
from models.operations import OperationLock, service_target
from models.services import Service
from workers.context import Context
from workers.runtimes.probes import ProbeResult, probe

log = structlog.get_logger()
_AT_ONCE = 48
# A tick waits so long for its results; what takes longer is written when it comes, and delays no other check.
_ROUND_S = 0.8
_Probed = tuple[ServiceSpec, datetime, ProbeResult]


class Rounds:
    """The health rounds of one worker process. A service whose check still runs is not checked again meanwhile."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(_AT_ONCE, "clos-health")
        self._under_way: set[str] = set()
        self._guard = threading.Lock()

    def collect(self) -> None:
        """Probe what is due and write what answers soon in one transaction."""
        found = _due(self._context)
        with self._guard:
            due = [spec for spec in found if spec.id not in self._under_way]
            self._under_way |= {spec.id for spec in due}
        if not due:
            return
        probes = [self._pool.submit(self._probe, spec) for spec in due]
        soon = wait(probes, _ROUND_S)
        for late in soon.not_done:
            late.add_done_callback(self._write_late)
        self._write([probe.result() for probe in soon.done])

    def _probe(self, spec: ServiceSpec) -> _Probed:
        began_at = now()
        try:
            return spec, began_at, _probe(self._context, spec)
        finally:
            with self._guard:
                self._under_way.discard(spec.id)

    def _write_late(self, probed: "Future[_Probed]") -> None:
        try:
            self._write([probed.result()])
        except (ClosError, SQLAlchemyError) as refusal:
            log.warning("health.not_written", error=str(refusal))

    def _write(self, results: Sequence[_Probed]) -> None:
        if not results:
            return
        with self._context.record.write() as session:
            locked = set(session.scalars(select(OperationLock.target)))
            told = [_note(session, *result) for result in results if service_target(result[0].id) not in locked]
        if any(told):
            self._context.feed.wake()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=True)


def _due(context: Context) -> Sequence[ServiceSpec]:
    at = now()
    up = (ServiceStatus.RUNNING.value, ServiceStatus.UNHEALTHY.value, ServiceStatus.STARTING.value)
    with context.record.read() as session:
        locked = set(session.scalars(select(OperationLock.target)))
        checked = session.execute(
            select(Service.id, Service.last_health_check, Service.health_check_interval).where(
                Service.health_check_enabled,
                or_(Service.health_check_type.is_not(None), Service.health_url.is_not(None)),
                or_(Service.status.in_(up), Service.runtime == RuntimeKind.EXTERNAL.value),
            )
        ).all()
        due = [
            row.id
            for row in checked
            if service_target(row.id) not in locked
            and (
                row.last_health_check is None
                or row.last_health_check + timedelta(seconds=row.health_check_interval) <= at
            )
        ]
        if not due:
            return []
        services = session.scalars(select(Service).where(Service.id.in_(due))).all()
        return list(resolved_specs.specs(session, services).values())


def _probe(context: Context, spec: ServiceSpec) -> ProbeResult:
    kind = RuntimeKind.PROCESS.value if spec.runtime is RuntimeKind.EXTERNAL else spec.runtime.value
    assert spec.health_check is not None  # noqa: S101 - _due chose it
    try:
        return probe(spec, spec.health_check, context.runtimes[kind])
    except ClosError as refusal:
        return ProbeResult(False, refusal.message, 0.0)


def _note(session: Session, spec: ServiceSpec, began_at: datetime, result: ProbeResult) -> bool:
    """Write one result. Whether readers must be told."""
    service = session.get(Service, spec.id, options=[lazyload("*")])
    if service is None or _is_outdated(service, began_at):
        return False
    service.last_health_check = now()
    service.health_response_time = result.response_time_ms
    service.health_detail = result.detail[:500]
    service.health_failures = 0 if result.ok else service.health_failures + 1
    new = _health(service, result)
    if new.value == service.health_status:
        return False
    data = {"from": service.health_status, "to": new.value, "detail": service.health_detail}
    service.health_status = new.value
    severity = Severity.WARNING if new is HealthStatus.UNHEALTHY else Severity.INFO
    _append(session, service, EventType.SERVICE_HEALTH_CHANGED, data, severity)
    status = _status(service, new)
    if status.value != service.status:
        data = {"from": service.status, "to": status.value, "reason": service.health_detail or new.value}
        service.status = status.value
        _append(session, service, EventType.SERVICE_STATUS_CHANGED, data, severity)
    return True


def _is_outdated(service: Service, began_at: datetime) -> bool:
    """Whether the service was stopped, started anew or checked by another worker while this probe was under way."""
    if service.last_health_check is not None and service.last_health_check > began_at:
        return True
    if service.runtime == RuntimeKind.EXTERNAL.value:
        return False
    started_since = service.started_at is not None and service.started_at > began_at
    return started_since or ServiceStatus(service.status) not in UP


def _health(service: Service, result: ProbeResult) -> HealthStatus:
    if result.ok:
        return HealthStatus.HEALTHY
    in_grace = service.started_at is not None and now() < service.started_at + timedelta(
        seconds=service.health_check_start_period
    )
    was = HealthStatus(service.health_status)
    if service.health_failures < service.health_check_retries or (in_grace and was is HealthStatus.STARTING):
        return was if was is not HealthStatus.NONE else HealthStatus.STARTING
    return HealthStatus.UNHEALTHY


def _status(service: Service, health: HealthStatus) -> ServiceStatus:
    if health is HealthStatus.HEALTHY:
        return ServiceStatus.RUNNING
    if health is HealthStatus.UNHEALTHY:
        external = service.runtime == RuntimeKind.EXTERNAL.value
        return ServiceStatus.STOPPED if external else ServiceStatus.UNHEALTHY
    return ServiceStatus(service.status)


def _append(session: Session, service: Service, type_: EventType, data: dict[str, str], severity: Severity) -> None:
    events.append(
        session,
        type_,
        dict(data),
        severity=severity,
        actor="system:health",
        service_id=service.id,
        group_name=service.group_name,
    )

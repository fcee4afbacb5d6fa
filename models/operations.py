"""Operations, their steps and locks. Who may work on one is decided here, by compare-and-set.

An operation's row is the truth and its message only a hint. A claim raises `fence`; every later write of that
claim names its fence, so a worker that lost its claim changes nothing. The pattern is Procrastinate's and Polar's;
fencing numbers are Kleppmann's.
"""

import os
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    Float,
    ForeignKey,
    Index,
    String,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, Session, lazyload, make_transient_to_detached, mapped_column, relationship
from sqlalchemy.orm.attributes import set_committed_value

from domain.errors import ClaimLost, OperationInProgress, OperationNotFound, Poison
from domain.events import EventType, Severity
from domain.states import CLAIMED, FINAL, OperationStatus, StepStatus
from models import events
from models.base import Base, now, table_of

SILENT_AFTER_S = 6.0
MAX_CLAIMS = 3
_ACTIVE_SQL = "status NOT IN ('completed', 'failed', 'cancelled')"


def new_id() -> str:
    """A UUIDv7 (RFC 9562): its order is the order of time, which keeps lists and indexes in order."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Operation(Base):
    """One thing that was asked for, from its request to its end."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("ix_operations_active", "status", "id", sqlite_where=text(_ACTIVE_SQL),
              postgresql_where=text(_ACTIVE_SQL)),
    )  # fmt: skip
    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    type: Mapped[str] = mapped_column(String(40), index=True)
    status: Mapped[str] = mapped_column(String(20), default=OperationStatus.PENDING.value)
    group_name: Mapped[str | None] = mapped_column(String(50), index=True)
    service_id: Mapped[str | None] = mapped_column(String(160), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(36), index=True)
    parameters: Mapped[dict[str, Any] | None]
    dependencies: Mapped[list[str] | None]
    progress: Mapped[int] = mapped_column(default=0, server_default="0")
    current_step: Mapped[str | None] = mapped_column(String(250))
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    question: Mapped[dict[str, Any] | None]
    # What it has promised to undo if it fails or is cancelled, written before its first change. Never shown.
    compensation: Mapped[dict[str, Any] | None]
    initiated_by: Mapped[str | None] = mapped_column(String(100))
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_of: Mapped[str | None] = mapped_column(String(36))
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    # Delivery.
    not_before: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    sends: Mapped[int] = mapped_column(default=0, server_default="0")
    cancel_requested_at: Mapped[datetime | None]
    # The claim.
    fence: Mapped[int] = mapped_column(default=0, server_default="0")
    claimed_by: Mapped[dict[str, Any] | None]
    heartbeat_at: Mapped[datetime | None]

    steps: Mapped[list["OperationStep"]] = relationship(
        order_by="OperationStep.position", cascade="all, delete-orphan", lazy="selectin"
    )


class OperationStep(Base):
    """One step of an operation's plan, and how it went."""

    __tablename__ = "operation_steps"
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(250), primary_key=True)
    position: Mapped[int]
    action: Mapped[str] = mapped_column(String(20))
    target: Mapped[str] = mapped_column(String(200))
    depends_on: Mapped[list[str] | None]
    cause: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(10), default=StepStatus.PENDING.value)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    # What earlier runs of it took, in seconds: its weight in the operation's progress.
    expected_s: Mapped[float | None] = mapped_column(Float)
    error: Mapped[dict[str, Any] | None]


class OperationLock(Base):
    """`target` (`service:<id>` or `group:<name>`) belongs to one active operation: the primary key says so."""

    __tablename__ = "operation_locks"
    target: Mapped[str] = mapped_column(String(200), primary_key=True)
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), index=True)


class OperationWait(Base):
    """`operation_id` is `waiting` until `waits_for` has ended, and ended well where `must_succeed`."""

    __tablename__ = "operation_waits"
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    waits_for: Mapped[str] = mapped_column(String(36), primary_key=True, index=True)
    must_succeed: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)


class StepTiming(Base):
    """How long a step of that id usually takes: a moving average over its runs, in seconds."""

    __tablename__ = "step_timings"
    step_id: Mapped[str] = mapped_column(String(250), primary_key=True)
    seconds: Mapped[float] = mapped_column(Float)
    samples: Mapped[int] = mapped_column(default=1, server_default="1")
    updated_at: Mapped[datetime] = mapped_column(default=now, index=True)


# Built once, and on tables: a request waits for them, and building one takes longer than carrying it out.
_operations, _locks = table_of(Operation), table_of(OperationLock)
_INSERT, _LOCK = insert(_operations), insert(_locks)
_RIVAL = (
    select(_locks.c.target, _locks.c.operation_id)
    .where(_locks.c.target.in_(bindparam("targets", expanding=True)))
    .order_by(_locks.c.target)
    .limit(1)
)
_CLAIM = update(_operations).where(
    _operations.c.id == bindparam("of_id"),
    _operations.c.fence == bindparam("of_fence"),
    _operations.c.status == bindparam("of_status"),
)
_FRESH: dict[str, Any] = dict.fromkeys(column.key for column in _operations.columns) | {
    "status": OperationStatus.PENDING.value,
    "progress": 0,
    "attempt": 0,
    "sends": 0,
    "fence": 0,
}


def service_target(service_id: str) -> str:
    """The lock's name of a service."""
    return f"service:{service_id}"


def group_target(name: str) -> str:
    """The lock's name of a group."""
    return f"group:{name}"


def get(session: Session, operation_id: str) -> Operation:
    """The operation of that id.

    Raises:
        OperationNotFound: there is none.
    """
    found = session.get(Operation, operation_id)
    if found is None:
        raise OperationNotFound(operation_id)
    return found


def create(session: Session, type_: str, *, targets: Iterable[str] = (), **fields: Any) -> Operation:
    """Write an operation, `pending`, with its locks and its event.

    Raises:
        OperationInProgress: a target is held by another operation. Nothing is written.
    """
    wanted = sorted(set(targets))
    session.flush()
    if wanted and (rival := session.execute(_RIVAL, {"targets": wanted}).first()) is not None:
        raise OperationInProgress(rival.target, rival.operation_id)
    row = _FRESH | {"id": new_id(), "type": type_, "created_at": now()} | fields
    session.execute(_INSERT, row)
    if wanted:
        session.execute(_LOCK, [{"target": target, "operation_id": row["id"]} for target in wanted])
    operation = _written(session, row)
    _tell(session, operation, EventType.OPERATION_CREATED)
    return operation


def _written(session: Session, row: dict[str, Any]) -> Operation:
    """The operation of a row that was inserted just now, as if it had been read: a caller may still change it."""
    operation = Operation(**row, steps=[])
    make_transient_to_detached(operation)
    session.add(operation)
    return operation


def claim(session: Session, operation_id: str, worker: dict[str, Any], at: datetime) -> Operation | None:
    """Take an operation that nobody works on. None if somebody does, if it has ended, or is not yet due.

    The third worker that falls silent over an operation is the last: then it ends `failed`, `poison`, and None is
    returned as well.
    """
    operation = session.get(Operation, operation_id, with_for_update=True, populate_existing=True)
    if operation is None or not _is_claimable(operation, at):
        return None
    if operation.attempt >= MAX_CLAIMS:
        finish(session, operation, OperationStatus.FAILED, error=_poison(operation).as_dict())
        return None
    cancelling = operation.cancel_requested_at is not None and operation.attempt
    values = {
        "status": (OperationStatus.CANCELLING if cancelling else OperationStatus.IN_PROGRESS).value,
        "fence": operation.fence + 1,
        "attempt": operation.attempt + 1,
        "claimed_by": worker,
        "heartbeat_at": at,
        "start_time": operation.start_time or at,
    }
    taken = session.execute(
        _CLAIM, values | {"of_id": operation_id, "of_fence": operation.fence, "of_status": operation.status}
    )
    if taken.rowcount != 1:  # type: ignore[attr-defined]
        return None
    # Nobody else can have written the row since it was read, so it is not read again.
    for name, value in values.items():
        set_committed_value(operation, name, value)
    _tell(session, operation, EventType.OPERATION_PROGRESS)
    return operation


def _is_claimable(operation: Operation, at: datetime) -> bool:
    status = OperationStatus(operation.status)
    if status is OperationStatus.PENDING:
        return operation.not_before is None or operation.not_before <= at
    return status in CLAIMED and is_silent(operation, at)


def is_silent(operation: Operation, at: datetime) -> bool:
    """Whether the worker that claimed it has not been heard of for `SILENT_AFTER_S`."""
    return operation.heartbeat_at is None or operation.heartbeat_at < at - timedelta(seconds=SILENT_AFTER_S)


def _poison(operation: Operation) -> Poison:
    return Poison(
        f"{operation.attempt} workers fell silent while they worked on it",
        hint="read the workers' logs of that time, then retry it",
        attempts=operation.attempt,
    )


def held(session: Session, operation_id: str, fence: int) -> Operation:
    """The operation, if the claim of that fence still holds. Every write of a worker begins with this.

    Raises:
        ClaimLost: another worker has claimed it, or it has ended.
    """
    # Without its steps: a plan may have hundreds, and each write concerns one.
    operation = session.get(
        Operation, operation_id, with_for_update=True, populate_existing=True, options=[lazyload(Operation.steps)]
    )
    if operation is None or operation.fence != fence or OperationStatus(operation.status) not in CLAIMED:
        raise ClaimLost(f"operation {operation_id} is no longer this worker's")
    return operation


def heartbeat(session: Session, claims: Sequence[tuple[str, int]], at: datetime) -> list[str]:
    """Say that these (operation id, fence) are being worked on. Returns the ids of those that were lost."""
    lost = []
    for operation_id, fence in claims:
        beat = session.execute(
            update(Operation)
            .where(
                Operation.id == operation_id,
                Operation.fence == fence,
                Operation.status.in_([status.value for status in CLAIMED]),
            )
            .values(heartbeat_at=at)
            .execution_options(synchronize_session=False)
        )
        if beat.rowcount != 1:  # type: ignore[attr-defined]
            lost.append(operation_id)
    return lost


def hand_back(operation: Operation) -> None:
    """Give an operation back unfinished, for another worker. This is no attempt."""
    operation.status = OperationStatus.PENDING.value
    operation.attempt -= 1
    operation.claimed_by = None
    operation.heartbeat_at = None
    operation.not_before = None
    operation.sent_at = None


def silence(operation: Operation) -> None:
    """Make a claim count as silent at once, because its worker is known to be dead."""
    operation.heartbeat_at = None


def finish(
    session: Session,
    operation: Operation,
    status: OperationStatus,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """End an operation and let go of its locks, in one transaction with its events."""
    if OperationStatus(operation.status) in FINAL:
        raise ClaimLost(f"operation {operation.id} has ended already")
    for step in operation.steps:
        if StepStatus(step.status) in (StepStatus.PENDING, StepStatus.RUNNING):
            step.status = StepStatus.SKIPPED.value
            step.ended_at = now()
    operation.status = status.value
    operation.end_time = now()
    operation.current_step = None
    operation.question = None
    operation.result = result if result is not None else operation.result
    operation.error = error
    if status is OperationStatus.COMPLETED:
        operation.progress = 100
    session.flush()
    session.execute(delete(OperationLock).where(OperationLock.operation_id == operation.id))
    severity = Severity.ERROR if status is OperationStatus.FAILED else Severity.INFO
    _tell(session, operation, EventType.OPERATION_COMPLETED, severity)
    if operation.type.startswith("group."):
        _tell(session, operation, EventType.GROUP_OPERATION_COMPLETED, severity)


def progress(session: Session, operation: Operation, step: dict[str, Any] | None = None) -> None:
    """Tell how far it has come."""
    _tell(session, operation, EventType.OPERATION_PROGRESS, step=step)


def due(session: Session, at: datetime, limit: int = 200) -> Sequence[Operation]:
    """Active operations that nobody works on and that may be worked on now, oldest first."""
    silent_since = at - timedelta(seconds=SILENT_AFTER_S)
    nobodys = or_(Operation.heartbeat_at.is_(None), Operation.heartbeat_at < silent_since)
    pending = and_(
        Operation.status == OperationStatus.PENDING.value,
        or_(Operation.not_before.is_(None), Operation.not_before <= at),
    )
    silent = and_(Operation.status.in_([status.value for status in CLAIMED]), nobodys)
    return session.scalars(select(Operation).where(or_(pending, silent)).order_by(Operation.id).limit(limit)).all()


def _tell(
    session: Session,
    operation: Operation,
    type_: EventType,
    severity: Severity = Severity.INFO,
    step: dict[str, Any] | None = None,
) -> None:
    data: dict[str, Any] = {
        "type": operation.type,
        "status": operation.status,
        "progress": operation.progress,
        "current_step": operation.current_step,
    }
    if step is not None:
        data["step"] = step
    if operation.error is not None:
        data["error"] = operation.error
    events.append(
        session,
        type_,
        data,
        severity=severity,
        actor=operation.initiated_by,
        service_id=operation.service_id,
        group_name=operation.group_name,
        operation_id=operation.id,
    )

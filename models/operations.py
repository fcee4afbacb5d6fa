"""Operations, their steps and locks. Who may work on one is decided here, by compare-and-set.

An operation's row is the truth and its message only a hint. A claim raises `fence`; every later write of that
claim names its fence, so a worker that lost its claim changes nothing. The pattern is Procrastinate's and Polar's;
fencing numbers are Kleppmann's.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, text, update
from sqlalchemy.orm import Session, lazyload, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from domain.errors import ClaimLost, OperationInProgress, OperationNotFound
from domain.events import EventType, Severity
from domain.states import CLAIMED, FINAL, OperationStatus, StepStatus
from models import operation_batches, operation_poison, operation_queue, operation_slots, operation_waiting
from models.base import now, table_of
from models.operation_events import tell
from models.operation_poison import MAX_CLAIMS
from models.operation_queue import End
from models.operation_rows import (
    ACTIVE_SQL,
    Operation,
    OperationLock,
    OperationStep,
    OperationWait,
    StepTiming,
    group_target,
    new_id,
    service_target,
)
from models.operation_steps import Standing

# Whoever works with operations finds their rows here too.
__all__ = [
    "MAX_CLAIMS",
    "Operation",
    "OperationLock",
    "OperationStep",
    "OperationWait",
    "StepTiming",
    "group_target",
    "new_id",
    "service_target",
]
SILENT_AFTER_S = 6.0

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
    tell(session, operation, EventType.OPERATION_CREATED)
    return operation


def _written(session: Session, row: dict[str, Any]) -> Operation:
    """The operation of a row that was inserted just now, as if it had been read: a caller may still change it."""
    operation = Operation(**row, steps=[])
    make_transient_to_detached(operation)
    session.add(operation)
    return operation


def claim(
    session: Session, operation_id: str, worker: dict[str, Any], at: datetime, slots: int | None = None
) -> Operation | None:
    """Take an operation that nobody works on. None if somebody does, if it has ended, or is not yet due; or if the
    worker's host works on `slots` operations already (None: as many as ask).

    What a person asked for comes first: it may be taken in the place of this one, which is sent again then.

    The third worker that falls silent over an operation is the last: then it ends `failed`, `poison`, and None is
    returned as well. An update or a take-over that is armed is given out three times more, for its way back alone.
    """
    operation = session.get(Operation, operation_id, with_for_update=True, populate_existing=True)
    if operation is None or not _is_claimable(operation, at):
        return None
    if operation.attempt >= MAX_CLAIMS and not operation_poison.turns_back(operation):
        result, error = operation_poison.left_behind(session, operation), operation_poison.poison(operation)
        finish(session, operation, OperationStatus.FAILED, result=result, error=error.as_dict())
        return None
    # One that is to end does so at once, whoever has the slots: it only undoes what it has promised to.
    if operation_slots.takes_one(operation) and operation.cancel_requested_at is None:
        host, silent_since = str(worker.get("host")), at - timedelta(seconds=SILENT_AFTER_S)
        if slots is not None and not operation_slots.is_free(session, host, slots, silent_since):
            operation_slots.go_without(session, operation, host, slots)
            return None
        if (first := operation_slots.before(session, operation, at)) is not None:
            operation = session.get_one(Operation, first, with_for_update=True, populate_existing=True)
    return _take(session, operation, worker, at)


def _take(session: Session, operation: Operation, worker: dict[str, Any], at: datetime) -> Operation | None:
    if operation.waiting_for:
        operation_waiting.say(session, operation, [])
    cancelling = operation.cancel_requested_at is not None and operation.attempt
    values = {
        "status": (OperationStatus.CANCELLING if cancelling else OperationStatus.IN_PROGRESS).value,
        "fence": operation.fence + 1,
        "attempt": operation.attempt + 1,
        "claimed_by": worker,
        "heartbeat_at": at,
        "start_time": operation.start_time or at,
        "waiting_for": None,
    }
    taken = session.execute(
        _CLAIM, values | {"of_id": operation.id, "of_fence": operation.fence, "of_status": operation.status}
    )
    if taken.rowcount != 1:  # type: ignore[attr-defined]
        return None
    # Nobody else can have written the row since it was read, so it is not read again.
    for name, value in values.items():
        set_committed_value(operation, name, value)
    tell(session, operation, EventType.OPERATION_PROGRESS)
    return operation


def _is_claimable(operation: Operation, at: datetime) -> bool:
    status = OperationStatus(operation.status)
    if status is OperationStatus.PENDING:
        return operation.not_before is None or operation.not_before <= at
    return status in CLAIMED and is_silent(operation, at)


def is_silent(operation: Operation, at: datetime) -> bool:
    """Whether the worker that claimed it has not been heard of for `SILENT_AFTER_S`."""
    return operation.heartbeat_at is None or operation.heartbeat_at < at - timedelta(seconds=SILENT_AFTER_S)


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
    """End an operation, let go of its locks, and let go on who waited for it: one transaction, with its events.

    Raises:
        ClaimLost: it has ended already.
    """
    if OperationStatus(operation.status) in FINAL:
        raise ClaimLost(f"operation {operation.id} has ended already")
    settle(session, [End(operation, status, result, error)])


def freed(session: Session, operation: Operation) -> None:
    """A worker has let go of an operation that has not ended: others have its slot and its turn."""
    operation_slots.freed(session)
    if operation.parent_id is not None:
        settle(session, operation_queue.turns(session, operation))


def mend(session: Session) -> None:
    """Let go on what waits for nothing any more and was not told; the watchdog's fall-back."""
    settle(session, operation_queue.mend(session))


def settle(session: Session, ends: Iterable[End]) -> None:
    """End these operations, and those whose end follows from that."""
    due = deque(ends)
    while due:
        end = due.popleft()
        if OperationStatus(end.operation.status) not in FINAL:
            _end(session, end)
            due += operation_queue.after(session, end.operation)


def _end(session: Session, end: End) -> None:
    operation = end.operation
    held_slot = OperationStatus(operation.status) in CLAIMED and operation_slots.takes_one(operation)
    operation_queue.leave(session, operation, end.status)
    for step in operation.steps:
        if StepStatus(step.status) in (StepStatus.PENDING, StepStatus.RUNNING):
            step.leave_out()
    operation.status = end.status.value
    operation.end_time = now()
    operation.current_step = None
    operation.question = None
    operation.result = end.result if end.result is not None else operation.result
    operation.error = end.error
    if end.status is OperationStatus.COMPLETED:
        operation.progress = 100
    session.flush()
    session.execute(delete(OperationLock).where(OperationLock.operation_id == operation.id))
    if held_slot:
        operation_slots.freed(session)
    severity = Severity.ERROR if end.status is OperationStatus.FAILED else Severity.INFO
    tell(session, operation, EventType.OPERATION_COMPLETED, severity)
    if operation.type.startswith("group."):
        tell(session, operation, EventType.GROUP_OPERATION_COMPLETED, severity)


def progress(session: Session, operation: Operation | Standing, step: dict[str, Any] | None = None) -> None:
    """Tell how far it has come, and its batch with it."""
    if operation.parent_id is not None:
        operation_batches.progress(session, operation)
    tell(session, operation, EventType.OPERATION_PROGRESS, step=step)


def due(session: Session, at: datetime, limit: int = 200) -> Sequence[Operation]:
    """Active operations that nobody works on and that may be worked on now, oldest first."""
    silent_since = at - timedelta(seconds=SILENT_AFTER_S)
    nobodys = or_(Operation.heartbeat_at.is_(None), Operation.heartbeat_at < silent_since)
    pending = and_(
        Operation.status == OperationStatus.PENDING.value,
        or_(Operation.not_before.is_(None), Operation.not_before <= at),
    )
    silent = and_(Operation.status.in_([status.value for status in CLAIMED]), nobodys)
    active = select(Operation).where(text(ACTIVE_SQL), or_(pending, silent))
    return session.scalars(active.order_by(Operation.id).limit(limit)).all()

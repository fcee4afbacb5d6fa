"""Operations that wait for others: behind who holds what they need (`wait_for`), or until others have completed
(`dependencies`).

One that waits holds nothing and wants nothing yet, so a queued stop does not fight a running start. It goes on in the
transaction in which the last one that it waits for ends, whoever ends that: a worker, a cancel, the watchdog.

No ring is possible: an operation waits for those that were there before it, or for one that holds a lock, and who holds
a lock waits for no operation.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select
from sqlalchemy.orm import Session, lazyload

from domain.errors import ClosError, DependencyFailed, GroupNotFound, QueueFull, ServiceNotFound
from domain.events import EventType
from domain.states import FINAL, OperationStatus
from models import operation_batches, operation_targets, operation_waiting
from models.base import now, table_of
from models.operation_events import tell
from models.operation_rows import Operation, OperationLock, OperationWait
from models.record import send_after_commit

# How many may wait for one operation.
MOST_BEHIND = 100
_waits, _locks, _operations = table_of(OperationWait), table_of(OperationLock), table_of(Operation)
_BEHIND = (
    select(_waits.c.operation_id, _waits.c.must_succeed)
    .join(_operations, _operations.c.id == _waits.c.operation_id)
    .where(_waits.c.waits_for == bindparam("ended"))
    # Ids are in order of time only to the millisecond.
    .order_by(_operations.c.created_at, _operations.c.id)
)
_QUEUE = select(func.count()).select_from(_waits).where(_waits.c.waits_for == bindparam("ended"))
_LEFT = select(func.count()).select_from(_waits).where(_waits.c.operation_id == bindparam("waiter"))
_HOLDERS = select(_locks.c.operation_id).where(_locks.c.target.in_(bindparam("targets", expanding=True))).distinct()


@dataclass(frozen=True)
class End:
    """An operation is to end like this."""

    operation: Operation
    status: OperationStatus
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def ahead_of(session: Session, locks: Collection[str]) -> list[str]:
    """The operations that hold one of these targets or were queued for one before, oldest first."""
    if not locks:
        return []
    found = set(session.scalars(_HOLDERS, {"targets": list(locks)}))
    queued = select(_operations.c.id, _operations.c.parameters).where(
        _operations.c.status == OperationStatus.WAITING.value,
        _operations.c.id.in_(select(_waits.c.operation_id).where(_waits.c.must_succeed.is_(False))),
    )
    wanted = set(locks)
    for row in session.execute(queued):
        if not wanted.isdisjoint((row.parameters or {}).get("targets") or ()):
            found.add(row.id)
    return sorted(found)


def refuse_long(session: Session, awaited: Iterable[str]) -> None:
    """Keep a queue from growing without end.

    Raises:
        QueueFull: too many wait for one of these.
    """
    for other in awaited:
        waiting = session.scalar(_QUEUE, {"ended": other}) or 0
        if waiting >= MOST_BEHIND:
            raise QueueFull(other, waiting)


def wait(session: Session, operation: Operation, behind: Iterable[str], must_succeed: Iterable[str] = ()) -> None:
    """Let an operation wait for others; it says so, and so do its services."""
    needed = set(must_succeed)
    rows = [
        {"operation_id": operation.id, "waits_for": other, "must_succeed": other in needed}
        for other in sorted(needed | set(behind))
    ]
    session.execute(insert(_waits), rows)
    point(session, operation)


def point(session: Session, operation: Operation) -> None:
    """Say what an operation waits for, as its rows in `operation_waits` have it."""
    awaited = session.execute(
        select(_operations.c.id, _operations.c.type)
        .join(_waits, _waits.c.waits_for == _operations.c.id)
        .where(_waits.c.operation_id == operation.id)
        .order_by(_operations.c.id)
    ).all()
    operation.dependencies = sorted({*(operation.dependencies or ()), *(row.id for row in awaited)})
    said = [
        {"kind": "operation", "ref": row.id, "text": f"waiting for operation {row.id} ({row.type})"} for row in awaited
    ]
    operation_waiting.say(session, operation, said)
    session.flush()
    tell(session, operation, EventType.OPERATION_WAITING)


def after(session: Session, ended: Operation) -> list[End]:
    """Let go on who waited for an operation that has ended. What ends because of it is for the caller to end."""
    ends: list[End] = []
    for row in session.execute(_BEHIND, {"ended": ended.id}).all():
        waiter = _waiting(session, row.operation_id)
        if waiter is None:
            continue
        if row.must_succeed and ended.status != OperationStatus.COMPLETED.value:
            ends.append(End(waiter, OperationStatus.FAILED, error=_failed_with(ended.id, ended.status)))
            continue
        session.execute(delete(_waits).where(_waits.c.operation_id == waiter.id, _waits.c.waits_for == ended.id))
        ends += _look(session, waiter)
    return ends + (_batch(session, ended) if ended.parent_id is not None else [])


def _batch(session: Session, ended: Operation) -> list[End]:
    """One child less: the next have their turn, and the last one ends the batch."""
    ends = turns(session, ended)
    if (end := operation_batches.end_of(session, ended)) is not None:
        ends.append(End(*end))
    return ends


def turns(session: Session, child: Operation) -> list[End]:
    """Let those children of batches go on whose turn it is. `child` is one of them, of whatever status."""
    ends: list[End] = []
    seen: set[str] = set()
    # One whose target is held, or gone, does not use its turn; so the next is looked at.
    while (free := operation_batches.free_turns(session, child)) > 0:
        new = [each for each in operation_batches.next_children(session, free + len(seen)) if each not in seen][:free]
        if not new:
            break
        seen.update(new)
        for each in new:
            if (waiter := _waiting(session, each)) is not None:
                ends += _look(session, waiter)
        session.flush()
    return ends


def _waiting(session: Session, operation_id: str) -> Operation | None:
    found = session.get(Operation, operation_id, options=[lazyload(Operation.steps)])
    return found if found is not None and found.status == OperationStatus.WAITING.value else None


def _failed_with(other: str, how: str) -> dict[str, Any]:
    return DependencyFailed(
        f"operation {other}, which it was to wait for, ended {how}",
        hint="look at that one; then retry this one",
        operation_id=other,
    ).as_dict()


def _look(session: Session, waiter: Operation) -> list[End]:
    """Let a waiting operation go on, if nothing is left that it waits for."""
    if session.scalar(_LEFT, {"waiter": waiter.id}):
        point(session, waiter)
        return []
    try:
        targets = operation_targets.of(session, waiter)
    except (GroupNotFound, ServiceNotFound) as gone:
        return [End(waiter, OperationStatus.FAILED, error=_gone(gone))]
    if waiter.parent_id is not None and not operation_batches.has_turn(session, waiter):
        if (parent := operation_batches.parent_of(session, waiter)) is not None:
            operation_waiting.say(session, waiter, operation_batches.turn_in(parent))
        return []
    holders = session.scalars(_HOLDERS, {"targets": list(targets.locks)}).all() if targets.locks else ()
    if holders:
        # Somebody was quicker: it asked without `wait_for`, and the lock was free.
        waiter.parameters = (waiter.parameters or {}) | {"targets": list(targets.locks)}
        wait(session, waiter, holders)
        return []
    operation_targets.take(session, waiter, targets)
    _release(session, waiter)
    return []


def _gone(refusal: ClosError) -> dict[str, Any]:
    return refusal.as_dict() | {"hint": "it was deleted while this operation waited"}


def _release(session: Session, operation: Operation) -> None:
    operation_waiting.say(session, operation, [])
    operation.status = OperationStatus.PENDING.value
    operation.not_before = None
    operation.sent_at = now()
    session.flush()
    tell(session, operation, EventType.OPERATION_PROGRESS)
    send_after_commit(session, operation.id, operation.type)


def leave(session: Session, operation: Operation, status: OperationStatus) -> None:
    """An operation ends: it waits no longer, and what it did not get to is wanted as before if it was cancelled."""
    if operation.status == OperationStatus.WAITING.value:
        session.execute(delete(_waits).where(_waits.c.operation_id == operation.id))
    if operation.waiting_for:
        operation_waiting.say(session, operation, [])
    if status is OperationStatus.CANCELLED:
        operation_targets.give_back(session, operation)


def mend(session: Session) -> list[End]:
    """What the watchdog finds: waits for operations that ended or are no longer on record, and waiters whose turn
    nobody told them. Every end tells those who wait for it, so this finds what came to be in some other way."""
    ends: list[End] = []
    stale = (
        select(_waits, _operations.c.status)
        .outerjoin(_operations, _operations.c.id == _waits.c.waits_for)
        .where(_operations.c.id.is_(None) | _operations.c.status.in_([status.value for status in FINAL]))
        .order_by(_waits.c.operation_id)
    )
    for row in session.execute(stale).all():
        waiter = _waiting(session, row.operation_id)
        if waiter is not None and row.must_succeed and row.status != OperationStatus.COMPLETED.value:
            ends.append(
                End(waiter, OperationStatus.FAILED, error=_failed_with(row.waits_for, row.status or "and is gone"))
            )
            continue
        session.execute(
            delete(_waits).where(_waits.c.operation_id == row.operation_id, _waits.c.waits_for == row.waits_for)
        )
        if waiter is not None:
            ends += _look(session, waiter)
    if (child := operation_batches.some_waiting(session)) is not None:
        ends += turns(session, child)
    return ends

"""How operations are brought to an end before theirs; a batch a portion at a time, so that no writer waits long for
another.

The parent's `cancel_requested_at` is the intent: from then on none of its children gets a turn. While there is more to
cancel, each portion has the workers told of the parent once more; what is lost on the way is the watchdog's to find.
"""

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session, lazyload

from domain.errors import Cancelled
from domain.states import CLAIMED, FINAL, OperationStatus
from models import operation_batches, operation_waiting
from models.base import now, table_of
from models.operation_queue import End
from models.operation_rows import ACTIVE_SQL
from models.operations import Operation, progress, settle
from models.record import send_after_commit

# How many children of a batch are cancelled in one transaction: it holds the write lock for some 50 ms.
PORTION = 20
_operations = table_of(Operation)
_left = _operations.alias("left_over")
_HALF_CANCELLED = (
    select(_operations.c.id)
    .where(
        text(ACTIVE_SQL),
        _operations.c.status == OperationStatus.WAITING.value,
        _operations.c.cancel_requested_at.is_not(None),
        select(_left.c.id)
        .where(
            _left.c.parent_id == _operations.c.id,
            _left.c.cancel_requested_at.is_(None),
            _left.c.status.not_in([status.value for status in FINAL]),
        )
        .exists(),
    )
    .order_by(_operations.c.id)
    .limit(1)
)
_IS_BATCH = select(_operations.c.id).where(
    _operations.c.id == bindparam("id"),
    _operations.c.status == OperationStatus.WAITING.value,
    _operations.c.cancel_requested_at.is_not(None),
)


def was_begun(operation: Operation) -> bool:
    """Whether a worker has it, or has had it and handed it back: then there may be something to undo."""
    status = OperationStatus(operation.status)
    if status is OperationStatus.WAITING:
        # One that asks somebody may have run into what it asks about in the middle.
        return operation.question is not None and any(step.started_at is not None for step in operation.steps)
    return status in CLAIMED or (status is OperationStatus.PENDING and operation.start_time is not None)


def ask_its_worker(session: Session, operation: Operation) -> None:
    """Ask the worker of an operation, or the next one, to let go of it."""
    if operation.cancel_requested_at is None:
        operation.cancel_requested_at = now()
        if OperationStatus(operation.status) in CLAIMED:
            operation.status = OperationStatus.CANCELLING.value
        else:
            # It waits for an answer or a slot, and needs neither any more.
            operation_waiting.say(session, operation, [])
            operation.question, operation.status = None, OperationStatus.PENDING.value
            operation.not_before, operation.sent_at = None, now()
            send_after_commit(session, operation.id, operation.type)
        session.flush()
        progress(session, operation)


def cancel_batch(session: Session, parent: Operation) -> None:
    """Let no more of its children have a turn, and cancel the first of them; it ends with the last."""
    if parent.cancel_requested_at is None:
        parent.cancel_requested_at = now()
        session.flush()
    _portion(session, parent)
    if OperationStatus(parent.status) not in FINAL:
        progress(session, parent)


def go_on(session: Session, operation_id: str) -> None:
    """Cancel the next portion, if that operation is a batch of which there is something left to cancel."""
    if session.scalar(_IS_BATCH, {"id": operation_id}) is not None:
        _portion(session, session.get_one(Operation, operation_id, options=[lazyload(Operation.steps)]))


def mend(session: Session) -> None:
    """What the watchdog finds: a batch whose cancel broke off in the middle."""
    if (found := session.scalar(_HALF_CANCELLED)) is not None:
        go_on(session, found)


def _portion(session: Session, parent: Operation) -> None:
    due = operation_batches.to_cancel(session, parent, PORTION + 1)
    ends = []
    for child in due[:PORTION]:
        if was_begun(child):
            ask_its_worker(session, child)
        else:
            reason = Cancelled("its batch was cancelled before anybody worked on it")
            ends.append(End(child, OperationStatus.CANCELLED, error=reason.as_dict()))
    settle(session, ends)
    if len(due) > PORTION:
        send_after_commit(session, parent.id, parent.type)

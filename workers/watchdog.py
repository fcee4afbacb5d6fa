"""Brings back what waited or fell silent. It only ever sends again; all work is done by Dramatiq's workers."""

import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select

from domain.states import CLAIMED, OperationStatus
from models import operation_cancels, operations, questions
from models.base import now
from models.operations import Operation
from workers.context import Context

log = structlog.get_logger()
_FIRST_WAIT_S = 10.0
_LONGEST_WAIT_S = 300.0
# With an empty queue a message that was sent is either being claimed right now, or lost.
_EMPTY_QUEUE_WAIT_S = 1.5


def send_overdue(context: Context, queue_is_empty: bool) -> list[str]:
    """Send again what is due and was not heard of. Returns the ids."""
    at = now()
    with context.record.write() as session:
        for asking in questions.expired(session, at):
            questions.answer(session, asking, questions.TIMED_OUT)
        operations.mend(session)
        operation_cancels.mend(session)
        overdue = [operation for operation in operations.due(session, at) if _is_overdue(operation, at, queue_is_empty)]
        for operation in overdue:
            operation.sent_at = at
            operation.sends += 1
        found = [(operation.id, operation.type) for operation in overdue]
    for operation_id, type_ in found:
        log.info("operation.sent_again", operation_id=operation_id)
        context.outbox.operation(operation_id, type_)
    return [operation_id for operation_id, _type in found]


def _is_overdue(operation: Operation, at: datetime, queue_is_empty: bool) -> bool:
    sent_at = operation.sent_at or operation.created_at
    silent = OperationStatus(operation.status) in CLAIMED
    if (queue_is_empty and not operation.waiting_for) or silent:  # without a slot it is sent when one is free
        wait_s = _EMPTY_QUEUE_WAIT_S
    else:
        wait_s = min(_FIRST_WAIT_S * 2 ** min(operation.sends, 10), _LONGEST_WAIT_S)
    return sent_at <= at - timedelta(seconds=wait_s)


def take_over(context: Context, is_alive: Callable[[dict[str, Any]], bool]) -> list[str]:
    """At a worker's start: what a dead worker of this host held counts as silent at once, and is sent."""
    host = socket.gethostname()
    with context.record.write() as session:
        claimed = session.scalars(
            select(Operation).where(Operation.status.in_([status.value for status in CLAIMED]))
        ).all()
        orphaned = [
            operation
            for operation in claimed
            if operation.claimed_by and operation.claimed_by.get("host") == host and not is_alive(operation.claimed_by)
        ]
        for operation in orphaned:
            operations.silence(operation)
            operation.sent_at = now()
        pending = session.scalars(select(Operation).where(Operation.status == OperationStatus.PENDING.value)).all()
        found = [(operation.id, operation.type) for operation in [*orphaned, *pending]]
    for operation_id, type_ in found:
        context.outbox.operation(operation_id, type_)
    if found:
        log.info("watchdog.took_over", operations=len(found))
    return [operation_id for operation_id, _type in found]

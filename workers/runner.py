"""One operation, taken if it is to be had, worked on, and ended whatever happens."""

from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import Cancelled, ClaimLost, ClosError, DatabaseBusy, Stopping
from domain.states import OperationStatus
from models.operations import Operation
from workers import undoing, updating
from workers.carrying import carry_out, read_subject, settle
from workers.claims import Claim
from workers.context import Context
from workers.journal import Journal
from workers.port_questions import Asked

log = structlog.get_logger()
Work = Callable[[Context, Operation, Claim, Journal], None]


def run(context: Context, operation_id: str, work: Work | None = None) -> None:
    """Do `work` (carry out its plan) for an operation if it is to be had. Never raises: the row says how it ended."""
    try:
        taken = context.claims.take(operation_id)
    except (DatabaseBusy, SQLAlchemyError) as refusal:
        log.warning("operation.not_claimable", operation_id=operation_id, error=str(refusal))
        return
    if taken is None:
        context.feed.wake()  # it may have ended as poison just now
        log.debug("operation.not_claimed", operation_id=operation_id)
        return
    context.feed.wake()
    operation, claim = taken
    operation_id = operation.id  # of who comes first
    journal = Journal(context.record, context.feed, claim)
    log.info("operation.claimed", operation_id=operation_id, type=operation.type, attempt=operation.attempt)
    try:
        (work or by_type)(context, operation, claim, journal)
    except ClaimLost:
        log.warning("operation.claim_lost", operation_id=operation_id)
    except Stopping:
        _give_back(context, operation, journal)
    except Asked as asked:
        _ask(context, operation, journal, asked.question)
    except (DatabaseBusy, SQLAlchemyError) as refusal:
        log.warning("operation.abandoned", operation_id=operation_id, error=str(refusal))
    except ClosError as refusal:
        _fail(journal, operation_id, refusal.as_dict())
    except Exception as defect:
        log.error("operation.broke", operation_id=operation_id, exc_info=defect)
        _fail(journal, operation_id, {"code": "internal_error", "message": f"{type(defect).__name__}: {defect}"})
    finally:
        context.claims.drop(claim)


def by_type(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """What an operation on services is carried out by: updates have a way back, the others have not."""
    carries = updating.carry_out if operation.type.endswith(".update") else carry_out
    carries(context, operation, claim, journal)


def _give_back(context: Context, operation: Operation, journal: Journal) -> None:
    try:
        journal.hand_back()
    except (ClosError, SQLAlchemyError) as refusal:
        log.warning("operation.not_handed_back", operation_id=operation.id, error=str(refusal))
        return
    # Another worker takes it now; without one, the next that starts does.
    context.outbox.operation(operation.id, operation.type)
    log.info("operation.handed_back", operation_id=operation.id)


def _ask(context: Context, operation: Operation, journal: Journal, question: dict[str, Any]) -> None:
    try:
        asks = journal.ask(question)
    except (ClosError, SQLAlchemyError) as refusal:
        log.warning("operation.question_not_written", operation_id=operation.id, error=str(refusal))
        return
    if asks:
        log.info("operation.waits_for_answer", operation_id=operation.id)
    elif operation.cancel_requested_at is None:
        _give_back(context, operation, journal)  # somebody wants it to end: whoever takes it now undoes and tells
    else:
        _end(context, operation, journal)


def _end(context: Context, operation: Operation, journal: Journal) -> None:
    """It was to end when it was taken, and cannot go on without an answer, for which nobody is asked any more."""
    rows = journal.steps()
    subject = read_subject(context.record, sorted({row.target for row in rows}))
    cancelled = Cancelled("it was cancelled; result.left says what is left")
    try:
        settle(context, journal, subject)
        left = undoing.left(rows, subject.by_id, context.observer)
        journal.finish(OperationStatus.CANCELLED, {"undone": [], "left": left}, cancelled.as_dict())
    except (ClosError, SQLAlchemyError) as refusal:
        log.warning("operation.end_not_written", operation_id=operation.id, error=str(refusal))


def _fail(journal: Journal, operation_id: str, error: dict[str, Any]) -> None:
    try:
        journal.finish(OperationStatus.FAILED, error=error)
    except (ClosError, SQLAlchemyError) as refusal:
        log.warning("operation.end_not_written", operation_id=operation_id, error=str(refusal))

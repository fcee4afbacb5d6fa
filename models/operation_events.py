"""What the event log hears of operations."""

from typing import Any

from sqlalchemy.orm import Session

from domain.events import EventType, Severity
from models import events
from models.operation_rows import Operation
from models.operation_steps import Standing


def tell(
    session: Session,
    operation: Operation | Standing,
    type_: EventType,
    severity: Severity = Severity.INFO,
    step: dict[str, Any] | None = None,
) -> None:
    """Append an event of an operation, with how it stands."""
    data: dict[str, Any] = {
        "type": operation.type,
        "status": operation.status,
        "progress": operation.progress,
        "current_step": operation.current_step,
    }
    if operation.waiting_for:
        data["waiting_for"] = operation.waiting_for
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

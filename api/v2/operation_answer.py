"""How an operation looks from outside, and the 202 that answers whatever touches the machine."""

from typing import Any

from flask import Response
from marshmallow import Schema, fields

from api.idempotency import after_commit, answer
from api.parts import parts
from api.schemas import Time, WaitingSchema
from domain.states import OperationStatus, StepStatus
from models.base import now
from models.operations import Operation, OperationStep


class StepSchema(Schema):
    """One step, the same in a plan and in an operation."""

    id = fields.String(required=True)
    action = fields.String(required=True)
    target = fields.String(required=True)
    depends_on = fields.List(fields.String(), required=True)
    cause = fields.String(required=True, allow_none=True)
    status = fields.String(required=True, metadata={"enum": [status.value for status in StepStatus]})
    started_at = Time(required=True, allow_none=True)
    ended_at = Time(required=True, allow_none=True)
    error = fields.Dict(required=True, allow_none=True)


class OperationSchema(Schema):
    """One thing that was asked for, from its request to its end."""

    id = fields.String(required=True)
    type = fields.String(required=True)
    status = fields.String(required=True, metadata={"enum": [status.value for status in OperationStatus]})
    group_name = fields.String(required=True, allow_none=True)
    service_id = fields.String(required=True, allow_none=True)
    parent_id = fields.String(required=True, allow_none=True)
    parameters = fields.Dict(required=True)
    dependencies = fields.List(fields.String(), required=True)
    waiting_for = fields.List(fields.Nested(WaitingSchema), required=True)
    progress = fields.Integer(required=True)
    current_step = fields.String(required=True, allow_none=True)
    steps = fields.List(fields.Nested(StepSchema), required=True)
    result = fields.Dict(required=True, allow_none=True)
    error = fields.Dict(required=True, allow_none=True)
    question = fields.Dict(required=True, allow_none=True)
    initiated_by = fields.String(required=True, allow_none=True)
    attempt = fields.Integer(required=True)
    retry_of = fields.String(required=True, allow_none=True)
    failed_steps = fields.List(fields.String(), required=True)
    created_at = Time(required=True)
    start_time = Time(required=True, allow_none=True)
    end_time = Time(required=True, allow_none=True)


_PLAIN = (
    "id", "type", "status", "group_name", "service_id", "parent_id", "progress", "current_step", "result", "error",
    "initiated_by", "attempt", "retry_of", "created_at", "start_time", "end_time",
)  # fmt: skip
_STEP = ("id", "action", "target", "cause", "status", "started_at", "ended_at", "error")


def shown_step(step: OperationStep) -> dict[str, Any]:
    """A step with the members of the contract."""
    return {name: getattr(step, name) for name in _STEP} | {"depends_on": step.depends_on or []}


# What is kept with an operation for whoever takes over: its locks, what was decided about conflicts, how its targets
# are found anew, and what its services were wanted to be.
_KEPT = ("targets", "decision", "narrowed", "before", "at_once")


def shown(operation: Operation) -> dict[str, Any]:
    """An operation with the members of the contract."""
    steps = [shown_step(step) for step in operation.steps]
    return {name: getattr(operation, name) for name in _PLAIN} | {
        "parameters": {key: value for key, value in (operation.parameters or {}).items() if key not in _KEPT},
        "question": _question(operation),
        "dependencies": operation.dependencies or [],
        "waiting_for": operation.waiting_for or [],
        "steps": steps,
        "failed_steps": [step["id"] for step in steps if step["status"] == StepStatus.FAILED.value],
    }


def _question(operation: Operation) -> dict[str, Any] | None:
    if operation.question is None:
        return None
    return {name: value for name, value in operation.question.items() if name != "key"}


_schema = OperationSchema()


def dump(operation: Operation) -> dict[str, Any]:
    """An operation as JSON."""
    found: dict[str, Any] = _schema.dump(shown(operation))
    return found


def accepted(operation: Operation) -> Response:
    """202, where to look, and the operation. Inside a unit of work; the workers hear of it after the commit."""
    courier = parts().courier
    operation_id, type_ = operation.id, operation.type
    if operation.sent_at is None:
        # It is about to be sent; the watchdog need not do it as well.
        operation.sent_at = now()
    if operation.status == OperationStatus.PENDING.value:
        after_commit(lambda: courier.operation(operation_id, type_))
    return answer(dump(operation), 202, {"Location": f"/api/v2/operations/{operation_id}"})

"""How an operation looks from outside, and the 202 that answers whatever touches the machine."""

from typing import Any

from flask import Response
from marshmallow import Schema, fields

from api.idempotency import after_commit, answer
from api.parts import parts
from api.schemas import Time, WaitingSchema
from domain import progress
from domain.progress import Part
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
    duration_s = fields.Float(required=True, allow_none=True)
    expected_s = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "What earlier runs of it took; its weight in the progress."},
    )
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
    remaining_s = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "How long the rest may take; null while a step of it has no earlier run to go by."},
    )
    critical_path = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "The chain of steps that takes longest, by what they took or are expected to take."},
    )
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
_STEP = ("id", "action", "target", "cause", "status", "started_at", "ended_at", "expected_s", "error")


def shown_step(step: OperationStep) -> dict[str, Any]:
    """A step with the members of the contract."""
    took = None if step.started_at is None or step.ended_at is None else step.ended_at - step.started_at
    return {name: getattr(step, name) for name in _STEP} | {
        "depends_on": step.depends_on or [],
        "duration_s": None if took is None else round(took.total_seconds(), 3),
    }


def _parts(operation: Operation) -> list[Part]:
    at = now()
    return [
        Part(
            step.id,
            step.action,
            step.depends_on or (),
            step.expected_s,
            StepStatus(step.status),
            ((step.ended_at or at) - step.started_at).total_seconds() if step.started_at is not None else 0.0,
        )
        for step in operation.steps
    ]


def _course(operation: Operation) -> dict[str, Any]:
    """How long the rest may take, and on what it hangs."""
    of = _parts(operation)
    active = operation.status == OperationStatus.IN_PROGRESS.value
    parallel = parts().settings.performance.max_parallel_steps
    return {
        "remaining_s": progress.remaining_s(of, parallel) if active and of else None,
        "critical_path": progress.critical_path(of),
    }


# What is kept with an operation for whoever takes over: its locks, what was decided about conflicts, how its targets
# are found anew, and what its services were wanted to be.
_KEPT = ("targets", "decision", "narrowed", "before", "at_once")


def shown(operation: Operation) -> dict[str, Any]:
    """An operation with the members of the contract."""
    steps = [shown_step(step) for step in operation.steps]
    return (
        {name: getattr(operation, name) for name in _PLAIN}
        | _course(operation)
        | {
            "parameters": {key: value for key, value in (operation.parameters or {}).items() if key not in _KEPT},
            "question": _question(operation),
            "dependencies": operation.dependencies or [],
            "waiting_for": operation.waiting_for or [],
            "steps": steps,
            "failed_steps": [step["id"] for step in steps if step["status"] == StepStatus.FAILED.value],
        }
    )


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

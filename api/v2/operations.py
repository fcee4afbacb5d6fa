"""Operations: list, wait for, cancel, retry, answer."""

from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import ValidationError, validates_schema
from sqlalchemy.orm import Session

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Choices, Empty, QueryWhole, Since, Strict, Text
from api.v2.asking import ask
from api.v2.operation_answer import OperationSchema, accepted, dump, shown
from domain.errors import ClosError, OperationFinal, OperationInProgress, ServiceNotFound
from domain.permissions import KNOWN
from domain.states import FINAL, OperationStatus
from models import operation_requests as requests
from models import operations, registry_graph
from models.operations import Operation
from models.services import Service

blp = ClosBlueprint("operations", __name__, url_prefix="/api/v2/operations", description="What was asked for")
MAX_WAIT_S = 60
# What `api.v2.asking` adds to the fields of the request.
_WORKED_OUT = frozenset({"targets", "services", "named", "running_dependents", "answer"})
# Where the right that a request needs is not named like the operation that it makes.
_RIGHTS = {"service.remove": "services:delete", "group.remove": "groups:delete", "port.check": "ports:read"}


class OperationNotWaiting(ClosError):
    """The operation asks nothing."""

    code = "operation_not_waiting"


class OperationArgs(PageArgs):
    """Newest first; with `after`, oldest first from behind that operation."""

    status = Choices([status.value for status in OperationStatus])
    type = Choices()
    service = Choices(longest=160)
    group = Choices(longest=50)
    since = Since()
    after = Text(longest=36, smallest=1)

    @validates_schema
    def _one_direction(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data.get("after") is not None and data.get("cursor") is not None:
            raise ValidationError("Give after or cursor, not both.", "after")


class WaitArgs(Strict):
    """How long to wait for the end, in seconds."""

    wait = QueryWhole(low=0, high=MAX_WAIT_S, load_default=0)


class AnswerBody(Strict):
    """One of the question's choices."""

    choice = Text(longest=100, smallest=1, required=True)


@blp.route("")
class Operations(MethodView):
    """All of them."""

    @requires("operations:read")
    @blp.arguments(OperationArgs, location="query")
    @blp.response(200, page_of(OperationSchema))
    def get(self, args: dict[str, Any]) -> dict[str, Any]:
        """List operations

        Newest first, or with `after=<id>` oldest first from behind that operation.
        """
        behind = decode_cursor(args["cursor"], str, str)
        ascending = args.get("after") is not None or (behind is not None and behind[0] == "up")
        wanted = requests.Filter(
            statuses=args.get("status"),
            types=args.get("type"),
            service_ids=args.get("service"),
            group_names=args.get("group"),
            since=args.get("since"),
        )
        edge = args.get("after") if behind is None else behind[1]
        with parts().record.read() as session:
            rows = requests.page(session, wanted, edge=edge, ascending=ascending, limit=args["limit"] + 1)
            found = [shown(row) for row in rows]
        direction = "up" if ascending else "down"
        return page(found, args["limit"], lambda operation: (direction, str(operation["id"])))


@blp.route("/<string:operation_id>")
class OneOperation(MethodView):
    """One of them."""

    @requires("operations:read")
    @blp.arguments(WaitArgs, location="query")
    @blp.response(200, OperationSchema)
    def get(self, args: dict[str, Any], operation_id: str) -> Any:
        """Read an operation

        With `wait` the answer comes when it ends, or after that many seconds. Where too many wait already, it comes
        at once with `Retry-After: 1`.
        """
        found = _read(operation_id)
        if not args["wait"] or found["status"] in FINAL:
            return found
        slots = parts().wait_slots
        if not slots.acquire(blocking=False):
            return found, 200, {"Retry-After": "1"}
        try:
            return _wait(operation_id, args["wait"])
        finally:
            slots.release()


def _read(operation_id: str) -> dict[str, Any]:
    with parts().record.read() as session:
        return shown(operations.get(session, operation_id))


def _wait(operation_id: str, timeout_s: float) -> dict[str, Any]:
    with parts().reader.end_of(operation_id) as ended:
        # Looked at again after registering: it may have ended in between.
        found = _read(operation_id)
        if found["status"] in FINAL or not ended.wait(timeout_s):
            return found if found["status"] in FINAL else _read(operation_id)
    return _read(operation_id)


@blp.route("/<string:operation_id>/cancel", methods=["POST"])
@requires("operations:cancel")
@idempotent
@blp.arguments(Empty)
@blp.response(202, OperationSchema)
def cancel(_body: dict[str, Any], operation_id: str) -> Response:
    """Cancel an operation

    One that nobody works on ends at once; another ends as soon as its worker has let go. What was not reached is
    `skipped`.
    """
    with unit_of_work() as session:
        operation = operations.get(session, operation_id)
        requests.cancel(session, operation)
        return answer(dump(operation), 202, {"Location": f"/api/v2/operations/{operation.id}"})


@blp.route("/<string:operation_id>/retry", methods=["POST"])
@requires("operations:read")
@idempotent
@blp.arguments(Empty)
@blp.response(202, OperationSchema)
def retry(_body: dict[str, Any], operation_id: str) -> Response:
    """Try an operation again

    Makes a new one with `retry_of`; it needs the same right as the first one did.
    """
    with unit_of_work() as session:
        first = operations.get(session, operation_id)
        principal().require(_permission_of(first))
        if OperationStatus(first.status) not in FINAL:
            raise OperationInProgress(f"operation:{first.id}", first.id)
        return accepted(_again(session, first))


def _again(session: Session, first: Operation) -> Operation:
    noun, _, verb = first.type.partition(".")
    asked = first.parameters or {}
    if noun not in ("group", "service") or (first.group_name is None and first.service_id is None):
        return requests.retry(session, first, initiated_by=principal().name)
    if noun == "service" and session.get(Service, first.service_id) is None:
        raise ServiceNotFound(str(first.service_id))
    group = first.group_name if noun == "group" else None
    # Computed anew: who needs whom may have changed since.
    targets = registry_graph.targets_for(
        session,
        verb,
        group=group,
        service=first.service_id if noun == "service" else None,
        only=asked.get("named") if group else None,
        with_dependencies=not asked.get("no_deps", False),
        cascade=bool(asked.get("cascade", False)),
    )
    body = {name: value for name, value in asked.items() if name not in _WORKED_OUT}
    operation = ask(session, verb, body, targets, group=group, service=first.service_id if group is None else None)
    operation.retry_of = first.id
    return operation


def _permission_of(operation: Operation) -> str:
    noun, _, verb = operation.type.partition(".")
    permission = _RIGHTS.get(operation.type, f"{noun}s:{verb}")
    return permission if permission in KNOWN else "*"


@blp.route("/<string:operation_id>/answer", methods=["POST"])
@requires("operations:answer")
@idempotent
@blp.arguments(AnswerBody)
@blp.response(202, OperationSchema)
def answer_question(body: dict[str, Any], operation_id: str) -> Response:
    """Answer an operation's question"""
    with unit_of_work() as session:
        operation = operations.get(session, operation_id)
        if OperationStatus(operation.status) in FINAL:
            raise OperationFinal(f"operation {operation.id} has ended", operation_id=operation.id)
        if operation.status != OperationStatus.WAITING.value or not operation.question:
            raise OperationNotWaiting(f"operation {operation.id} asks nothing", operation_id=operation.id)
        requests.answer(session, operation, body["choice"])
        return accepted(operation)

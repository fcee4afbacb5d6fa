"""Operations: list, wait for, cancel, retry, answer."""

from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import ValidationError, validates_schema

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.idempotency import answer, idempotent, unit_of_work
from api.pages import PageArgs, decode_cursor, page, page_of
from api.parts import parts
from api.schemas import Choices, Empty, QueryWhole, Since, Strict, Text
from api.v2 import answers, batches
from api.v2.batches import NewOperation
from api.v2.operation_answer import OperationSchema, accepted, dump, shown
from api.v2.retries import again, permissions_of
from domain.errors import ClosError, OperationFinal, OperationInProgress
from domain.states import FINAL, OperationStatus
from models import operation_requests as requests
from models import operations, questions

blp = ClosBlueprint("operations", __name__, url_prefix="/api/v2/operations", description="What was asked for")
MAX_WAIT_S = 60


class OperationNotWaiting(ClosError):
    """The operation asks nothing."""

    code = "operation_not_waiting"


class OperationArgs(PageArgs):
    """Newest first; with `after`, oldest first from behind that operation."""

    status = Choices([status.value for status in OperationStatus])
    type = Choices()
    service = Choices(longest=160)
    group = Choices(longest=50)
    parent = Choices(longest=36)
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
    """One of the question's choices; `change_port` with a port behind it: `change_port:9400`.

    `confirm` repeats what the choice's own `confirm` names, or the pid in it, where the choice has one.
    """

    choice = Text(longest=250, smallest=1, required=True)
    confirm = Text(longest=500, smallest=1, allow_none=True)


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
            parents=args.get("parent"),
            since=args.get("since"),
        )
        edge = args.get("after") if behind is None else behind[1]
        with parts().record.read() as session:
            rows = requests.page(session, wanted, edge=edge, ascending=ascending, limit=args["limit"] + 1)
            found = [shown(row) for row in rows]
        direction = "up" if ascending else "down"
        return page(found, args["limit"], lambda operation: (direction, str(operation["id"])))

    @requires("operations:read")
    @idempotent
    @blp.arguments(NewOperation)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Start, stop or restart several groups and services

        Needs `groups:<action>` where groups are meant, `services:<action>` where services are. One plan over all,
        across groups; with `together: false` one operation per target under a parent, a few at a time.
        """
        with unit_of_work() as session:
            return accepted(batches.ask(session, body))


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

    Makes a new one with `retry_of`; it needs the same right as the first one did. What was answered then is asked
    again; what ended a process is not repeated (422).
    """
    with unit_of_work() as session:
        first = operations.get(session, operation_id)
        for permission in permissions_of(first):
            principal().require(permission)
        if OperationStatus(first.status) not in FINAL:
            raise OperationInProgress(f"operation:{first.id}", first.id)
        return accepted(again(session, first))


@blp.route("/<string:operation_id>/answer", methods=["POST"])
@requires("operations:answer")
@idempotent
@blp.arguments(AnswerBody)
@blp.response(202, OperationSchema)
def answer_question(body: dict[str, Any], operation_id: str) -> Response:
    """Answer an operation's question

    A choice with a `confirm` ends a process: it needs the permission `ports:terminate` too. A port that is another's
    is 409 `port_held`.
    """
    with unit_of_work() as session:
        operation = operations.get(session, operation_id)
        if OperationStatus(operation.status) in FINAL:
            raise OperationFinal(f"operation {operation.id} has ended", operation_id=operation.id)
        if operation.status != OperationStatus.WAITING.value or not operation.question:
            raise OperationNotWaiting(f"operation {operation.id} asks nothing", operation_id=operation.id)
        answers.check(session, operation, body)
        questions.answer(session, operation, body["choice"], principal().name)
        return accepted(operation)

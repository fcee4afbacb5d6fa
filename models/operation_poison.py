"""An operation over which its workers fell silent: it is ended, or, where it has promised a way back, given out again
for that alone."""

from typing import Any

from sqlalchemy.orm import Session

from domain.errors import Poison
from domain.states import OperationStatus, ServiceStatus
from domain.updating import Direction
from models import operation_takeovers
from models.base import written
from models.operation_rows import Operation
from models.services import Service

MAX_CLAIMS = 3
# So many more for a way back: it does something else, which need not be what killed the others.
BACK_CLAIMS = 3


def poison(operation: Operation) -> Poison:
    """Why it is given up."""
    return Poison(
        f"{operation.attempt} workers fell silent while they worked on it",
        hint="read the workers' logs of that time, then retry it",
        attempts=operation.attempt,
    )


def turns_back(operation: Operation) -> bool:
    """Whether it is worked on once more all the same: an update that is armed, or a take-over that has promised, to go
    back, or to end what it does instead of going forward. It never goes forward any more."""
    kept = operation.compensation or {}
    if operation.attempt >= MAX_CLAIMS + BACK_CLAIMS:
        return False
    if operation_takeovers.is_promised(operation):
        return _takes_back(operation)
    if not kept.get("changes"):
        return False
    if kept["direction"] == Direction.FORWARD:
        keep = (operation.parameters or {}).get("on_failure") == Direction.KEEP
        way = Direction.KEEP if keep else Direction.BACK
        operation.compensation = kept | {"direction": way.value, "error": poison(operation).as_dict()}
    return True


def _takes_back(operation: Operation) -> bool:
    if operation_takeovers.is_past_return(operation):
        return False
    if not operation_takeovers.goes_back(operation):
        end = {"status": OperationStatus.FAILED.value, "error": poison(operation).as_dict()}
        operation_takeovers.turn_back(operation, end)
    return True


def left_behind(session: Session, operation: Operation) -> dict[str, Any] | None:
    """The result of an update or a take-over that nobody could end: what runs, as it was last seen. None of other
    operations."""
    kept = operation.compensation or {}
    if operation_takeovers.is_promised(operation):
        return operation_takeovers.left(operation, poison(operation).as_dict())
    changes = kept.get("changes")
    if not changes:
        return None
    services = [_last_seen(session.get(Service, each), change) for each, change in sorted(changes.items())]
    result: dict[str, Any] = {"services": services}
    if kept["direction"] == Direction.BACK:
        result["not_undone"] = {each: poison(operation).as_dict() for each in sorted(changes)}
    return result


def _last_seen(service: Service | None, change: dict[str, Any]) -> dict[str, Any]:
    up = service is not None and service.status in (ServiceStatus.RUNNING, ServiceStatus.UNHEALTHY)
    runs = "none"
    if service is not None and up:
        runs = "old" if service.observed_hash == change["hash"] else "new"
    seen_at = written(service.observed_at) if service is not None else None
    return {"service_id": change["service_id"], "change": change["kind"], "runs": runs, "last_seen_at": seen_at}

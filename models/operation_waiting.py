"""Saying why an operation does not move, at the operation and at the services that it is about."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from domain.states import UP
from models.base import table_of
from models.operation_rows import Operation
from models.services import Service

_services = table_of(Service)
_SAID = select(_services.c.id, _services.c.status, _services.c.waiting_for).where(
    _services.c.id.in_(bindparam("ids", expanding=True))
)
_SAY = update(_services).where(_services.c.id == bindparam("of_id"))
_UP = frozenset(status.value for status in UP)


def say(session: Session, operation: Operation, reasons: Sequence[dict[str, Any]]) -> None:
    """`reasons` are {kind, ref, text}; none means that nothing is waited for any more."""
    before = {each["ref"] for each in operation.waiting_for or ()}
    operation.waiting_for = list(reasons) or None
    ids = (operation.parameters or {}).get("named") or []
    if not ids:
        return
    session.flush()
    starts = not operation.type.endswith((".stop", ".remove"))
    for row in session.execute(_SAID, {"ids": list(ids)}).all():
        kept = [each for each in row.waiting_for or () if not _is_ours(each, before)]
        # What runs and is to be started lacks nothing.
        said = kept if starts and row.status in _UP else [*kept, *reasons]
        if said != (row.waiting_for or []):
            session.execute(_SAY, {"of_id": row.id, "waiting_for": said or None})


def _is_ours(reason: dict[str, Any], before: Collection[str]) -> bool:
    return reason.get("kind") in ("operation", "slot", "answer") and reason.get("ref") in before

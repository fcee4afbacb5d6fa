"""Asking again for an operation: the same wish on what is there now, and never an answer or a decision of the first."""

from typing import Any

from sqlalchemy.orm import Session

from api.auth import principal
from api.v2 import batches, imports
from api.v2.asking import ask, conflicts_policy, own_ports
from domain.errors import ValidationFailed
from domain.permissions import KNOWN
from domain.strategies import Strategy
from models import conflict_requests, operation_targets, operations, registry_conflicts
from models import operation_requests as requests
from models.operations import Operation
from models.registry_selection import select_targets

# What CLOS adds to the fields of the request, and what a person answered.
_WORKED_OUT = frozenset(
    {
        "targets",
        "services",
        "named",
        "running_dependents",
        "narrowed",
        "chosen",
        "before",
        "at_once",
        "answer",
        "answers",
        "answered_by",
        "decision",
    }
)
# Where the right that a request needs is not named like the operation that it makes.
_RIGHTS = {
    "service.remove": "services:delete",
    "group.remove": "groups:delete",
    "port.check": "ports:read",
    conflict_requests.UNDO: "conflicts:resolve",
}


def permissions_of(operation: Operation) -> list[str]:
    """The rights that asking for an operation of this kind needs."""
    noun, _, verb = operation.type.partition(".")
    if noun == "batch":
        asked = operation.parameters or {}
        needed = batches.rights(verb, asked.get("groups"), asked.get("chosen"))
    else:
        needed = [_RIGHTS.get(operation.type, f"{noun}s:{verb}")]
    return [permission if permission in KNOWN else "*" for permission in needed] or ["*"]


def again(session: Session, first: Operation) -> Operation:
    """A new operation that is to do what `first` was.

    Raises:
        ServiceNotFound, GroupNotFound, ConflictNotFound: what it was about is gone.
        ConflictClosed, UndoImpossible: there is nothing left to do.
        ValidationFailed: it ended a process, which nobody does twice by one confirmation; or what it needs is not kept.
        OperationInProgress: another operation holds one of its targets.
    """
    noun = first.type.partition(".")[0]
    if first.type == imports.IMPORT:
        made = imports.again(session, first)
    elif noun == "conflict":
        made = _conflict(session, first)
    elif noun == "batch":
        made = _batch(session, first)
    elif noun in ("group", "service") and (first.group_name is not None or first.service_id is not None):
        made = _services(session, first, noun)
    else:
        return requests.retry(session, first, initiated_by=principal().name)
    made.retry_of = first.id
    return made


def _services(session: Session, first: Operation, noun: str) -> Operation:
    # Computed anew: who needs whom may have changed since.
    targets = operation_targets.of(session, first)
    body = {name: value for name, value in (first.parameters or {}).items() if name not in _WORKED_OUT}
    group = first.group_name if noun == "group" else None
    return ask(
        session,
        operation_targets.verb_of(first),
        body,
        targets,
        group=group,
        service=first.service_id if group is None else None,
    )


def _batch(session: Session, first: Operation) -> Operation:
    """All of it: what is as wanted by now gives no steps."""
    asked = first.parameters or {}
    body = {name: value for name, value in asked.items() if name not in _WORKED_OUT}
    wanted = {"groups": asked.get("groups"), "services": asked.get("chosen")}
    return batches.begin(session, operation_targets.verb_of(first), body, select_targets(session, wanted))


def _conflict(session: Session, first: Operation) -> Operation:
    asked: dict[str, Any] = dict(first.parameters or {})
    by = principal().name
    if first.type == conflict_requests.UNDO:
        row = registry_conflicts.get(session, int(asked["conflict_id"]))
        return conflict_requests.undo(session, row, initiated_by=by, own_ports=own_ports())
    choices = asked.get("choices") or []
    if any(each["strategy"] == Strategy.KILL_PROCESS for each in choices):
        anew = "It ends a process: ask for that anew, with a confirmation that names the process as it is now."
        raise ValidationFailed({"strategy": [anew]})
    if len(choices) == 1:
        choice = dict(choices[0]) | {"dry_run": asked.get("dry_run"), "allow_foreign": False}
        return conflict_requests.resolve(
            session,
            registry_conflicts.get(session, int(choice["conflict_id"])),
            choice,
            initiated_by=by,
            own_ports=own_ports(),
            installation=conflicts_policy(),
        )
    kept = {name: value for name, value in asked.items() if name in ("choices", "services", "targets", "dry_run")}
    return operations.create(session, first.type, targets=asked.get("targets") or (), parameters=kept, initiated_by=by)

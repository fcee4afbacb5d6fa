"""Importing a Compose project: read it, compare it with what is registered, and write what is new.

What the file no longer has is stopped and removed before it is forgotten. Services whose definition changes are left
as they run: bringing them up to date is an operation of its own (`update`), and the difference says so.
"""

from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from sqlalchemy.orm import Session

from domain.compose.difference import Difference
from domain.compose.problems import ComposeRefused, Problem
from domain.errors import Cancelled, ClaimLost, ClosError, DatabaseBusy, Stopping, ValidationFailed
from domain.resolving import Decision
from domain.states import OperationStatus
from domain.stopping import plan_stop
from models import import_inputs, operations, registry_imports
from models.operations import Operation
from workers import adopting, adoption_record, carrying, import_places, import_reading
from workers.claims import Claim
from workers.context import Context
from workers.import_reading import Read
from workers.journal import Journal

log = structlog.get_logger()
IMPORT = "group.import"


def carry_out(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Import a project, and take away what nobody is to see of its request, however it ends.

    Raises:
        ClosError: as `_import`.
    """
    try:
        _import(context, operation, claim, journal)
    except (ClaimLost, Stopping, DatabaseBusy):
        raise  # another worker goes on with it, and has to know what was asked for
    except ClosError:
        _forget(context, operation)
        raise
    _forget(context, operation)


def _forget(context: Context, operation: Operation) -> None:
    with context.record.write() as session:
        import_inputs.forget(session, operation.id)


def _import(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Import a project, or only say what that would change.

    Raises:
        ComposeRefused: it is not well formed, or asks for what CLOS does not do.
        ClosError: what the record says. Nothing is written then, and nothing was stopped, unless others changed what
            this depends on while what the file no longer has was being removed.
    """
    asked = operation.parameters or {}
    if operation.compensation:
        # An earlier attempt has begun to exchange containers: what the file says by now is no matter any more.
        adopting.take_over(context, operation, claim, journal)
        return
    with context.record.read() as session:
        content, variables = import_inputs.of(session, operation.id)
    if asked.get("content") and content is None:
        raise ComposeRefused([Problem("content", "the text of an import is not kept: import it again")])
    found = import_reading.read(context, asked, content, variables)
    with context.record.read() as session:
        changed = registry_imports.compared(session, found.name, found.imported.body)
        shared = registry_imports.shared_ports(session, found.imported.body)
    result = found.result(changed, shared)
    foreign = adoption_record.find(context, found.project.name, must=bool(asked.get("adopt")))
    result["containers"] = [each.as_dict() for each in foreign]
    if asked.get("dry_run"):
        _try(context, operation, found, changed)
        journal.finish(OperationStatus.COMPLETED, result)
        return
    _take_locks(context, operation, claim, found.name)
    _try(context, operation, found, changed)
    if not _remove_what_is_gone(context, operation, claim, journal, changed, found.name, result):
        return
    write = partial(_write, operation, context, found, changed)
    if asked.get("adopt") and foreign:
        adoption_record.promise(context, claim, found.name, found.project.name, foreign, result, write)
        adopting.take_over(context, operation, claim, journal)
        return
    journal.finish(OperationStatus.COMPLETED, result, last=write)
    log.info("group.imported", operation_id=operation.id, group=found.name, services=len(result["services"]))


def _take_locks(context: Context, operation: Operation, claim: Claim, name: str) -> None:
    with context.record.write() as session:
        held = operations.held(session, claim.operation_id, claim.fence)
        registry_imports.hold(session, operation.id, registry_imports.targets(session, name))
        held.group_name = name


def _remove_what_is_gone(
    context: Context,
    operation: Operation,
    claim: Claim,
    journal: Journal,
    changed: Difference,
    name: str,
    result: dict[str, Any],
) -> bool:
    """Stop and remove what the file no longer has. False: that failed or was cancelled, and the operation has ended."""
    with context.record.read() as session:
        going = registry_imports.ids_of(session, name, changed.removed)
    if not going:
        return True
    subject = carrying.read_subject(context.record, going)
    observed = context.observer.snapshot(subject.specs, subject.health)
    plan = plan_stop(subject.specs, observed, "the file no longer has it", remove=True)
    journal.begin(plan)
    outcome = carrying.carry(context, operation, claim, journal, subject, plan, Decision(), removes=True)
    if outcome.failed:
        step, error = next(iter(outcome.failed.items()))
        journal.finish(OperationStatus.FAILED, result | outcome.told, error.as_dict() | {"step": step})
        return False
    if outcome.broken_off(plan):
        cancelled = Cancelled(
            "it was cancelled before anything was written; result.undone and result.left say what was undone and what "
            "is left"
        )
        journal.finish(OperationStatus.CANCELLED, result | outcome.told, cancelled.as_dict())
        return False
    return True


def _try(context: Context, operation: Operation, found: Read, changed: Difference) -> None:
    """Write it, and take that back. What would be refused at the end is refused before anything was stopped, and in a
    dry run.

    Raises:
        ClosError: as `_define`.
    """
    with suppress(_TakenBack), context.record.write() as session:
        _define(operation, context, found, changed, session)
        raise _TakenBack


class _TakenBack(Exception):
    """Leaves a transaction without its being committed."""


def _define(operation: Operation, context: Context, found: Read, changed: Difference, session: Session) -> None:
    """Write the group. Raises: ClosError: the record refuses it; where that stands in a file, it says so."""
    body = found.imported.body
    try:
        registry_imports.write(session, body, changed, found.remembered(operation.parameters or {}), context.own_ports)
        registry_imports.refuse_denied(session, found.name, context.policy)
    except ClosError as refusal:
        if isinstance(refusal, ValidationFailed):
            registry_imports.name_services(body, refusal)
        import_places.place(found.project.files, body, refusal)
        raise


def _write(operation: Operation, context: Context, found: Read, changed: Difference, session: Session) -> None:
    _define(operation, context, found, changed, session)
    registry_imports.hold(session, operation.id, registry_imports.targets(session, found.name))
    import_inputs.forget(session, operation.id)

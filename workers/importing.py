"""Importing a Compose project: read it, compare it with what is registered, and write what is new.

What the file no longer has is stopped and removed before it is forgotten. Services whose definition changes are left
as they run: bringing them up to date is an operation of its own (`update`), and the difference says so.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from domain.compose import extension
from domain.compose.difference import Difference
from domain.compose.problems import ComposeRefused, Problem
from domain.compose.reading import Imported, read_group
from domain.errors import Cancelled, ClaimLost, ClosError, Stopping, ValidationFailed
from domain.resolving import Decision
from domain.states import OperationStatus
from domain.stopping import plan_stop
from models import import_inputs, operations, registry_imports
from models.groups import Group
from models.operations import Operation
from workers import adopting, adoption_record, carrying
from workers.claims import Claim
from workers.context import Context
from workers.journal import Journal
from workers.runtimes import compose_admission, compose_project
from workers.runtimes.compose_place import Wish
from workers.runtimes.compose_project import Project

log = structlog.get_logger()
IMPORT = "group.import"


@dataclass(frozen=True)
class Read:
    """A project as it was read, and what it comes to."""

    project: Project
    imported: Imported
    left_out: tuple[Problem, ...] = ()
    # Whether it goes by the names that Compose gave its networks.
    adopted: bool = False

    @property
    def name(self) -> str:
        """The group's name."""
        return str(self.imported.body["name"])


def carry_out(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Import a project, and take away what nobody is to see of its request, however it ends.

    Raises:
        ClosError: as `_import`.
    """
    try:
        _import(context, operation, claim, journal)
    except (ClaimLost, Stopping):
        raise  # another worker goes on with it
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
        ClosError: what the record says. Nothing is written then, but what the file no longer has may be stopped.
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
    found = _read(context, asked, content, variables)
    with context.record.read() as session:
        changed = registry_imports.compared(session, found.name, found.imported.body)
        shared = registry_imports.shared_ports(session, found.imported.body)
    result = _result(found, changed, shared)
    foreign = adoption_record.find(context, found.project.name, must=bool(asked.get("adopt")))
    result["containers"] = [each.as_dict() for each in foreign]
    if asked.get("dry_run"):
        journal.finish(OperationStatus.COMPLETED, result)
        return
    _take_locks(context, operation, claim, found.name)
    if not _remove_what_is_gone(context, operation, claim, journal, changed, found.name, result):
        return
    write = partial(_write, operation, context, found, changed)
    if asked.get("adopt") and foreign:
        adoption_record.promise(context, claim, found.name, found.project.name, foreign, result, write)
        adopting.take_over(context, operation, claim, journal)
        return
    journal.finish(OperationStatus.COMPLETED, result, last=write)
    log.info("group.imported", operation_id=operation.id, group=found.name, services=len(result["services"]))


def _wish(asked: Mapping[str, Any], content: str | None, variables: Mapping[str, str], keep: bool) -> Wish:
    # Compose names volumes and networks after its project: a group of another name has its own.
    named = re.sub(r"[^a-z0-9_-]", "", str(asked.get("name") or "").lower()).lstrip("_-")
    return Wish(
        path=Path(asked["path"]) if asked.get("path") else None,
        content=content,
        directory=Path(asked["directory"]) if asked.get("directory") else None,
        name=named if named and not keep else None,
        files=tuple(asked.get("files") or ()),
        profiles=tuple(asked.get("profiles") or ()),
        env_files=tuple(asked.get("env_files") or ()),
        variables=dict(variables),
    )


def _read(context: Context, asked: Mapping[str, Any], content: str | None, variables: Mapping[str, str]) -> Read:
    keep = bool(asked.get("adopt")) or _was_adopted(context, asked.get("name"))
    wish = _wish(asked, content, variables, keep)
    project = compose_project.read(wish, context.policy)
    directory = str(project.directory) if wish.path is not None or wish.directory is not None else None
    name = str(asked.get("name") or extension.of(project.model).get("name") or project.name)
    keep = keep or _was_adopted(context, name)
    imported = read_group(project.model, name, directory, project.values, keep_network_names=keep)
    if asked.get("project"):
        imported.body["project"] = asked["project"]
    located = tuple(compose_project.located(project.files, each) for each in imported.problems)
    if located and asked.get("on_unsupported") != "leave_out":
        forbidden = (
            compose_project.located(project.files, each)
            for each in compose_admission.denied(project.model, context.policy)
        )
        raise ComposeRefused(
            [*located, *forbidden], hint="change the file, or leave these out: on_unsupported leave_out"
        )
    return Read(project, imported, located, keep)


def _was_adopted(context: Context, name: str | None) -> bool:
    """Whether a group was taken over from Compose: then it goes on using the names that Compose gave."""
    with context.record.read() as session:
        group = session.get(Group, name) if name else None
        return bool(group and (group.compose or {}).get("adopted"))


def _result(found: Read, changed: Difference, shared: list[str]) -> dict[str, Any]:
    return {
        "group": found.name,
        "services": [each["name"] for each in found.imported.body["services"]],
        "diff": changed.as_dict(),
        "warnings": [*found.project.warnings, *found.imported.warnings, *shared],
        "left_out": {
            "profiles": list(found.project.left_out),
            "unsupported": [each.as_dict() for each in found.left_out],
        },
        "files": [document.name for document in found.project.files.documents],
    }


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
    result: Mapping[str, Any],
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
        journal.finish(OperationStatus.FAILED, result, error.as_dict() | {"step": step})
        return False
    if outcome.cancelled:
        cancelled = Cancelled("it was cancelled before anything was written")
        journal.finish(OperationStatus.CANCELLED, result, cancelled.as_dict())
        return False
    return True


def _write(operation: Operation, context: Context, found: Read, changed: Difference, session: Session) -> None:
    body = found.imported.body
    try:
        remembered = _remembered(found, operation.parameters or {})
        registry_imports.write(session, body, changed, remembered, context.own_ports)
        registry_imports.refuse_denied(session, found.name, context.policy)
        registry_imports.hold(session, operation.id, registry_imports.targets(session, found.name))
        import_inputs.forget(session, operation.id)
    except ValidationFailed as refusal:
        raise registry_imports.refused(body, refusal) from refusal


def _remembered(found: Read, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the group keeps of its project: enough to read it again, and no variable's value."""
    return {
        "path": asked.get("path"),
        "content": bool(asked.get("content")),
        "directory": str(found.project.directory),
        "files": [os.path.abspath(document.name) for document in found.project.files.documents]
        if asked.get("path")
        else [],
        "given_files": list(asked.get("files") or ()),
        "profiles": list(asked.get("profiles") or ()),
        "env_files": list(asked.get("env_files") or ()),
        "variables": list(asked.get("variables") or ()),
        "project_name": found.project.name,
        "project": asked.get("project"),
        "on_unsupported": asked.get("on_unsupported") or "refuse",
        "adopted": found.adopted,
        "digest": found.project.files.digest,
        "left_out": list(found.project.left_out),
    }

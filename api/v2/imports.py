"""Importing Compose projects: a worker reads them, here it is only asked for."""

from collections.abc import Mapping
from typing import Any

from flask import Response
from flask.views import MethodView
from sqlalchemy.orm import Session

from api.auth import principal, requires
from api.blueprints import ClosBlueprint
from api.idempotency import idempotent, unit_of_work
from api.v2.import_schemas import ImportAgain, ImportGroup
from api.v2.operation_answer import OperationSchema, accepted
from domain.errors import ValidationFailed
from models import groups, import_inputs, operations, registry_imports
from models.base import now
from models.operations import Operation, group_target

blp = ClosBlueprint("imports", __name__, url_prefix="/api/v2/groups", description="Groups from Compose projects")
IMPORT = "group.import"
_REMEMBERED = ("path", "directory", "profiles", "env_files", "on_unsupported", "project")


@blp.route("/import")
class Import(MethodView):
    """A project that may be new."""

    @requires("groups:import")
    @idempotent
    @blp.arguments(ImportGroup)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any]) -> Response:
        """Make a group of a Compose project, or bring one up to date with it

        The operation's `result` has the group, its services, what the files change (`diff`), warnings, and what was
        left out. With `dry_run` it changes nothing. With `adopt` the containers that Compose runs for the project are
        exchanged for CLOS's own.
        """
        with unit_of_work() as session:
            return accepted(ask(session, body, body.get("name")))


@blp.route("/<string:name>/import")
class ImportAgainOne(MethodView):
    """The project of a group."""

    @requires("groups:import")
    @idempotent
    @blp.arguments(ImportAgain)
    @blp.response(202, OperationSchema)
    def post(self, body: dict[str, Any], name: str) -> Response:
        """Read the Compose files of a group again, and take over what changed in them"""
        with unit_of_work() as session:
            kept = registry_imports.remembered(session, name)
            asked = {key: kept[key] for key in _REMEMBERED if kept.get(key)} | body | {"name": name}
            if kept.get("given_files"):
                asked["files"] = kept["given_files"]
            if kept.get("path"):
                asked.pop("directory", None)
            _refuse_what_is_missing(kept, body)
            return accepted(ask(session, asked, name))


def _refuse_what_is_missing(kept: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Raises: ValidationFailed: it came from a text that is not kept, or with variables that were not given again."""
    errors = {}
    if kept.get("content") and "content" not in body:
        errors["content"] = ["It was imported from a text, which is not kept: give it again."]
    if not kept.get("content") and "content" in body:
        errors["content"] = [f"It comes from {kept.get('path')}: import that, or the text under another name."]
    if missing := sorted(set(kept.get("variables") or ()) - set(body.get("variables") or {})):
        errors["variables"] = [f"Their values are not kept: give {', '.join(missing)} again."]
    if errors:
        raise ValidationFailed(errors)


def again(session: Session, first: Operation) -> Operation:
    """A new import of the same files as `first`'s.

    Raises:
        ValidationFailed: what it was given in private is kept nowhere, so it has to be asked for anew.
        OperationInProgress
    """
    asked = dict(first.parameters or {})
    text, variables = asked.pop("content", False), asked.pop("variables", None)
    errors = {}
    if text:
        errors["content"] = ["It was imported from a text, which is not kept: import it anew, with the text."]
    if variables:
        errors["variables"] = [f"Their values are not kept: import it anew, with {', '.join(variables)}."]
    if errors:
        raise ValidationFailed(errors)
    return ask(session, {key: value for key, value in asked.items() if key != "targets"}, asked.get("name"))


def ask(session: Session, body: Mapping[str, Any], name: str | None) -> Operation:
    """Write the operation. What its file or its variables hold stands apart, where nobody is shown it."""
    dry_run = bool(body.get("dry_run"))
    known = name is not None and session.get(groups.Group, name) is not None
    locks = registry_imports.targets(session, name) if name and known else [group_target(name)] if name else []
    parameters = {key: value for key, value in body.items() if key not in ("content", "variables")}
    parameters |= {"content": "content" in body, "variables": sorted(body.get("variables") or ())}
    parameters["targets"] = [] if dry_run else locks
    operation = operations.create(
        session,
        IMPORT,
        targets=parameters["targets"],
        group_name=name,
        parameters=parameters,
        initiated_by=principal().name,
        sent_at=now(),
    )
    import_inputs.keep(session, operation.id, body.get("content"), body.get("variables") or {})
    return operation

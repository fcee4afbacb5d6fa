"""Asking for one thing on several groups and services: one plan over all, or one operation each."""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema
from sqlalchemy.orm import Session

from api.auth import principal
from api.parts import parts
from api.schemas import Flag, Number, Text
from api.v2.definition_fields import one_of
from api.v2.service_schemas import DAY_S, OperationBody
from models import operation_batches, registry_graph
from models import operation_requests as requests
from models.operations import Operation
from models.registry_selection import MOST_TARGETS, Selection, select_targets

ACTIONS = ("start", "stop", "restart", "update")
_NOT_TAKEN = {
    "start": ("cascade", "on_failure"),
    "restart": ("cascade", "on_failure"),
    "stop": ("on_conflict", "no_deps", "on_failure"),
    "update": ("on_conflict", "no_deps", "cascade"),
}
_SELECTORS = ("action", "groups", "services", "tags", "match")


def _several(longest: int) -> "fields.List[str]":
    return fields.List(Text(longest=longest, smallest=1), validate=validate.Length(max=MOST_TARGETS))


class NewOperation(OperationBody):
    """What is to be done, with what, and how: the fields of a group's start, stop, restart or update.

    `match` are globs over groups (`web*`) and over services (`web/*`, `*/db`). Without `together` each target is an
    operation of its own, a few at a time.
    """

    action = one_of(*ACTIONS, required=True)
    groups = _several(50)
    services = _several(160)
    tags = _several(100)
    match = _several(160)
    together = Flag()
    timeout = Number(low=0, high=DAY_S)
    on_conflict = one_of("fail", "migrate", "ask")
    no_deps = Flag()
    cascade = Flag()
    on_failure = one_of("rollback", "keep")

    @validates_schema
    def _fits(self, data: dict[str, Any], **_kwargs: Any) -> None:
        stops = data.get("action") == "stop"
        wrong = [name for name in _NOT_TAKEN.get(str(data.get("action")), ()) if name in data]
        errors: dict[str, list[str]] = {name: [f"A {data.get('action')} takes no {name}."] for name in wrong}
        if "timeout" in data and (data["timeout"] > 3600 if stops else data["timeout"] < 1):
            errors["timeout"] = ["Must be at most 3600 for a stop." if stops else "Must be at least 1."]
        if data.get("together") is False:
            for name in ("dry_run", "dependencies"):
                if data.get(name):
                    errors[name] = ["This goes with one plan over all: leave `together` out."]
        if errors:
            raise ValidationError(errors)


def ask(session: Session, body: Mapping[str, Any]) -> Operation:
    """The operation `batch.<action>` on what the request selects.

    Raises:
        ValidationFailed: it selects nothing, or what is not there.
        Forbidden: the right to do that to groups, or to services, is missing.
        OperationInProgress: another operation holds one of its targets.
    """
    selected = select_targets(session, body)
    return begin(session, str(body["action"]), body, selected)


def begin(session: Session, verb: str, body: Mapping[str, Any], selected: Selection) -> Operation:
    """The same, of what was selected."""
    for needed in rights(verb, selected.groups, selected.services):
        principal().require(needed)
    asked = {name: value for name, value in body.items() if name not in _SELECTORS}
    asked |= {"groups": list(selected.groups), "chosen": sorted(selected.services)}
    type_, by = f"batch.{verb}", principal().name
    if body.get("together") is False:
        each = [requests.Each(f"group.{verb}", name) for name in selected.groups]
        each += [requests.Each(f"service.{verb}", name, service_id) for service_id, name in selected.services.items()]
        limit = parts().settings.performance.max_concurrent_operations
        most = operation_batches.at_once(limit) if limit is not None else None
        return requests.ask_each(session, type_, asked, each, at_once=most, initiated_by=by)
    targets = registry_graph.targets_for(
        session,
        verb,
        groups=selected.groups,
        services=list(selected.services),
        with_dependencies=not body.get("no_deps", False),
        cascade=bool(body.get("cascade", False)),
    )
    return requests.ask(session, type_, asked, targets, initiated_by=by)


def rights(verb: str, groups: Any, services: Any) -> list[str]:
    """What doing that to groups and to services needs."""
    return [f"{noun}:{verb}" for noun, named in (("groups", groups), ("services", services)) if named]

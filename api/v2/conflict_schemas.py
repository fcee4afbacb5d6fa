"""Conflicts in requests and answers."""

from marshmallow import Schema, fields, validate

from api.pages import PageArgs
from api.schemas import Choices, Flag, Text, Time
from api.v2.definition_fields import Definition, one_of, port_field
from api.v2.port_schemas import HolderSchema
from domain.conflicts import ConflictKind, ConflictStatus
from domain.strategies import Risk, Strategy

STATUSES = [status.value for status in ConflictStatus]
_RISKS = [risk.value for risk in Risk]
_STRATEGIES = [strategy.value for strategy in Strategy]


class ConflictsArgs(PageArgs):
    """Conflicts by id; active ones if no status is named."""

    status = Choices(STATUSES)


class ResolveBody(Definition):
    """How a conflict is to be resolved.

    `service_id` says which claimant moves, `port` where to (`change_port`). `confirm` repeats the process that
    `kill_process` ends, as its option's `confirm` names it, or its pid; `allow_foreign` lets it be another user's.
    """

    strategy = one_of(*_STRATEGIES, required=True)
    service_id = Text(longest=160, smallest=1, allow_none=True)
    port = port_field(allow_none=True)
    confirm = Text(longest=500, smallest=1, allow_none=True)
    allow_foreign = Flag()
    dry_run = Flag()


class ResolveAllBody(Definition):
    """Up to which risk conflicts are resolved without asking."""

    max_risk = one_of(*_RISKS, load_default=Risk.LOW.value)
    dry_run = Flag()


class OptionSchema(Schema):
    """One way to resolve a conflict. `confirm` is what has to be repeated where a process would be ended."""

    strategy = fields.String(required=True, validate=validate.OneOf(_STRATEGIES))
    description = fields.String(required=True)
    cause = fields.String(required=True)
    risk_level = fields.String(required=True, validate=validate.OneOf(_RISKS))
    effects = fields.List(fields.String(), required=True)
    port = fields.Integer(required=True, allow_none=True)
    from_port = fields.Integer(required=True, allow_none=True)
    service_id = fields.String(required=True, allow_none=True)
    confirm = fields.String()


class ResolutionSchema(Schema):
    """What was done about a conflict; `undone_by` is the operation that took it back."""

    strategy = fields.String(required=True)
    from_port = fields.Integer(required=True, allow_none=True)
    to_port = fields.Integer(required=True, allow_none=True)
    operation_id = fields.String(required=True, allow_none=True)
    undone_by = fields.String()


class ConflictSchema(Schema):
    """A port that two want, or that one wants and another has."""

    id = fields.Integer(required=True)
    kind = fields.String(required=True, validate=validate.OneOf([kind.value for kind in ConflictKind]))
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    port = fields.Integer(required=True)
    host_ip = fields.String(required=True)
    protocol = fields.String(required=True, validate=validate.OneOf(["tcp", "udp"]))
    claimants = fields.List(fields.String(), required=True)
    holder = fields.Nested(HolderSchema, required=True, allow_none=True)
    detail = fields.String(required=True, allow_none=True)
    options = fields.List(fields.Nested(OptionSchema), required=True)
    detected_at = Time(required=True)
    resolved_at = Time(required=True, allow_none=True)
    resolution = fields.Nested(ResolutionSchema, required=True, allow_none=True)
    undoable = fields.Boolean(required=True)

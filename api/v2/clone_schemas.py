"""A clone in a request and in an answer."""

from datetime import datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from api.schemas import Flag, Number, Text, moment
from api.v2.definition_fields import ABSOLUTE, Definition, list_of, name_field
from api.v2.group_schemas import GroupChange, GroupSchema
from models.base import now

YEAR_S = 365 * 86_400
MOST_OTHERS = 20


def ttl_field() -> Number:
    """Seconds from now until it is removed."""
    return Number(low=1, high=YEAR_S, allow_none=True)


class Moment(fields.String):
    """A time (RFC 3339) with its zone. Loads as an aware datetime."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        found = moment(str(super()._deserialize(value, attr, data, **kwargs)))
        if found is None:
            raise ValidationError("Must be a time such as 2026-05-04T10:00:00Z.")
        return found


class GroupPatch(GroupChange):
    """What may be changed of a group; of a clone also until when it is kept (`ttl` in seconds; null: no end)."""

    ttl = ttl_field()
    expires_at = Moment(allow_none=True)

    @validates_schema
    def _one_end(self, body: dict[str, Any], **_kwargs: Any) -> None:
        if "ttl" in body and "expires_at" in body:
            raise ValidationError("Give ttl or expires_at.", "ttl")


def end_of(body: dict[str, Any]) -> datetime | None:
    """When what a request is about ends; None where it says no end."""
    ttl = body.get("ttl")
    return body.get("expires_at") if ttl is None else now() + timedelta(seconds=ttl)


class CloneGroup(Definition):
    """What is to be cloned, and how. `with` are groups that are cloned along, as `<as>-<group>`; `ttl` in seconds."""

    as_ = name_field(50, required=True, data_key="as", attribute="as")
    with_ = list_of(name_field(50), MOST_OTHERS, data_key="with", attribute="with")
    ttl = ttl_field()
    directory = Text(longest=4096, smallest=1, pattern=ABSOLUTE, allow_none=True)
    start = Flag()


class RemarkSchema(Schema):
    """What is shared with the original, was lost, or may mean it; `service` is a name, null for the group."""

    service = fields.String(required=True, allow_none=True)
    field = fields.String(required=True)
    text = fields.String(required=True)


class ClonedSchema(GroupSchema):
    """A clone that was made, all groups that were made with it, and what is to be known about them."""

    clones = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    warnings = fields.List(fields.Nested(RemarkSchema), required=True)

"""Ports, ranges and leases in requests and answers."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from api.pages import PageArgs
from api.schemas import Choices, Flag, Number, Strict, Text, Time, Whole
from api.v2.definition_fields import Definition, name_field, one_of, port_field
from domain.ports import PortVerdict

SECTIONS = ["ranged", "leased", "listening", "latent"]


class PortsArgs(Strict):
    """Which ports: of which projects, in which states."""

    project = Choices()
    state = Choices(SECTIONS)


class AllocateBody(Definition):
    """What port is wanted. `ttl` in seconds; without it the lease lasts until it is given back."""

    project = name_field(50)
    preferred_port = port_field(allow_none=True)
    protocol = one_of("tcp", "udp")
    service_id = Text(longest=160, smallest=1, allow_none=True)
    ttl = Number(low=1, high=365 * 86_400, allow_none=True)


class RangeChange(Definition):
    """What may be changed of a range."""

    read_only = frozenset({"id", "used", "usage_percent"})
    project = name_field(50)
    start_port = port_field()
    end_port = port_field()
    description = Text(longest=4000, allow_none=True)
    priority = Whole(low=-1000, high=1000)
    max_services = Whole(low=1, high=65_535, allow_none=True)
    allow_ephemeral = Flag()

    @validates_schema
    def _upwards(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data.get("start_port", 0) > data.get("end_port", 65_535):
            raise ValidationError("The range is upside down.", "end_port")


class NewRange(RangeChange):
    """A range to be defined."""

    project = name_field(50, required=True)
    start_port = port_field(required=True)
    end_port = port_field(required=True)


class RangesArgs(PageArgs):
    """Ranges by id."""


class ParentSchema(Schema):
    """An ancestor of a process."""

    pid = fields.Integer(required=True)
    name = fields.String(required=True)


class HolderSchema(Schema):
    """Who has a port."""

    kind = fields.String(required=True, validate=validate.OneOf(["service", "container", "process", "clos", "unknown"]))
    running = fields.Boolean(required=True, allow_none=True)
    name = fields.String(required=True, allow_none=True)
    container_id = fields.String(required=True, allow_none=True)
    service_id = fields.String(required=True, allow_none=True)
    pid = fields.Integer(required=True, allow_none=True)
    command = fields.String(required=True, allow_none=True)
    user = fields.String(required=True, allow_none=True)
    started_at = Time(required=True, allow_none=True)
    own = fields.Boolean(required=True)
    start_ticks = fields.Integer(allow_none=True)
    parents = fields.List(fields.Nested(ParentSchema))
    hint = fields.String()


class EntrySchema(Schema):
    """Whether a bind on one address would succeed."""

    host_ip = fields.String(required=True)
    protocol = fields.String(required=True, validate=validate.OneOf(["tcp", "udp"]))
    verdict = fields.String(required=True, validate=validate.OneOf([each.value for each in PortVerdict]))
    reason = fields.String(required=True, allow_none=True)
    holders = fields.List(fields.Nested(HolderSchema), required=True)


class LeaseSchema(Schema):
    """A port that one has for itself."""

    id = fields.Integer(required=True)
    port = fields.Integer(required=True)
    host_ip = fields.String(required=True)
    protocol = fields.String(required=True)
    project = fields.String(required=True)
    service_id = fields.String(required=True, allow_none=True)
    port_name = fields.String(required=True)
    created_at = Time(required=True)
    expires_at = Time(required=True, allow_none=True)


class ClaimSchema(Schema):
    """A port that a service's spec names, or a container publishes."""

    service_id = fields.String(required=True, allow_none=True)
    container = fields.String(required=True, allow_none=True)
    port = fields.Integer(required=True, allow_none=True)
    host_ip = fields.String(required=True)
    protocol = fields.String(required=True)
    latent = fields.Boolean(required=True)
    source = fields.String(required=True)


class RangeSchema(Schema):
    """The ports that a project's services are given."""

    id = fields.Integer(required=True)
    project = fields.String(required=True)
    start_port = fields.Integer(required=True)
    end_port = fields.Integer(required=True)
    description = fields.String(required=True, allow_none=True)
    priority = fields.Integer(required=True)
    max_services = fields.Integer(required=True, allow_none=True)
    used = fields.Integer(required=True)
    usage_percent = fields.Float(required=True)


class ListenerSchema(Schema):
    """A socket as it was last seen."""

    host_ip = fields.String(required=True)
    port = fields.Integer(required=True)
    protocol = fields.String(required=True)
    pid = fields.Integer(required=True, allow_none=True)
    name = fields.String(required=True, allow_none=True)
    command = fields.String(required=True, allow_none=True)
    user = fields.String(required=True, allow_none=True)
    holder = fields.Nested(HolderSchema, required=True)
    observed_at = Time(required=True)


class VerdictSchema(Schema):
    """Everything that is known of a port."""

    port = fields.Integer(required=True)
    observed_at = Time(required=True, allow_none=True)
    allocatable = fields.Boolean(required=True)
    entries = fields.List(fields.Nested(EntrySchema), required=True)
    lease = fields.Nested(LeaseSchema, required=True, allow_none=True)
    claims = fields.List(fields.Nested(ClaimSchema), required=True)
    range = fields.Nested(RangeSchema, required=True, allow_none=True)


class PortsSchema(Schema):
    """All that is known of ports; `state` narrows it to the sections that are named."""

    observed_at = Time(required=True, allow_none=True)
    ranges = fields.List(fields.Nested(RangeSchema), required=True)
    leases = fields.List(fields.Nested(LeaseSchema), required=True)
    listeners = fields.List(fields.Nested(ListenerSchema), required=True)
    claims = fields.List(fields.Nested(ClaimSchema), required=True)

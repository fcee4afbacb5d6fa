"""A group in a request and in an answer."""

from typing import Any

from marshmallow import INCLUDE, Schema, fields, pre_load, validate

from api.pages import PageArgs
from api.schemas import Flag, Number, Strict, Text, Time, Whole
from api.v2.definition_fields import ABSOLUTE, Definition, Described, list_of, name_field, one_of
from api.v2.service_schemas import DAY_S, RESTART_POLICIES, OperationBody, ServiceBody, UpdateService
from domain.configuration import CAUSES, RECONCILE_MODES
from domain.container import check_networks, check_volumes
from domain.states import GroupStatus

# All of a request is one write transaction, in which each service takes about 4 ms.
MOST_SERVICES = 200


class ConflictsPolicy(Definition):
    """What this group does about port conflicts. What is not given is as in the configuration. Times in seconds."""

    auto_resolve = Flag()
    max_risk = one_of("low", "medium", "high")
    on_start = one_of("fail", "migrate", "ask")
    dependents = one_of("restart", "report")
    # Kept under the name that policy has for it (domain/configuration.py, Conflicts).
    ask_timeout = Number(low=1, high=7 * DAY_S, attribute="ask_timeout_s")
    on_timeout = one_of("fail", "migrate")


class ReconcilePolicy(Definition):
    """What is done about its services that are wanted and do not run, by what took them down. What is not given is as
    in the configuration; a word alone stands for all four."""

    person = one_of(*RECONCILE_MODES)
    engine = one_of(*RECONCILE_MODES)
    host = one_of(*RECONCILE_MODES)
    crash = one_of(*RECONCILE_MODES)

    @pre_load
    def _for_all(self, data: Any, **_kwargs: Any) -> Any:
        return dict.fromkeys(CAUSES, data) if isinstance(data, str) else data


class GroupChange(Definition):
    """What may be changed of a group: what is given replaces what was, null takes it away."""

    read_only = frozenset(
        {
            "name", "services", "status", "spec_version", "health_score", "counts", "cloned_from", "created_at",
            "updated_at",
        }
    )  # fmt: skip
    description = Text(longest=4000, allow_none=True)
    project = name_field(50)
    dependencies = list_of(name_field(50), 100)
    start_order = Whole(low=-1000, high=1000)
    compose_file = Text(longest=4096, smallest=1, allow_none=True)
    network_name = name_field(100, allow_none=True)
    networks = Described(check_networks, allow_none=True)
    volumes = Described(check_volumes, allow_none=True)
    # Where its relative paths count from: what a clone with a directory of its own has moved.
    directory = Text(longest=4096, smallest=1, pattern=ABSOLUTE, allow_none=True)
    restart_policy = one_of(*RESTART_POLICIES, allow_none=True)
    conflicts = fields.Nested(ConflictsPolicy, allow_none=True)
    reconcile = fields.Nested(ReconcilePolicy, allow_none=True)


class NewGroup(GroupChange):
    """A group to be registered, with its services: all of it or nothing."""

    read_only = (GroupChange.read_only | {"expires_at"}) - {"name", "services"}
    name = name_field(50, required=True)
    services = list_of(fields.Nested(ServiceBody), MOST_SERVICES)


class StartGroup(OperationBody):
    """How a group is started. `services` are names or ids, where not all of it is meant."""

    on_conflict = one_of("fail", "migrate", "ask")
    no_deps = Flag()
    services = fields.List(Text(longest=160, smallest=1), validate=validate.Length(min=1, max=MOST_SERVICES))


class StopGroup(OperationBody):
    """How a group is stopped; here `timeout` is what each service is given to end by itself."""

    timeout = Number(low=0, high=3600)
    cascade = Flag()
    services = fields.List(Text(longest=160, smallest=1), validate=validate.Length(min=1, max=MOST_SERVICES))


class UpdateGroup(UpdateService):
    """How a group is updated. `services` are names or ids, where not all of it is meant."""

    services = fields.List(Text(longest=160, smallest=1), validate=validate.Length(min=1, max=MOST_SERVICES))


class GroupsArgs(PageArgs):
    """Groups by name."""


class ExportArgs(Strict):
    """In which form."""

    format = one_of("json", "compose", load_default="json")


class CountsSchema(Schema):
    """How many of a group's services are what."""

    total = fields.Integer(required=True)
    running = fields.Integer(required=True)
    healthy = fields.Integer(required=True)
    failed = fields.Integer(required=True)


class GroupSchema(Schema):
    """A group, and what its services are together."""

    name = fields.String(required=True)
    description = fields.String(required=True, allow_none=True)
    project = fields.String(required=True)
    dependencies = fields.List(fields.String(), required=True)
    start_order = fields.Integer(required=True)
    compose_file = fields.String(required=True, allow_none=True)
    network_name = fields.String(required=True, allow_none=True)
    networks = fields.Dict(required=True)
    volumes = fields.Dict(required=True)
    directory = fields.String(required=True, allow_none=True)
    restart_policy = fields.String(required=True, allow_none=True)
    conflicts = fields.Dict(required=True, allow_none=True)
    reconcile = fields.Dict(required=True, allow_none=True)
    services = fields.List(fields.String(), required=True)
    status = fields.String(required=True, validate=validate.OneOf([status.value for status in GroupStatus]))
    spec_version = fields.Integer(required=True)
    health_score = fields.Float(required=True)
    counts = fields.Nested(CountsSchema, required=True)
    cloned_from = fields.String(required=True, allow_none=True)
    expires_at = Time(required=True, allow_none=True)
    created_at = Time(required=True)
    updated_at = Time(required=True)


class WaitsForSchema(Schema):
    """What a start of a service comes after. `group`: the group that its own one depends on, where it is for that."""

    service = fields.String(required=True)
    condition = fields.String(required=True)
    required = fields.Boolean(required=True)
    group = fields.String(required=True, allow_none=True)


class NodeSchema(Schema):
    """A service in a graph, of the group or of one that is needed."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    group = fields.String(required=True)
    runtime = fields.String(required=True)
    status = fields.String(required=True)
    health = fields.String(required=True)
    waits_for = fields.List(fields.Nested(WaitsForSchema), required=True)


class EdgeSchema(Schema):
    """`source` needs `target`."""

    source = fields.String(required=True)
    target = fields.String(required=True)
    condition = fields.String(required=True)
    required = fields.Boolean(required=True)
    restart = fields.Boolean(required=True)


class GraphGroupSchema(Schema):
    """A group in a graph. All of what it depends on is up before its own services start."""

    name = fields.String(required=True)
    dependencies = fields.List(fields.String(), required=True)
    start_order = fields.Integer(required=True)


class GraphSchema(Schema):
    """Who needs whom; `order` is one in which they can be started, `critical_path` the chain of services that takes
    longest, by what their steps took so far."""

    nodes = fields.List(fields.Nested(NodeSchema), required=True)
    edges = fields.List(fields.Nested(EdgeSchema), required=True)
    groups = fields.List(fields.Nested(GraphGroupSchema), required=True)
    order = fields.List(fields.String(), required=True)
    critical_path = fields.List(fields.String(), required=True)


class ExportSchema(Schema):
    """A body that `POST /groups` takes, or `compose` with the text of a Compose file; secrets are left out."""

    class Meta:
        unknown = INCLUDE

    name = fields.String(required=True)
    services = fields.List(fields.Dict())
    compose = fields.String()
    secrets = fields.List(
        fields.String(), metadata={"description": "Beside `compose`: `service.NAME` of each value that is left out."}
    )

"""A service in a request and in an answer."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from api.pages import PageArgs
from api.schemas import Choices, Flag, Number, QueryFlag, QueryWhole, Since, Strict, Text, Time, WaitingSchema, Whole
from api.v2.definition_fields import (
    ABSOLUTE,
    ENVIRONMENT_KEY,
    IMAGE,
    NAME,
    URL_OR_PATH,
    VOLUME,
    Arguments,
    Command,
    Definition,
    Described,
    Short,
    is_address,
    is_label,
    is_safe_volume,
    list_of,
    map_of,
    name_field,
    one_of,
    port_field,
)
from domain.build import check as check_build
from domain.configuration import CAUSES
from domain.container import check as check_container
from domain.specs import MOST_PORTS, CheckType, Condition, RestartPolicy, RuntimeKind
from domain.states import Desired, HealthStatus, ServiceStatus

RUNTIMES = [kind.value for kind in RuntimeKind]
STATUSES = [status.value for status in ServiceStatus]
HEALTHS = [status.value for status in HealthStatus]
RESTART_POLICIES = [policy.value for policy in RestartPolicy]
PERIODS_S = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "1h": 3600,
    "6h": 21_600,
    "24h": 86_400,
    "7d": 604_800,
    "30d": 2_592_000,
}
DAY_S = 86_400
# A health URL may begin with a reference that is one (`domain/references.py`).
HEALTH_URL = rf"(?:{URL_OR_PATH}|\$\{{url:{NAME}(?:/{NAME}){{0,2}}\}}(?:[/?#][^\s]*)?)"


class PortBody(Definition):
    """One port. Without a `host_port` one is leased from the project's range."""

    read_only = frozenset({"url"})
    name = Text(longest=100, pattern=rf"(?:{NAME})?")
    host_ip = Text(longest=45, validate=is_address)
    host_port = port_field(allow_none=True)
    container_port = port_field(allow_none=True)
    protocol = one_of("tcp", "udp")


class DependencyBody(Definition):
    """What it waits for: a name of the same group, or `group/service`."""

    service = Text(longest=151, smallest=1, pattern=rf"{NAME}(?:/{NAME})?", required=True)
    condition = one_of(*(condition.value for condition in Condition))
    required = Flag()
    restart = Flag()


class HealthCheckBody(Definition):
    """How and how often its health is looked at. Times in seconds."""

    enabled = Flag()
    type = one_of(*(kind.value for kind in CheckType))
    url = Text(longest=2000, pattern=HEALTH_URL, allow_none=True)
    port = Text(longest=100, smallest=1, allow_none=True)
    test = Arguments(allow_none=True)
    interval = Number(low=0.1, high=DAY_S)
    timeout = Number(low=0.1, high=3600)
    retries = Whole(low=1, high=100)
    start_period = Number(low=0, high=DAY_S)
    expected_status = Whole(low=100, high=599)


class ServiceChange(Definition):
    """What may be changed of a service: what is given replaces what was, null takes it away.

    `secrets` and `health_check` are changed key by key.
    """

    read_only = frozenset(
        {
            "id", "name", "group", "desired", "status", "health", "waiting_for", "drift", "drift_detail", "observed",
            "started_at", "stopped_at", "spec_version", "created_at", "updated_at", "metrics",
        }
    )  # fmt: skip
    runtime = one_of(*RUNTIMES)
    image = Text(longest=500, smallest=1, pattern=IMAGE, allow_none=True)
    build = Described(check_build, short="context", allow_none=True)
    command = Command(allow_none=True)
    working_dir = Text(longest=4096, smallest=1, pattern=ABSOLUTE, allow_none=True)
    user = Text(longest=100, smallest=1, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", allow_none=True)
    environment = map_of(Text(longest=255, smallest=1, pattern=ENVIRONMENT_KEY), Text(longest=32_768), 500)
    secrets = map_of(Text(longest=255, smallest=1, pattern=ENVIRONMENT_KEY), Text(longest=32_768, allow_none=True), 200)
    volumes = list_of(Text(longest=4096, smallest=3, pattern=VOLUME, validate=is_safe_volume), 100)
    networks = list_of(name_field(100), 50)
    network_mode = Text(longest=100, smallest=1, pattern=r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
    dns_servers = list_of(Text(longest=45, validate=is_address), 10)
    labels = map_of(Text(longest=255, smallest=1, validate=is_label), Text(longest=4096), 200)
    container = Described(check_container, allow_none=True)
    restart_policy = one_of(*RESTART_POLICIES)
    restart_by = one_of("clos", "engine")
    cpu_limit = Number(low=0.01, high=1024, allow_none=True)
    memory_limit = Whole(low=6, high=16_777_216, allow_none=True)
    stop_timeout = Number(low=0.1, high=3600)
    ports = list_of(fields.Nested(PortBody), MOST_PORTS)
    port = port_field(allow_none=True)
    depends_on = list_of(
        Short(DependencyBody, "service", Text(longest=151, smallest=1, pattern=rf"{NAME}(?:/{NAME})?")), 200
    )
    health_check = fields.Nested(HealthCheckBody, allow_none=True)
    health_url = Text(longest=2000, pattern=HEALTH_URL, allow_none=True)
    tags = list_of(Text(longest=100, smallest=1, pattern=r"[A-Za-z0-9][A-Za-z0-9_.:/-]*"), 50)
    description = Text(longest=4000, allow_none=True)
    version = Text(longest=100, allow_none=True)
    owner = Text(longest=100, allow_none=True)

    @validates_schema
    def _one_port(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data.get("ports") and data.get("port") is not None and data["ports"][0].get("host_port") != data["port"]:
            raise ValidationError({"port": ["Give port or ports, not both: port is the first one's host_port."]})

    @validates_schema
    def _one_url(self, data: dict[str, Any], **_kwargs: Any) -> None:
        url = (data.get("health_check") or {}).get("url")
        if url is not None and data.get("health_url", url) != url:
            raise ValidationError({"health_url": ["It is the short form of health_check.url: give one of them."]})


class ServiceBody(ServiceChange):
    """A service to be registered in a group of the same request."""

    read_only = ServiceChange.read_only - {"name", "group"}
    name = name_field(100, required=True)
    group = name_field(50)


class NewService(ServiceBody):
    """A service to be registered; its group is made if there is none."""

    group = name_field(50, required=True)


class OperationBody(Definition):
    """What every operation takes. `timeout` in seconds, for all of it.

    `wait_for` queues it behind who holds its targets, `dependencies` are operations that must have completed before,
    `step_timeout` is what each of its steps may take, in seconds.
    """

    timeout = Number(low=1, high=DAY_S)
    step_timeout = Number(low=1, high=DAY_S)
    dry_run = Flag()
    wait_for = Flag()
    dependencies = fields.List(Text(longest=36, smallest=1), validate=validate.Length(max=50))


class StartService(OperationBody):
    """How a service is started."""

    no_deps = Flag()
    on_conflict = one_of("fail", "migrate", "ask")


class StopService(OperationBody):
    """How a service is stopped; here `timeout` is what it is given to end by itself."""

    timeout = Number(low=0, high=3600)
    cascade = Flag()


class RestartService(StartService):
    """How a service is restarted."""


class UpdateService(OperationBody):
    """How a service is updated. `on_failure`: whether all of it is taken back (`rollback`), or left as it is then."""

    on_failure = one_of("rollback", "keep")


class ForceArgs(Strict):
    """Whether a running one is stopped and removed as well."""

    force = QueryFlag(load_default=False)


class ServicesArgs(PageArgs):
    """Which services."""

    group = Choices()
    status = Choices(STATUSES)
    health = Choices(HEALTHS)
    tag = Choices()
    runtime = Choices(RUNTIMES)
    q = Text(longest=200)
    include_metrics = QueryFlag(load_default=False)


class LogsArgs(Strict):
    """Which lines."""

    lines = QueryWhole(low=1, high=5_000, load_default=100)
    since = Since()
    q = Text(longest=200, smallest=1)


class PeriodArgs(Strict):
    """How far back."""

    period = one_of(*PERIODS_S, load_default="1h")


# --- answers: they describe; `service_answers.py` makes them ------------------------------------------------


class PortSchema(Schema):
    """A port of a service."""

    name = fields.String(required=True)
    host_ip = fields.String(required=True)
    host_port = fields.Integer(required=True, allow_none=True)
    container_port = fields.Integer(required=True, allow_none=True)
    protocol = fields.String(required=True, validate=validate.OneOf(["tcp", "udp"]))
    url = fields.String(required=True, allow_none=True)


class DependencySchema(Schema):
    """What a service waits for."""

    service = fields.String(required=True)
    condition = fields.String(required=True)
    required = fields.Boolean(required=True)
    restart = fields.Boolean(required=True)


class HealthSchema(Schema):
    """What the health check last said."""

    status = fields.String(required=True, validate=validate.OneOf(HEALTHS))
    last_check = Time(required=True, allow_none=True)
    response_time_ms = fields.Float(required=True, allow_none=True)
    detail = fields.String(required=True, allow_none=True)


class ObservedSchema(Schema):
    """What was last seen of its instance."""

    container_id = fields.String(required=True, allow_none=True)
    pid = fields.Integer(required=True, allow_none=True)
    exit_code = fields.Integer(required=True, allow_none=True)
    restarts = fields.Integer(required=True)
    down_cause = fields.String(required=True, allow_none=True, validate=validate.OneOf(CAUSES))
    down_since = Time(required=True, allow_none=True)
    observed_at = Time(required=True, allow_none=True)


class HealthCheckSchema(Schema):
    """How its health is looked at."""

    enabled = fields.Boolean(required=True)
    type = fields.String(required=True, allow_none=True)
    url = fields.String(required=True, allow_none=True)
    port = fields.String(required=True, allow_none=True)
    test = fields.List(fields.String(), required=True, allow_none=True)
    interval = fields.Float(required=True)
    timeout = fields.Float(required=True)
    retries = fields.Integer(required=True)
    start_period = fields.Float(required=True)
    expected_status = fields.Integer(required=True)


class MetricsPointSchema(Schema):
    """One sample."""

    timestamp = Time(required=True)
    cpu_usage = fields.Float(required=True, allow_none=True)
    memory_usage = fields.Float(required=True, allow_none=True)
    memory_percent = fields.Float(required=True, allow_none=True)
    network_rx = fields.Integer(required=True, allow_none=True)
    network_tx = fields.Integer(required=True, allow_none=True)
    disk_read = fields.Integer(required=True, allow_none=True)
    disk_write = fields.Integer(required=True, allow_none=True)
    response_time = fields.Float(required=True, allow_none=True)


class MetricsSchema(Schema):
    """Samples over a period, `resolution` seconds apart."""

    period = fields.String(required=True)
    resolution = fields.Integer(required=True)
    points = fields.List(fields.Nested(MetricsPointSchema), required=True)


class LogLineSchema(Schema):
    """One line of a service's output."""

    at = Time(required=True, allow_none=True)
    stream = fields.String(required=True, allow_none=True)
    text = fields.String(required=True)


class LogsSchema(Schema):
    """The last lines of a service's output, oldest first."""

    service_id = fields.String(required=True)
    lines = fields.List(fields.Nested(LogLineSchema), required=True)


class ServiceSchema(Schema):
    """A service: what is wanted of it, and what was seen."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    group = fields.String(required=True)
    runtime = fields.String(required=True, validate=validate.OneOf(RUNTIMES))
    desired = fields.String(required=True, validate=validate.OneOf([desired.value for desired in Desired]))
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    health = fields.Nested(HealthSchema, required=True)
    waiting_for = fields.List(fields.Nested(WaitingSchema), required=True)
    drift = fields.Boolean(required=True)
    drift_detail = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "What runs otherwise than it is wanted, as sentences; empty without drift."},
    )
    observed = fields.Nested(ObservedSchema, required=True)
    image = fields.String(required=True, allow_none=True)
    build = fields.Dict(required=True, allow_none=True)
    command = fields.List(fields.String(), required=True, allow_none=True)
    working_dir = fields.String(required=True, allow_none=True)
    user = fields.String(required=True, allow_none=True)
    environment = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    secrets = fields.List(
        fields.String(), required=True, metadata={"description": "Their names; values are never given back."}
    )
    volumes = fields.List(fields.String(), required=True)
    networks = fields.List(fields.String(), required=True)
    network_mode = fields.String(required=True)
    dns_servers = fields.List(fields.String(), required=True)
    labels = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    container = fields.Dict(
        required=True,
        metadata={"description": "What only a container has, under the names that a Compose service has for it."},
    )
    restart_policy = fields.String(required=True)
    restart_by = fields.String(required=True)
    cpu_limit = fields.Float(required=True, allow_none=True)
    memory_limit = fields.Integer(required=True, allow_none=True)
    stop_timeout = fields.Float(required=True)
    ports = fields.List(fields.Nested(PortSchema), required=True)
    port = fields.Integer(required=True, allow_none=True)
    depends_on = fields.List(fields.Nested(DependencySchema), required=True)
    health_check = fields.Nested(HealthCheckSchema, required=True, allow_none=True)
    health_url = fields.String(required=True, allow_none=True)
    tags = fields.List(fields.String(), required=True)
    description = fields.String(required=True, allow_none=True)
    version = fields.String(required=True, allow_none=True)
    owner = fields.String(required=True, allow_none=True)
    started_at = Time(required=True, allow_none=True)
    stopped_at = Time(required=True, allow_none=True)
    spec_version = fields.Integer(required=True)
    created_at = Time(required=True)
    updated_at = Time(required=True)
    metrics = fields.Nested(MetricsPointSchema, allow_none=True)

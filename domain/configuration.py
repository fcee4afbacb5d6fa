"""What CLOS can be told, section by section, with its defaults: values only. `settings.py` fills them in.

Each attribute stands for one key of `config.yaml`. Durations are in seconds.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

VERSION = "2.0.0"


class SettingsError(Exception):
    """The configuration is wrong; `problems` names every mistake, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Kind(StrEnum):
    """What a key accepts, where no limits need saying."""

    TEXT = "text"
    TEXTS = "texts"
    SWITCH = "switch"
    DURATION = "duration"


class Whole(NamedTuple):
    """An integer, both ends included."""

    low: int
    high: int


class OneOf(NamedTuple):
    """One of a few words."""

    choices: tuple[str, ...]


TEXT, TEXTS, SWITCH, DURATION = Kind.TEXT, Kind.TEXTS, Kind.SWITCH, Kind.DURATION
PORT = Whole(1, 65535)


def _key(default: Any, kind: Kind | Whole | OneOf, name: str = "") -> Any:
    """A key: its default, what it accepts, and its name where the attribute's differs."""
    return dataclasses.field(default=default, metadata={"kind": kind, "name": name})


@dataclass(frozen=True, slots=True)
class Database:
    """`path` is None unless it is SQLite."""

    url: str = _key("", TEXT)
    path: Path | None = _key(None, TEXT)  # noqa: RUF009 - dataclasses.field
    timeout_s: float = _key(10.0, DURATION, "timeout")
    pool: int = _key(5, Whole(1, 100))


@dataclass(frozen=True, slots=True)
class Redis:
    """`url` is None when CLOS runs its own server; `Settings.redis_url` answers for both."""

    url: str | None = _key(None, TEXT)

    @property
    def embedded(self) -> bool:
        return self.url is None


@dataclass(frozen=True, slots=True)
class Api:
    host: str = _key("127.0.0.1", TEXT)
    port: int = _key(8081, PORT)
    read_timeout_s: float = _key(30.0, DURATION, "read_timeout")
    write_timeout_s: float = _key(30.0, DURATION, "write_timeout")
    cors: tuple[str, ...] = _key((), TEXTS)
    public_url: str = _key("", TEXT)


@dataclass(frozen=True, slots=True)
class WebSocket:
    host: str = _key("127.0.0.1", TEXT)
    port: int = _key(8082, PORT)
    max_clients: int = _key(1000, Whole(1, 20_000))
    public_url: str = _key("", TEXT)


@dataclass(frozen=True, slots=True)
class Workers:
    processes: int = _key(1, Whole(1, 64))
    threads: int = _key(8, Whole(1, 256))


@dataclass(frozen=True, slots=True)
class Security:
    """`rate_limit` and `login_rate_limit` are requests per minute and principal; 0 is none."""

    access_ttl_s: float = _key(900.0, DURATION, "jwt.access_ttl")
    refresh_ttl_s: float = _key(7 * 86400.0, DURATION, "jwt.refresh_ttl")
    rate_limit: int = _key(60_000, Whole(0, 10_000_000), "rate_limit.requests_per_minute")
    login_rate_limit: int = _key(10, Whole(0, 10_000), "rate_limit.logins_per_minute")
    tls_cert: str | None = _key(None, TEXT, "tls.cert")
    tls_key: str | None = _key(None, TEXT, "tls.key")
    audit_log: bool = _key(True, SWITCH)


@dataclass(frozen=True, slots=True)
class Performance:
    cache: bool = _key(True, SWITCH)
    max_concurrent_operations: int = _key(10, Whole(1, 256))
    max_parallel_steps: int = _key(8, Whole(1, 256))


@dataclass(frozen=True, slots=True)
class Monitoring:
    state_interval_s: float = _key(5.0, DURATION, "intervals.state")
    health_interval_s: float = _key(5.0, DURATION, "intervals.health")
    metrics_interval_s: float = _key(10.0, DURATION, "intervals.metrics")
    events_retention_s: float = _key(30 * 86400.0, DURATION, "retention.events")
    operations_retention_s: float = _key(30 * 86400.0, DURATION, "retention.operations")
    metrics_retention_s: float = _key(30 * 86400.0, DURATION, "retention.metrics")


@dataclass(frozen=True, slots=True)
class Conflicts:
    """What is done about port conflicts; a group's and a request's own policy come before it.

    `dependents`: whether a moved service's running dependents are restarted, or only reported (`drift`).
    """

    auto_resolve: bool = _key(False, SWITCH)
    max_risk: str = _key("low", OneOf(("low", "medium", "high")))
    on_start: str = _key("fail", OneOf(("fail", "migrate", "ask")))
    dependents: str = _key("restart", OneOf(("restart", "report")))
    ask_timeout_s: float = _key(900.0, DURATION, "ask_timeout")
    on_timeout: str = _key("fail", OneOf(("fail", "migrate")))


CAUSES = ("person", "engine", "host", "crash")
RECONCILE_MODES = ("off", "report", "repair")


@dataclass(frozen=True, slots=True)
class Reconcile:
    """What is done about a service that is wanted and does not run, by what took it down; a group's own policy comes
    before it. After so many deaths in a row a service is given up until somebody starts it."""

    person: str = _key("report", OneOf(RECONCILE_MODES))
    engine: str = _key("repair", OneOf(RECONCILE_MODES))
    host: str = _key("repair", OneOf(RECONCILE_MODES))
    crash: str = _key("repair", OneOf(RECONCILE_MODES))
    crash_loop_limit: int = _key(10, Whole(1, 1000))


@dataclass(frozen=True, slots=True)
class Docker:
    host: str = _key("unix:///var/run/docker.sock", TEXT)
    timeout_s: float = _key(15.0, DURATION, "timeout")
    network_name: str = _key("clos-network", TEXT)
    compose_version: str = _key("3.8", TEXT)
    templates_dir: str = _key("templates", TEXT)
    compose_files_dir: str = _key("compose", TEXT)


@dataclass(frozen=True, slots=True)
class Dashboard:
    enabled: bool = _key(True, SWITCH)
    host: str = _key("localhost", TEXT)
    port: int = _key(3500, PORT)


@dataclass(frozen=True, slots=True)
class Logging:
    level: str = _key("info", OneOf(("debug", "info", "warn", "warning", "error")))
    format: str = _key("text", OneOf(("text", "json")))
    file: str | None = _key(None, TEXT)


class PortRange(NamedTuple):
    """Both ends belong to it."""

    project: str
    start: int
    end: int


class ServiceGroup(NamedTuple):
    """A group as v1's file names it."""

    name: str
    dependencies: tuple[str, ...] = ()
    start_order: int = 0
    compose_file: str | None = None


DEFAULT_PORT_RANGES = (
    PortRange("core", 5000, 5999),
    PortRange("candlefish-frontend", 3000, 3099),
    PortRange("security-dashboard", 3100, 3199),
    PortRange("pkb", 3200, 3299),
    PortRange("apis", 4000, 4999),
    PortRange("monitoring", 8000, 8099),
    PortRange("development", 9000, 9999),
)


def ranges_v1_lacks(given: Sequence[PortRange]) -> list[PortRange]:
    """v2's own ranges where v1's file leaves room for them: new groups take theirs from `development`."""
    return [
        wanted
        for wanted in DEFAULT_PORT_RANGES[-2:]
        if all(r.project != wanted.project and (r.start > wanted.end or r.end < wanted.start) for r in given)
    ]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that CLOS is told. `warnings` names what was read over, `config_file` what was read."""

    home: Path
    instance_id: str = ""
    environment: str = "dev"
    database: Database = Database()
    redis: Redis = Redis()
    api: Api = Api()
    websocket: WebSocket = WebSocket()
    workers: Workers = Workers()
    security: Security = Security()
    performance: Performance = Performance()
    monitoring: Monitoring = Monitoring()
    conflicts: Conflicts = Conflicts()
    reconcile: Reconcile = Reconcile()
    docker: Docker = Docker()
    dashboard: Dashboard = Dashboard()
    logging: Logging = Logging()
    port_ranges: tuple[PortRange, ...] = DEFAULT_PORT_RANGES
    service_groups: tuple[ServiceGroup, ...] = ()
    config_file: Path | None = None
    warnings: tuple[str, ...] = ()
    version: str = VERSION

    def redis_url(self) -> str:
        """The server to speak to. It may hold a password: it belongs in no log and no argument list.

        Raises:
            SettingsError: the embedded server was never started on this home.
        """
        if self.redis.url is not None:
            return self.redis.url
        file = self.home / "redis" / "url"
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as missing:
            raise SettingsError([f"{file}: the embedded Redis is not set up; `clos up` starts it"]) from missing

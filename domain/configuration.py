"""What CLOS can be told, section by section, with its defaults: values only. `settings.py` fills them in.

Each attribute stands for one key of `config.yaml`. Durations are in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from domain.configuration_keys import DURATION, PORT, SWITCH, TEXT, TEXTS, OneOf, Whole, key
from domain.security_configuration import Security

VERSION = "2.0.0"


class SettingsError(Exception):
    """The configuration is wrong; `problems` names every mistake, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Database:
    """`path` is None unless it is SQLite."""

    url: str = key("", TEXT)
    path: Path | None = key(None, TEXT)  # noqa: RUF009 - dataclasses.field
    timeout_s: float = key(10.0, DURATION, "timeout")
    pool: int = key(5, Whole(1, 100))


@dataclass(frozen=True, slots=True)
class Redis:
    """`url` is None when CLOS runs its own server; `Settings.redis_url` answers for both."""

    url: str | None = key(None, TEXT)

    @property
    def embedded(self) -> bool:
        return self.url is None


@dataclass(frozen=True, slots=True)
class Api:
    host: str = key("127.0.0.1", TEXT)
    port: int = key(8081, PORT)
    read_timeout_s: float = key(30.0, DURATION, "read_timeout")
    write_timeout_s: float = key(30.0, DURATION, "write_timeout")
    cors: tuple[str, ...] = key((), TEXTS)
    public_url: str = key("", TEXT)


@dataclass(frozen=True, slots=True)
class WebSocket:
    host: str = key("127.0.0.1", TEXT)
    port: int = key(8082, PORT)
    max_clients: int = key(1000, Whole(1, 20_000))
    public_url: str = key("", TEXT)


@dataclass(frozen=True, slots=True)
class Workers:
    processes: int = key(1, Whole(1, 64))
    threads: int = key(8, Whole(1, 256))


@dataclass(frozen=True, slots=True)
class Performance:
    cache: bool = key(True, SWITCH)
    # None: as many as the workers that run have threads for.
    max_concurrent_operations: int | None = key(None, Whole(1, 256))
    max_parallel_steps: int = key(8, Whole(1, 256))


@dataclass(frozen=True, slots=True)
class Monitoring:
    state_interval_s: float = key(5.0, DURATION, "intervals.state")
    health_interval_s: float = key(5.0, DURATION, "intervals.health")
    metrics_interval_s: float = key(10.0, DURATION, "intervals.metrics")
    events_retention_s: float = key(30 * 86400.0, DURATION, "retention.events")
    operations_retention_s: float = key(30 * 86400.0, DURATION, "retention.operations")
    metrics_retention_s: float = key(30 * 86400.0, DURATION, "retention.metrics")


@dataclass(frozen=True, slots=True)
class Conflicts:
    """What is done about port conflicts; a group's and a request's own policy come before it.

    `dependents`: whether a moved service's running dependents are restarted, or only reported (`drift`).
    """

    auto_resolve: bool = key(False, SWITCH)
    max_risk: str = key("low", OneOf(("low", "medium", "high")))
    on_start: str = key("fail", OneOf(("fail", "migrate", "ask")))
    dependents: str = key("restart", OneOf(("restart", "report")))
    ask_timeout_s: float = key(900.0, DURATION, "ask_timeout")
    on_timeout: str = key("fail", OneOf(("fail", "migrate")))


CAUSES = ("person", "engine", "host", "crash")
RECONCILE_MODES = ("off", "report", "repair")


@dataclass(frozen=True, slots=True)
class Reconcile:
    """What is done about a service that is wanted and does not run, by what took it down; a group's own policy comes
    before it. After so many deaths in a row a service is given up until somebody starts it."""

    person: str = key("report", OneOf(RECONCILE_MODES))
    engine: str = key("repair", OneOf(RECONCILE_MODES))
    host: str = key("repair", OneOf(RECONCILE_MODES))
    crash: str = key("repair", OneOf(RECONCILE_MODES))
    crash_loop_limit: int = key(10, Whole(1, 1000))


@dataclass(frozen=True, slots=True)
class Docker:
    host: str = key("unix:///var/run/docker.sock", TEXT)
    timeout_s: float = key(15.0, DURATION, "timeout")
    # None: the newest that both the engine and CLOS know (`domain/engine_api.py`).
    api_version: str | None = key(None, TEXT)
    network_name: str = key("clos-network", TEXT)
    compose_version: str = key("3.8", TEXT)
    templates_dir: str = key("templates", TEXT)
    compose_files_dir: str = key("compose", TEXT)


@dataclass(frozen=True, slots=True)
class Dashboard:
    enabled: bool = key(True, SWITCH)
    host: str = key("localhost", TEXT)
    port: int = key(3500, PORT)


@dataclass(frozen=True, slots=True)
class Logging:
    level: str = key("info", OneOf(("debug", "info", "warn", "warning", "error")))
    format: str = key("text", OneOf(("text", "json")))
    file: str | None = key(None, TEXT)


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
    security: Security = Security()  # noqa: RUF009 - frozen
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

    @property
    def operation_threads(self) -> int:
        """How many operations one worker process works on at once."""
        limit = self.performance.max_concurrent_operations
        return self.workers.threads if limit is None else min(self.workers.threads, limit)

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

"""What is wanted: groups and services as frozen values, and the hash that tells drift.

A `ServiceSpec` is complete: its ports carry leased host ports, its dependencies full service ids. What a
runtime needs to start it stands here and nowhere else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

# What a service may publish: each port is a claim and a lease, written in one transaction.
MOST_PORTS = 1000


class RuntimeKind(StrEnum):
    """What runs a service."""

    DOCKER = "docker"
    PROCESS = "process"
    EXTERNAL = "external"


class Condition(StrEnum):
    """What a dependent waits for."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class RestartPolicy(StrEnum):
    """When CLOS brings a service back that ended by itself."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class CheckType(StrEnum):
    """How a health check looks."""

    HTTP = "http"
    TCP = "tcp"
    EXEC = "exec"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True)
class PortRequest:
    """One port of a service. `host_port` is None until it is leased; `container_port` None means the same number."""

    name: str = ""
    host_ip: str = "127.0.0.1"
    host_port: int | None = None
    container_port: int | None = None
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Dependency:
    """`service` is the id of the service that is waited for. `restart`: whoever waits is restarted after that service
    was updated or restarted on request."""

    service: str
    condition: Condition = Condition.STARTED
    required: bool = True
    restart: bool = False


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How and how often to look. Times in seconds.

    `url` is absolute, or a path on the service's first host port; `port` a port's name; `test` an argument
    list (exec; Docker's own `CMD`/`CMD-SHELL` form is resolved before it gets here).
    """

    type: CheckType = CheckType.TCP
    url: str | None = None
    port: str | None = None
    test: tuple[str, ...] = ()
    interval_s: float = 30.0
    timeout_s: float = 10.0
    retries: int = 3
    start_period_s: float = 30.0
    expected_status: int = 200


_NOT_OF_THE_INSTANCE = (
    "depends_on", "health_check", "restart_policy", "stop_timeout_s", "references", "unresolved", "directory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service as it is wanted. Memory in MB, CPU in cores, times in seconds."""

    id: str
    name: str
    group: str
    runtime: RuntimeKind = RuntimeKind.DOCKER
    image: str | None = None
    # {"context": absolute path, "dockerfile": name, "args": {…}, "target": name}
    build: Mapping[str, Any] | None = None
    command: tuple[str, ...] = ()
    working_dir: str | None = None
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    network_mode: str = "bridge"
    dns_servers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    restart_policy: RestartPolicy = RestartPolicy.UNLESS_STOPPED
    restart_by: str = "clos"
    cpu_limit: float | None = None
    memory_limit: int | None = None
    stop_timeout_s: float = 30.0
    ports: tuple[PortRequest, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    health_check: HealthCheck | None = None
    network_name: str = ""
    # What only containers have, under Compose's names and in its normalised form (`domain/container.py`), and its
    # group's definitions of the networks and volumes that it names, with the ids of the services whose containers it
    # is attached to: {"networks": {…}, "volumes": {…}, "services": {name: id}}.
    container: Mapping[str, Any] = field(default_factory=dict)
    definitions: Mapping[str, Any] = field(default_factory=dict)
    # Its group's own folder, in which bind mounts are allowed (`domain/container_policy.py`).
    directory: str = ""
    # What its references need of a container: further groups' networks as (group, network_name), and hosts' names.
    joins: tuple[tuple[str, str], ...] = ()
    extra_hosts: tuple[str, ...] = ()
    # What its references mean (`domain/references.py`), by their texts, and why some mean nothing.
    references: Mapping[str, str] = field(default_factory=dict)
    unresolved: Mapping[str, str] = field(default_factory=dict)

    def hash(self) -> str:
        """SHA-256 over what an instance is made of.

        What does not change the instance (dependencies, health check, restart policy, stop timeout) is left
        out, so that changing it is no drift. References count by what they mean.
        """
        made_of = asdict(self)
        for name in _NOT_OF_THE_INSTANCE:
            del made_of[name]
        # Where there are none it is as if they were unknown: instances of earlier versions stay what is wanted.
        for name in ("joins", "extra_hosts", "container", "definitions"):
            if not made_of[name]:
                del made_of[name]
        canonical = json.dumps(made_of, sort_keys=True, separators=(",", ":"), default=dict)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def first_port(self) -> int | None:
        """The first port's host port: the one that `url` and a path-only health check mean."""
        return self.ports[0].host_port if self.ports else None


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A group as it is wanted, with the groups it depends on."""

    name: str
    project: str = "development"
    dependencies: tuple[str, ...] = ()
    start_order: int = 0
    network_name: str = ""

"""A service's specification as the container that the engine makes of it. Pure: nothing is asked or changed."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain import reachability
from domain.errors import StartFailed
from domain.specs import CheckType, HealthCheck, ServiceSpec

_NOT_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_NOT_IMAGE = re.compile(r"[^a-z0-9]+")
_MAX_SLUG = 100


def slug(text: str) -> str:
    """`text` as part of an engine's name. Two texts never share a slug: a changed one carries its hash."""
    kept = _NOT_NAME.sub("-", text).strip("-._")[:_MAX_SLUG]
    if kept == text and text:
        return kept
    return f"{kept}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}".lstrip("-")


@dataclass(frozen=True, slots=True)
class Marks:
    """The labels and names that tell what is ours from what is foreign."""

    instance_id: str
    prefix: str = "clos"

    def label(self, what: str) -> str:
        """The full name of one of our labels."""
        return f"{self.prefix}.{what}"

    def ours(self, labels: Mapping[str, str] | None) -> bool:
        """Whether these labels are of this installation."""
        return (labels or {}).get(self.label("instance")) == self.instance_id

    def hash_of(self, labels: Mapping[str, str] | None) -> str | None:
        """The hash of the spec that a container of these labels was made from."""
        return (labels or {}).get(self.label("spec_hash"))

    def filters(self, **also: str) -> dict[str, list[str]]:
        """The engine's filter for what is ours, and has these labels too."""
        wanted = {"instance": self.instance_id} | also
        return {"label": [f"{self.label(name)}={value}" for name, value in wanted.items()]}

    def container_name(self, service_id: str) -> str:
        """The name of a service's container, distinct between installations on one engine."""
        return f"{self.prefix}-{slug(self.instance_id[:8])}-{slug(service_id)}"

    def replacement_name(self, spec: ServiceSpec) -> str:
        """The name of a container until it has taken another one's place."""
        return f"{self.container_name(spec.id)}-{spec.hash()[:8]}"

    def of(self, spec: ServiceSpec, networks: Sequence[str]) -> dict[str, str]:
        """All labels of a service's container; ours win over the service's own."""
        return dict(spec.labels) | {
            self.label("instance"): self.instance_id,
            self.label("service"): spec.id,
            self.label("group"): spec.group,
            self.label("spec_hash"): spec.hash(),
            self.label("networks"): ",".join(networks),
        }


def image_of(spec: ServiceSpec) -> str:
    """The image that a container of this service is made from: its own, or the one that is built.

    Raises:
        StartFailed: there is neither.
    """
    if spec.build:
        names = [_NOT_IMAGE.sub("-", part.lower()).strip("-") or "x" for part in (spec.group, spec.name)]
        # By what it is built from alone: a service that only moves to another port is not built again.
        inputs = json.dumps(spec.build, sort_keys=True, default=dict).encode()
        return f"clos-{names[0]}-{names[1]}:{hashlib.sha256(inputs).hexdigest()[:12]}"
    if spec.image:
        return spec.image
    raise StartFailed(f"{spec.id} has no image", hint="give `image:` or `build:`")


def container_config(spec: ServiceSpec, marks: Marks, networks: Mapping[str, str]) -> dict[str, Any]:
    """The body of `POST /containers/create`. `networks` maps logical names to the engine's ids, first the group's."""
    config: dict[str, Any] = {
        "Image": image_of(spec),
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Labels": marks.of(spec, list(networks)),
        "ExposedPorts": {port: {} for port in _bindings(spec)},
        # The engine's own stop (its shutdown) grants what CLOS would grant.
        "StopTimeout": math.ceil(spec.stop_timeout_s),
        "Volumes": {volume: {} for volume in spec.volumes if ":" not in volume},
        "HostConfig": _host_config(spec, next(iter(networks.values()), None)),
    }
    if spec.command:
        config["Cmd"] = list(spec.command)
    if spec.user:
        config["User"] = spec.user
    if spec.working_dir:
        config["WorkingDir"] = spec.working_dir
    if spec.health_check and spec.health_check.type is CheckType.DOCKER and spec.health_check.test:
        config["Healthcheck"] = _health_check(spec.health_check)
    if networks:
        first = next(iter(networks.values()))
        config["NetworkingConfig"] = {"EndpointsConfig": {first: {"Aliases": aliases(spec)}}}
    return config


def aliases(spec: ServiceSpec) -> list[str]:
    """The names under which the others in its network find it; the last one is no other group's either."""
    return [*sorted({spec.name, slug(spec.name)}), reachability.alias(spec.name, spec.group)]


def _host_config(spec: ServiceSpec, network: str | None) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": network or spec.network_mode,
        "Binds": [volume for volume in spec.volumes if ":" in volume],
        # Policies of the engine bring all containers back at once, in no order (pitfalls 5.15).
        "RestartPolicy": {"Name": spec.restart_policy.value if spec.restart_by == "engine" else "no"},
    }
    if spec.network_mode == "bridge":
        host["PortBindings"] = _bindings(spec)
    if spec.dns_servers:
        host["Dns"] = list(spec.dns_servers)
    if spec.extra_hosts:
        host["ExtraHosts"] = list(spec.extra_hosts)
    if spec.cpu_limit:
        host["NanoCpus"] = int(spec.cpu_limit * 1_000_000_000)
    if spec.memory_limit:
        host["Memory"] = spec.memory_limit * 1024 * 1024
    return host


def _bindings(spec: ServiceSpec) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        inside = port.container_port or port.host_port
        if inside is None or port.host_port is None:
            raise StartFailed(f"{spec.id} has a port without a leased host port", hint="lease one first")
        bound = {"HostIp": port.host_ip or "127.0.0.1", "HostPort": str(port.host_port)}
        bindings.setdefault(f"{inside}/{port.protocol}", []).append(bound)
    return bindings


def _health_check(check: HealthCheck) -> dict[str, Any]:
    return {
        "Test": ["CMD", *check.test],
        "Interval": int(check.interval_s * 1e9),
        "Timeout": int(check.timeout_s * 1e9),
        "StartPeriod": int(check.start_period_s * 1e9),
        "Retries": check.retries,
    }

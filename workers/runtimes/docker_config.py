"""A service's specification as the container that the engine makes of it. Pure: nothing is asked or changed."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from domain.container import capability, file_variables
from domain.errors import StartFailed
from domain.shapes import as_whole, nanoseconds
from domain.specs import CheckType, HealthCheck, ServiceSpec
from workers.runtimes.docker_endpoints import Joined, attached_text, endpoint, links_of, mode, volumes_from
from workers.runtimes.docker_mounts import mounts_of
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_resources import resources_of

_NOT_IMAGE = re.compile(r"[^a-z0-9]+")
# In these its ports are published; elsewhere it has those of another, or none.
_PUBLISHING = ("bridge", "default")
_MODES = {"ipc": "IpcMode", "pid": "PidMode", "uts": "UTSMode"}
_OF_THE_CONTAINER = {
    "domainname": "Domainname", "hostname": "Hostname", "stdin_open": "OpenStdin", "stop_signal": "StopSignal",
    "tty": "Tty",
}  # fmt: skip
_OF_THE_HOST = {
    "annotations": "Annotations", "cgroup": "CgroupnsMode",
    "dns_opt": "DnsOptions", "dns_search": "DnsSearch", "group_add": "GroupAdd", "init": "Init",
    "isolation": "Isolation", "oom_score_adj": "OomScoreAdj", "privileged": "Privileged",
    "read_only": "ReadonlyRootfs", "runtime": "Runtime", "storage_opt": "StorageOpt", "sysctls": "Sysctls",
    "userns_mode": "UsernsMode",
}  # fmt: skip
_UNCONFINED = "systempaths=unconfined"
# What the engine grants by itself.
_ENGINES_STOP_S = 10.0


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


def container_config(
    spec: ServiceSpec,
    marks: Marks,
    networks: Mapping[str, Joined],
    attached: Mapping[str, str] | None = None,
    real: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The body of `POST /containers/create`.

    `networks` maps logical names to what is joined, the container's own first; `attached` are the ids of the containers
    of those services that it names, by their names; `real` are the host's paths without links.
    """
    first = next(iter(networks.values()), None)
    config: dict[str, Any] = {
        "Image": image_of(spec),
        "Env": _variables(spec),
        "Labels": marks.of(spec, list(networks))
        | ({marks.label("attached"): attached_text(attached)} if attached else {}),
        "ExposedPorts": {port: {} for port in (*_bindings(spec), *_exposed(spec))},
        "Volumes": {volume: {} for volume in spec.volumes if ":" not in volume},
        "HostConfig": _host_config(spec, first, attached or {}) | mounts_of(spec, real or {}),
        "AttachStdout": True,
        "AttachStderr": True,
    }
    config |= _process(spec)
    config |= {name: spec.container[key] for key, name in _OF_THE_CONTAINER.items() if spec.container.get(key)}
    if check := _health_check(spec):
        config["Healthcheck"] = check
    if first:
        config["NetworkingConfig"] = {
            "EndpointsConfig": {first.network_id: endpoint(spec, first, attached or {}, first=True)}
        }
    return config


def _variables(spec: ServiceSpec) -> list[str]:
    files = file_variables(spec.container)
    return [f"{name}={value}" for name, value in spec.environment.items() if name not in files]


def _process(spec: ServiceSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if spec.stop_timeout_s != _ENGINES_STOP_S:
        # The engine's own stop (its shutdown) grants what CLOS would grant.
        found["StopTimeout"] = math.ceil(spec.stop_timeout_s)
    if spec.container.get("entrypoint") is not None:  # an empty one takes the image's away
        found["Entrypoint"] = list(spec.container["entrypoint"])
    given = {"Cmd": list(spec.command), "User": spec.user, "WorkingDir": spec.working_dir}
    return found | {name: value for name, value in given.items() if value}


def _host_config(spec: ServiceSpec, first: Joined | None, attached: Mapping[str, str]) -> dict[str, Any]:
    given = spec.container
    host: dict[str, Any] = {
        "NetworkMode": first.network_id if first else _network_mode(spec, attached),
        # Policies of the engine bring all containers back at once, in no order (pitfalls 5.15).
        "RestartPolicy": {"Name": spec.restart_policy.value if spec.restart_by == "engine" else "no"},
    }
    if spec.network_mode in _PUBLISHING:
        host["PortBindings"] = _bindings(spec)
    if spec.dns_servers:
        host["Dns"] = list(spec.dns_servers)
    if hosts := [*(each.replace("=", ":", 1) for each in given.get("extra_hosts") or ()), *spec.extra_hosts]:
        host["ExtraHosts"] = hosts
    host |= {name: _plain(given[key]) for key, name in _OF_THE_HOST.items() if given.get(key) not in (None, "", [], {})}
    host |= {name: mode(given[key], attached) for key, name in _MODES.items() if given.get(key)}
    return host | resources_of(spec) | _further(spec, attached)


def _further(spec: ServiceSpec, attached: Mapping[str, str]) -> dict[str, Any]:
    given = spec.container
    found: dict[str, Any] = {}
    for key, name in (("cap_add", "CapAdd"), ("cap_drop", "CapDrop")):
        if given.get(key):
            found[name] = [capability(each) for each in given[key]]
    if log := given.get("logging"):
        found["LogConfig"] = {"Type": log.get("driver") or "", "Config": _plain(log.get("options") or {})}
    if given.get("shm_size"):
        found["ShmSize"] = as_whole(given["shm_size"])
    if options := given.get("security_opt"):
        found["SecurityOpt"] = [option for option in options if option != _UNCONFINED]
        if _UNCONFINED in options:
            found |= {"MaskedPaths": [], "ReadonlyPaths": []}
    if given.get("volumes_from"):
        found["VolumesFrom"] = volumes_from(given["volumes_from"], attached)
    if given.get("links"):
        found["Links"] = links_of(spec, attached)
    return found


def _plain(value: Any) -> Any:
    """The engine's mappings have texts as values; numbers of a definition are written as such."""
    if isinstance(value, Mapping):
        return {name: each if isinstance(each, str) else str(each) for name, each in value.items()}
    return [str(each) for each in value] if isinstance(value, list) else value


def _network_mode(spec: ServiceSpec, attached: Mapping[str, str]) -> str:
    return "bridge" if spec.network_mode == "default" else mode(spec.network_mode, attached)


def _exposed(spec: ServiceSpec) -> list[str]:
    return [text if "/" in (text := str(each)) else f"{text}/tcp" for each in spec.container.get("expose") or ()]


def _bindings(spec: ServiceSpec) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        inside = port.container_port or port.host_port
        if inside is None or port.host_port is None:
            raise StartFailed(f"{spec.id} has a port without a leased host port", hint="lease one first")
        bound = {"HostIp": port.host_ip or "127.0.0.1", "HostPort": str(port.host_port)}
        bindings.setdefault(f"{inside}/{port.protocol}", []).append(bound)
    return bindings


def _health_check(spec: ServiceSpec) -> dict[str, Any]:
    if given := spec.container.get("healthcheck"):
        return _engines_own(given)
    check = spec.health_check
    if check and check.type is CheckType.DOCKER and check.test:
        return _clos_own(check)
    return {}


def _engines_own(given: Mapping[str, Any]) -> dict[str, Any]:
    """Compose's `healthcheck`, verbatim; what is not said is the image's."""
    if given.get("disable"):
        return {"Test": ["NONE"]}
    named = {
        "interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod", "start_interval": "StartInterval",
    }  # fmt: skip
    found: dict[str, Any] = {name: nanoseconds(given[key]) for key, name in named.items() if given.get(key)}
    if given.get("test"):
        found["Test"] = list(given["test"])
    if given.get("retries"):
        found["Retries"] = as_whole(given["retries"])
    return found


def _clos_own(check: HealthCheck) -> dict[str, Any]:
    return {
        "Test": ["CMD", *check.test],
        "Interval": int(check.interval_s * 1e9),
        "Timeout": int(check.timeout_s * 1e9),
        "StartPeriod": int(check.start_period_s * 1e9),
        "Retries": check.retries,
    }

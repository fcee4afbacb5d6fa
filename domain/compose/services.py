"""One service of a normalised Compose project as a service of CLOS.

Every key is carried out, or named among the problems with the reason; what CLOS does in another way than Compose is
named among the warnings. Nothing is dropped in silence.
"""

from collections.abc import Mapping
from typing import Any

from domain import container
from domain.compose import builds, checks, extension, mounts, numbers
from domain.compose.mounts import Files
from domain.compose.ports import Ports
from domain.compose.problems import Problem
from domain.container_shapes import KEYS, REFUSED

_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}
# Read below, or gone into others by the time Compose has normalised a project.
_READ = {
    "build", "command", "configs", "container_name", "cpus", "depends_on", "deploy", "dns", "entrypoint", "env_file",
    "environment", "healthcheck", "image", "label_file", "labels", "mem_limit", "network_mode", "networks", "ports",
    "profiles", "restart", "scale", "secrets", "stop_grace_period", "user", "volumes", "working_dir", "extends",
}  # fmt: skip
_ONLY_FOR_COMPOSE = {
    "attach": "is about what `up` shows in a terminal",
    "develop": "is what `watch` does: CLOS watches no files",
}
# What a process of the host has; the rest makes sense for a container alone.
_OF_A_PROCESS = {
    "command", "depends_on", "env_file", "environment", "healthcheck", "image", "label_file", "labels", "networks",
    "ports", "profiles", "restart", "scale", "stop_grace_period", "user", "working_dir", "extends",
}  # fmt: skip
_FEWEST_CPUS, _MOST_CPUS = 0.01, 1024
_SMALLEST_MB = 6


class ServiceReader:
    """Reads one service. `body` is what `POST /services` takes, `problems` and `warnings` what there is to say."""

    def __init__(self, name: str, service: Mapping[str, Any], model: Mapping[str, Any], values: Mapping[str, str]):
        self.name = name
        self._service = {key: value for key, value in service.items() if value is not None}
        self._model = model
        self._own = extension.well_formed(service)
        self._path = f"services.{name}"
        self.problems: list[Problem] = extension.problems(service.get("x-clos"), f"{self._path}.x-clos")
        self.warnings: list[str] = []
        self._files = Files(model, values, name, self._service.get("environment") or {})
        self.runtime = str(self._own.get("runtime") or "docker")
        self.body: dict[str, Any] = {"name": name, "runtime": self.runtime}
        self._container: dict[str, Any] = {}
        self._read()

    def _refuse(self, key: str, reason: str) -> None:
        self.problems.append(Problem(f"{self._path}.{key}", reason))

    def _read(self) -> None:
        self._refuse_what_is_not_done()
        self._common()
        if self.runtime == "docker":
            self._of_a_container()
        self._deployment()
        if self._container:
            self.body["container"] = self._container
            self._refuse_what_no_container_takes()
        self.problems += self._files.problems
        if self._files.secrets:
            self.body["secrets"] = dict(self._files.secrets)
        self._extend()

    def _refuse_what_no_container_takes(self) -> None:
        told = {each.path for each in self.problems}
        for each in container.check(self._container):
            path = f"{self._path}.{each.path.removeprefix('container.')}"
            if path not in told:
                self.problems.append(Problem(path, each.text))

    def _refuse_what_is_not_done(self) -> None:
        for key in self._service:
            if key.startswith("x-"):
                continue
            if key in _ONLY_FOR_COMPOSE:
                self.warnings.append(f"{self._path}.{key}: {_ONLY_FOR_COMPOSE[key]}")
            elif self.runtime != "docker" and key not in _OF_A_PROCESS and key not in ("deploy", "entrypoint"):
                self._refuse(key, f"only a container has it, and this is a {self.runtime}")
            elif key not in _READ and key not in KEYS:
                self._refuse(key, REFUSED.get(key, "CLOS does not carry it out"))

    def _common(self) -> None:
        service, body = self._service, self.body
        if self.runtime == "docker" and service.get("image"):
            body["image"] = service["image"]
        if service.get("command") is not None:
            body["command"] = [str(word) for word in service["command"]]
            if not body["command"]:
                self._refuse("command", "an empty one takes the image's own away, which CLOS cannot say")
        for key in ("user", "working_dir"):
            if service.get(key):
                body[key] = str(service[key])
        self._environment()
        body["labels"] = {str(key): str(value) for key, value in (service.get("labels") or {}).items()}
        found = Ports(self.name, service.get("ports") or [])
        body["ports"] = found.found
        self.warnings += found.warnings
        self.problems += found.problems
        body["depends_on"] = [self._dependency(name, each) for name, each in (service.get("depends_on") or {}).items()]
        self._restart()
        self._stop_and_health()

    def _environment(self) -> None:
        given = self._service.get("environment") or {}
        self.body["environment"] = {key: str(value) for key, value in given.items() if value is not None}
        if unset := sorted(key for key, value in given.items() if value is None):
            self.warnings.append(f"{self._path}.environment: {', '.join(unset)} have no value here and are left out")

    def _dependency(self, name: str, each: Mapping[str, Any]) -> dict[str, Any]:
        condition = _CONDITIONS.get(str(each.get("condition")), "started")
        found = {"service": name, "condition": condition, "required": each.get("required", True) is not False}
        return found | ({"restart": True} if each.get("restart") else {})

    def _restart(self) -> None:
        found, problems, (key, times) = checks.restart(self._service, self._path)
        self.body["restart_policy"] = found
        self.problems += problems
        if self._service.get("restart") and key != "restart":
            self.warnings.append(f"{self._path}.restart: {key} says otherwise, and counts, as with Compose")
        if times:
            self.warnings.append(f"{self._path}.{key}: CLOS gives up by its own crash-loop limit, not after {times}")

    def _stop_and_health(self) -> None:
        grace, check = self._service.get("stop_grace_period"), self._service.get("healthcheck") or {}
        self.body["stop_timeout"], problems = checks.stop_timeout(grace, self._path)
        self.problems += problems
        if check and self.runtime == "docker":
            self._container["healthcheck"] = {key: value for key, value in check.items() if value is not None}
        found, problems = checks.read(check, self.runtime, f"{self._path}.healthcheck")
        self.problems += problems
        if found is not None:
            self.body["health_check"] = found

    def _of_a_container(self) -> None:
        service, body = self._service, self.body
        self._container |= {key: service[key] for key in KEYS if key in service and key not in _READ}
        if service.get("entrypoint") is not None:
            self._container["entrypoint"] = [str(word) for word in service["entrypoint"]]
        if service.get("build"):
            body["build"], problems, warnings = builds.read(service["build"], f"{self._path}.build")
            self.problems += problems
            self.warnings += warnings
        short, long = mounts.volumes(service.get("volumes") or [])
        body["volumes"] = short
        if long:
            self._container["volumes"] = long
        for kind in ("secrets", "configs"):
            if service.get(kind):
                self._container[kind] = self._files.of(kind, service[kind])
        self._network()
        body["dns_servers"] = [str(each) for each in service.get("dns") or ()]
        self._cpus("cpus", service.get("cpus"))
        self._memory("mem_limit", service.get("mem_limit"))

    def _network(self) -> None:
        names = [str(self._service["container_name"])] if self._service.get("container_name") else []
        if names:
            self.warnings.append(
                f"{self._path}.container_name: CLOS names containers itself; {names[0]} stays an alias"
            )
        mode = str(self._service.get("network_mode") or "")
        if mode:
            # The engine's own bridge is called `default` here: `bridge` is the group's network.
            self.body["network_mode"] = "default" if mode == "bridge" else mode
            return
        self.body["networks"], options = mounts.networks(self._service, names)
        if options is not None:
            self._container["networks"] = options

    def _cpus(self, key: str, given: Any) -> None:
        if not given:
            return
        limit = float(given)
        if _FEWEST_CPUS <= limit <= _MOST_CPUS:
            self.body["cpu_limit"] = limit
        else:
            self._refuse(key, f"{given} is no number from {_FEWEST_CPUS} to {_MOST_CPUS}")

    def _memory(self, key: str, limit: Any) -> None:
        if not limit or (size := self._size(key, limit)) is None:
            return
        self._container.pop("mem_limit", None)
        if size % numbers.MB == 0 and size >= _SMALLEST_MB * numbers.MB:
            self.body["memory_limit"] = size // numbers.MB
        else:
            self.body.pop("memory_limit", None)
            self._container["mem_limit"] = str(size)

    def _size(self, key: str, given: Any) -> int | None:
        try:
            return numbers.size(given)
        except ValueError as wrong:
            self._refuse(key, str(wrong))
            return None

    def _deployment(self) -> None:
        deploy = self._service.get("deploy") or {}
        replicas = self._service.get("scale", deploy.get("replicas", 1))
        if replicas is not None and int(replicas) != 1:
            key = "scale" if "scale" in self._service else "deploy.replicas"
            self._refuse(key, f"{replicas} instances: a service of CLOS is one; define further services")
        if str(deploy.get("mode") or "replicated") != "replicated":
            self._refuse("deploy.mode", f"{deploy['mode']} is a swarm's")
        ignored = {"labels", "placement", "update_config", "rollback_config", "endpoint_mode"}
        if named := sorted(key for key in ignored & set(deploy) if deploy[key]):
            self.warnings.append(f"{self._path}.deploy: {', '.join(named)} mean something to a swarm only")
        self._resources(deploy.get("resources") or {})

    def _resources(self, resources: Mapping[str, Any]) -> None:
        limits, reserved = resources.get("limits") or {}, resources.get("reservations") or {}
        self._cpus("deploy.resources.limits.cpus", limits.get("cpus"))
        self._memory("deploy.resources.limits.memory", limits.get("memory"))
        if limits.get("pids"):
            self._container["pids_limit"] = int(limits["pids"])
        reservation = reserved.get("memory")
        if reservation and (size := self._size("deploy.resources.reservations.memory", reservation)) is not None:
            self._container["mem_reservation"] = str(size)
        if reserved.get("cpus"):
            self.warnings.append(f"{self._path}.deploy.resources.reservations.cpus: means something to a swarm only")
        if reserved.get("devices"):
            self._container["gpus"] = [*(self._container.get("gpus") or ()), *reserved["devices"]]
        if reserved.get("generic_resources"):
            self._refuse("deploy.resources.reservations.generic_resources", "they are a swarm's")

    def _extend(self) -> None:
        """What `x-clos` says comes last, in the place of what Compose's keys say."""
        for key in extension.SERVICE_FIELDS:
            if key in self._own:
                self.body[key] = self._own[key]
        for each in self._own.get("depends_on") or ():
            self.body["depends_on"].append({"service": each} if isinstance(each, str) else dict(each))
        secrets = self.body.get("secrets") or {}
        for key in self._own.get("secrets") or ():
            if (value := self.body["environment"].pop(key, None)) is not None:
                secrets[key] = value
            elif key not in secrets:
                secrets[key] = None
                self.warnings.append(f"{self._path}: the secret {key} has no value in the file; one it has is kept")
        if secrets:
            self.body["secrets"] = secrets

"""Docker's engine in memory: containers, networks and images, with faults on demand.

It says what engine 20.10 says (statuses and texts of pitfalls 5.4-5.6). `tests/integration/test_docker_engine.py`
asks the same of a real one.
"""

import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

IMAGE = "clos-test:latest"
NEVER = "0001-01-01T00:00:00Z"
POOLS = 30
_NO_POOL = "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
HANG_S = 30.0


class Refused(Exception):
    """The engine's answer is a status and its reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass
class Container:
    """One container; `log` holds (stream number, time and text)."""

    id: str
    name: str
    config: dict[str, Any]
    networks: list[str]
    state: dict[str, Any]
    created_at: float = field(default_factory=time.time)
    log: list[tuple[int, datetime, bytes]] = field(default_factory=list)
    health: str | None = None

    @property
    def runs(self) -> bool:
        return self.state["Status"] in ("running", "paused")

    @property
    def labels(self) -> dict[str, str]:
        return self.config.get("Labels") or {}

    def ports(self) -> list[dict[str, Any]]:
        bound = (self.config.get("HostConfig") or {}).get("PortBindings") or {}
        return [
            {
                "IP": each["HostIp"],
                "PrivatePort": int(inside.split("/")[0]),
                "PublicPort": int(each["HostPort"]),
                "Type": inside.split("/")[1],
            }
            for inside, bindings in bound.items()
            for each in bindings
        ]


@dataclass
class Rule:
    """What happens to the next requests that match, instead of or before the usual."""

    pattern: re.Pattern[str]
    act: Callable[[], None]
    times: int


class EngineState:
    """What the engine has and does; attributes are its state, and may be set."""

    def __init__(self) -> None:
        self.version = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        self.containers: dict[str, Container] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {IMAGE: {"Cmd": ["idle"]}}
        self.host_ports: set[tuple[int, str]] = set()
        self.programs: dict[str, tuple[int | None, bytes]] = {"true": (0, b"")}
        self.counters: dict[str, Any] = {}
        self.pull: list[dict[str, Any]] = [{"status": "Pull complete", "id": "0a1b"}]
        self.build: list[dict[str, Any]] = [{"stream": "Successfully built 0a1b\n"}]
        self.asked: list[str] = []
        # What `/events` says; None ends every stream, as an engine that goes does.
        self.events: list[dict[str, Any] | None] = []
        self.build_parameters: dict[str, str] = {}
        self.changed = threading.Condition()
        self.closed = threading.Event()
        self._execs: dict[str, tuple[int | None, bytes]] = {}
        self._rules: list[Rule] = []

    # What tests do to it.

    def before(self, pattern: str, act: Callable[[], None], times: int = 1) -> None:
        """Call `act` before the next `times` requests that match `METHOD /path`."""
        self._rules.append(Rule(re.compile(pattern), act, times))

    def refuse(self, pattern: str, status: int, message: str, times: int = 1) -> None:
        """Answer the next `times` matching requests with this."""

        def act() -> None:
            raise Refused(status, message)

        self.before(pattern, act, times)

    def cut(self, pattern: str, times: int = 1) -> None:
        """Break the connection at the next matching requests."""

        def act() -> None:
            raise Cut

        self.before(pattern, act, times)

    def hang(self, pattern: str = "", times: int = 1000) -> None:
        """Never answer matching requests."""

        def act() -> None:
            self.closed.wait(HANG_S)
            raise Cut

        self.before(pattern, act, times)

    def say(self, ref: str, text: bytes, stream: int = 1, at: datetime | None = None) -> None:
        """The container writes this to its stdout (1) or stderr (2)."""
        with self.changed:
            self.containers[ref].log.append((stream, at or datetime.now(UTC), text))
            self.changed.notify_all()

    def exit(self, ref: str, code: int, **state: Any) -> None:
        """The container's process ends."""
        with self.changed:
            self.containers[ref].state |= {
                "Status": "exited", "Pid": 0, "ExitCode": code, "FinishedAt": now()
            } | state  # fmt: skip
            self.changed.notify_all()

    def tell(self, action: str, ref: str, at: datetime, **attributes: str) -> None:
        """Send an event of a container."""
        event = {"Type": "container", "Action": action, "timeNano": int(at.timestamp() * 1e9),
                 "Actor": {"ID": ref, "Attributes": attributes}}  # fmt: skip
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def end_events(self) -> None:
        """End every stream of events."""
        with self.changed:
            self.events.append(None)
            self.changed.notify_all()

    def foreign(self, name: str, **config: Any) -> Container:
        """A container that somebody else made."""
        return self.add(name, {"Image": IMAGE, "Labels": {}} | config)

    # What the engine does.

    def act_on(self, request: str) -> None:
        self.asked.append(request)
        for rule in list(self._rules):
            if rule.times > 0 and rule.pattern.search(request):
                rule.times -= 1
                rule.act()
                return

    def add(self, name: str, config: dict[str, Any]) -> Container:
        networks = list(((config.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).keys())
        state = {"Status": "created", "Pid": 0, "ExitCode": 0, "StartedAt": NEVER, "FinishedAt": NEVER, "Error": ""}
        made = Container(uuid.uuid4().hex * 2, name, config, networks, state)
        self.containers[made.id] = made
        return made

    def find(self, ref: str) -> Container:
        for each in self.containers.values():
            if each.id.startswith(ref) or each.name == ref:
                return each
        raise Refused(404, f"No such container: {ref}")

    def create(self, name: str, config: dict[str, Any]) -> Container:
        if not re.fullmatch(r"[a-z0-9][a-z0-9./:_-]*", config["Image"]):
            raise Refused(400, "invalid reference format: repository name must be lowercase")
        if tagged(config["Image"]) not in self.images:
            raise Refused(404, f"No such image: {tagged(config['Image'])}")
        for each in self.containers.values():
            if each.name == name:
                raise Refused(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{each.id}". You have to'
                    " remove (or rename) that container to be able to reuse that name.",
                )
        return self.add(name, config)

    def start(self, container: Container) -> int:
        if container.runs:
            return 304
        try:
            for network in container.networks:
                if network not in self.networks:
                    raise Refused(404, f"network {network} not found")
            for port in container.ports():
                self._bind(container, port)
        except Refused as refusal:
            container.state |= {"Error": refusal.message, "ExitCode": 128}
            raise
        container.state |= {
            "Status": "running", "Pid": 4_000_000 + len(self.asked), "StartedAt": now(), "ExitCode": 0, "Error": "",
        }  # fmt: skip
        command = container.config.get("Cmd") or ["idle"]
        if command[0] == "exit":
            self.exit(container.id, int(command[1]))
        with self.changed:
            self.changed.notify_all()
        return 204

    def _bind(self, container: Container, port: dict[str, Any]) -> None:
        number, kind, ip = port["PublicPort"], port["Type"], port["IP"]
        failed = f"driver failed programming external connectivity on endpoint {container.name} (0a1b): "
        if (number, kind) in self.host_ports:
            raise Refused(
                500,
                failed + f"Error starting userland proxy: listen {kind}4 {ip}:{number}: bind: address already in use",
            )
        for other in self.containers.values():
            if other.runs and any((p["PublicPort"], p["Type"]) == (number, kind) for p in other.ports()):
                raise Refused(500, failed + f"Bind for {ip}:{number} failed: port is already allocated")

    def stop(self, container: Container) -> int:
        if not container.runs:
            return 304
        stubborn = (container.config.get("Cmd") or [""])[0] == "stubborn"
        self.exit(container.id, 137 if stubborn else 0)
        return 204

    def remove(self, container: Container) -> int:
        if container.runs:
            raise Refused(
                409,
                f"You cannot remove a running container {container.id}. Stop the container before attempting"
                " removal or force remove",
            )
        del self.containers[container.id]
        return 204

    def create_network(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted.get("CheckDuplicate") and any(n["Name"] == wanted["Name"] for n in self.networks.values()):
            raise Refused(409, f"network with name {wanted['Name']} already exists")
        if len(self.networks) >= POOLS:
            raise Refused(404, _NO_POOL)
        return self.add_network(wanted["Name"], wanted.get("Labels") or {})

    def add_network(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        made = {"Id": uuid.uuid4().hex * 2, "Name": name, "Labels": labels, "Created": now(), "Driver": "bridge"}
        self.networks[str(made["Id"])] = made
        return made

    def network(self, ref: str) -> dict[str, Any]:
        if ref not in self.networks:
            raise Refused(404, f"network {ref} not found")
        return self.networks[ref]

    def remove_network(self, ref: str) -> int:
        found = self.network(ref)
        if any(c.runs and ref in c.networks for c in self.containers.values()):
            raise Refused(403, f"error while removing network: network {found['Name']} id {ref} has active endpoints")
        del self.networks[ref]
        return 204

    def image(self, ref: str) -> dict[str, Any]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9./:_-]*", ref):
            raise Refused(400, "invalid reference format: repository name must be lowercase")
        if tagged(ref) not in self.images:
            raise Refused(404, f"No such image: {tagged(ref)}")
        return {"Id": "sha256:0a1b", "RepoTags": [tagged(ref)], "Config": self.images[tagged(ref)]}

    def new_exec(self, container: Container, argv: list[str]) -> str:
        if not container.runs:
            raise Refused(409, f"Container {container.id} is not running")
        made = uuid.uuid4().hex
        missing = f'OCI runtime exec failed: exec: "{argv[0]}": executable file not found in $PATH: unknown\r\n'
        self._execs[made] = self.programs.get(argv[0], (126, missing.encode()))
        return made

    def exec_result(self, ref: str) -> tuple[int | None, bytes]:
        return self._execs[ref]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def tagged(ref: str) -> str:
    return ref if ":" in ref.rsplit("/", 1)[-1] else f"{ref}:latest"


def frame(stream: int, data: bytes) -> bytes:
    """As the engine mixes stdout and stderr."""
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def summary_of(container: Container) -> dict[str, Any]:
    state = container.state
    text = {"created": "Created", "running": "Up Less than a second", "paused": "Up 1 second (Paused)"}.get(
        state["Status"], f"Exited ({state['ExitCode']}) Less than a second ago"
    )
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.config["Image"],
        "Command": " ".join(container.config.get("Cmd") or ["idle"]),
        "Created": int(container.created_at),
        "Ports": container.ports() if container.runs else [],
        "Labels": container.labels,
        "State": state["Status"],
        "Status": text + (f" ({container.health})" if container.health else ""),
    }


def inspection_of(container: Container) -> dict[str, Any]:
    health = {"Health": {"Status": container.health}} if container.health else {}
    return {
        "Id": container.id,
        "Name": f"/{container.name}",
        "State": container.state | health,
        "Config": container.config,
        "HostConfig": container.config.get("HostConfig") or {},
        "NetworkSettings": {"Networks": {ref: {"NetworkID": ref} for ref in container.networks}},
    }

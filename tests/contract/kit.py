"""The same services on every runtime, so that one suite can judge them all."""

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from domain.specs import PortRequest, RuntimeKind, ServiceSpec
from tests.images import client, docker_url, make_docker_runtime, remove_all, test_image
from tests.ports import free_run
from tests.waiting import wait_until
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.host_process import HostProcess
from workers.runtimes.in_memory import Behaviour, InMemory
from workers.runtimes.protocol import ExecResult, Runtime

OBEYS = "trap 'exit 7' TERM; echo ready; sleep 1000 & wait"
IGNORES = "trap '' TERM; echo ready; while :; do sleep 0.2; done"


def free_port() -> int:
    """A port outside the ephemeral range on which nothing is bound."""
    return free_run(1)[0]


class Kit:
    """A runtime of the test's own, and how to make its services behave."""

    def __init__(self) -> None:
        self.runtime: Runtime = self.another()

    def another(self) -> Runtime:
        """A runtime of another installation on the same machine."""
        raise NotImplementedError

    def twin(self) -> Runtime:
        """A second runtime of the same installation, as another worker process has one."""
        raise NotImplementedError

    def spec(self, script: str = OBEYS, name: str = "web", **changes: object) -> ServiceSpec:
        """A service that runs `script`."""
        spec = ServiceSpec(id=f"shop.{name}", name=name, group="shop", command=("sh", "-c", script))
        return self.fitted(replace(spec, **changes), script)  # type: ignore[arg-type]

    def fitted(self, spec: ServiceSpec, script: str) -> ServiceSpec:
        """The spec as this runtime needs it."""
        return spec

    def started(self, script: str = OBEYS, name: str = "web", **changes: object) -> ServiceSpec:
        """A service that runs and has said `ready`."""
        spec = self.spec(script, name, **changes)
        self.runtime.start(spec)
        self.says(spec, "ready")
        return spec

    def says(self, spec: ServiceSpec, text: str) -> None:
        """Wait until its log holds the line."""

        def said() -> bool:
            return text in [line.text for line in self.runtime.logs(spec.id, 100)]

        wait_until(said, what=f"{text!r} in the log of {spec.id}")

    def hold(self, port: int) -> None:
        """Nothing: the test holds a real port."""

    def close(self) -> None:
        """Take away all that was made."""


class MemoryKit(Kit):
    def another(self) -> Runtime:
        return InMemory()

    def fitted(self, spec: ServiceSpec, script: str) -> ServiceSpec:
        runtime = self.memory
        endings = {"exit 3": 3}
        executes = {"echo $COLOUR; exit 4": ExecResult(4, "blue\n")}
        runtime.behave(
            spec.id,
            Behaviour(
                ends_with=endings.get(script),
                stops_with=137 if script == IGNORES else 7,
                executes=next(iter(executes.values())),
            ),
        )
        return spec

    @property
    def memory(self) -> InMemory:
        assert isinstance(self.runtime, InMemory)
        return self.runtime

    def says(self, spec: ServiceSpec, text: str) -> None:
        self.memory.write(spec.id, text)

    def hold(self, port: int) -> None:
        self.memory.hold(port, {"kind": "process", "name": "test", "pid": os.getpid()})


class ProcessKit(Kit):
    def __init__(self) -> None:
        self._homes: list[Path] = []
        self._runtimes: list[HostProcess] = []
        super().__init__()

    def another(self) -> Runtime:
        self._homes.append(Path(tempfile.mkdtemp(prefix="clos-contract-")))
        self._runtimes.append(HostProcess(self._homes[-1], self._homes[-1].name, os.environ))
        return self._runtimes[-1]

    def twin(self) -> Runtime:
        return HostProcess(self._homes[0], self._homes[0].name, os.environ)

    def fitted(self, spec: ServiceSpec, script: str) -> ServiceSpec:
        return replace(spec, runtime=RuntimeKind.PROCESS)

    def close(self) -> None:
        for runtime in self._runtimes:
            for service_id in runtime.observe():
                runtime.stop(ServiceSpec(id=service_id, name="", group=""), 0.0)
        for home in self._homes:
            shutil.rmtree(home)


class DockerKit(Kit):
    def __init__(self) -> None:
        self._ids: list[str] = []
        self._image = test_image()
        super().__init__()

    def another(self) -> Runtime:
        runtime, instance_id = make_docker_runtime()
        self._ids.append(instance_id)
        return runtime

    def fitted(self, spec: ServiceSpec, script: str) -> ServiceSpec:
        ports = tuple(replace(port, container_port=80) for port in spec.ports)
        name = f"contract-{self._ids[0][:12]}"
        return replace(spec, image=self._image, ports=ports, network_name=name)

    def twin(self) -> Runtime:
        return DockerEngine(docker_url(), self._ids[0])

    def container_names(self) -> list[str]:
        """The names of all containers that were made."""
        with contextlib.closing(client()) as engine:
            found = engine.api.containers(all=True, filters={"label": f"clos.instance={self._ids[0]}"})
        return [each["Names"][0] for each in found]

    def close(self) -> None:
        for instance_id in self._ids:
            remove_all(instance_id)


KITS: dict[str, type[Kit]] = {"memory": MemoryKit, "process": ProcessKit, "docker": DockerKit}


def on_port(port: int) -> tuple[PortRequest, ...]:
    """One leased TCP port on loopback."""
    return (PortRequest(host_port=port),)

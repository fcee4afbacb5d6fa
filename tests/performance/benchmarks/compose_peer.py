"""The peers of a group start: the real Compose with the same services, and the engine's own API from eight threads."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.contract.kit import free_port
from tests.images import client, docker_url, test_image

_BINARY = Path(sys.executable).parent / "docker-compose"
_THREADS = 8


class Compose:
    """A project of the real Compose, in a folder of its own."""

    def __init__(self, folder: Path, services: dict[str, Any]) -> None:
        self._file = folder / "compose.json"
        self._file.write_text(json.dumps({"services": services}))
        self._project = f"clos-bench-{uuid.uuid4().hex[:8]}"

    def run(self, *words: str) -> float:
        """Run `docker-compose <words>`; the seconds that took."""
        argv = [str(_BINARY), "--progress", "quiet", "-p", self._project, "-f", str(self._file), *words]
        environment = {**os.environ, "DOCKER_HOST": docker_url()}
        began = time.monotonic()
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        took_s = time.monotonic() - began
        assert done.returncode == 0, done.stderr[-2000:]
        return took_s


@contextlib.contextmanager
def project(services: dict[str, Any]) -> Iterator[Compose]:
    """One, taken down afterwards with its containers and its network."""
    with tempfile.TemporaryDirectory(prefix="clos-bench-compose-") as folder:
        made = Compose(Path(folder), services)
        try:
            yield made
        finally:
            made.run("down", "-t", "1")


def plain_services(count: int) -> dict[str, Any]:
    """What the group of `ours` has, as Compose says it."""
    return {
        f"s{number}": {"image": test_image(), "command": ["serve", "80"], "ports": [f"127.0.0.1:{free_port()}:80"]}
        for number in range(count)
    }


def ours(count: int) -> list[dict[str, Any]]:
    """Services without dependencies that publish a port each and obey TERM."""
    return [
        {"name": f"s{number}", "runtime": "docker", "image": test_image(), "command": ["serve", "80"],
         "ports": [{"host_port": free_port(), "container_port": 80}], "stop_timeout": 2}
        for number in range(count)
    ]  # fmt: skip


TEST = ["/bin/true"]


def chained_services(count: int) -> dict[str, Any]:
    """A chain in which each waits until the one before is healthy, looked at every second."""
    check = {"test": ["CMD", *TEST], "interval": "1s", "timeout": "2s", "retries": 10}
    made: dict[str, Any] = {}
    for number in range(count):
        needs = {f"s{number - 1}": {"condition": "service_healthy"}} if number else {}
        made[f"s{number}"] = {"image": test_image(), "healthcheck": check, "depends_on": needs}
    return made


def our_chain(count: int) -> list[dict[str, Any]]:
    """The same chain: the engine's own health check in each."""
    check = {"type": "docker", "test": TEST, "interval": 1, "timeout": 2, "retries": 10, "start_period": 10}
    return [
        {"name": f"s{number}", "runtime": "docker", "image": test_image(), "health_check": check, "stop_timeout": 2,
         "depends_on": [{"service": f"s{number - 1}", "condition": "healthy"}] if number else []}
        for number in range(count)
    ]  # fmt: skip


def raw_start(count: int) -> float:
    """A network and `count` containers on it through the engine's API: the seconds until all run."""
    image, name = test_image(), f"clos-bench-raw-{uuid.uuid4().hex[:8]}"
    ports = [free_port() for _ in range(count)]
    with contextlib.closing(client()) as engine:

        def one(number: int) -> str:
            made = engine.api.create_container(
                image, ["serve", "80"], ports=[80], name=f"{name}-{number}", labels={"clos-bench": "1"},
                host_config=engine.api.create_host_config(
                    port_bindings={80: ("127.0.0.1", ports[number])}, network_mode=name),
            )["Id"]  # fmt: skip
            engine.api.start(made)
            return str(made)

        began = time.monotonic()
        network = engine.networks.create(name, labels={"clos-bench": "1"})
        with ThreadPoolExecutor(_THREADS) as pool:
            made = list(pool.map(one, range(count)))
            took_s = time.monotonic() - began
            list(pool.map(lambda each: engine.api.remove_container(each, force=True), made))
        network.remove()
    return took_s

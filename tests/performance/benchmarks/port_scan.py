"""A full look at the host's ports against `docker ps -a` and `ss -tulpn` in the same run.

100 containers, half of them stopped, and 300 listeners. Budget: 1.5 times the two commands, and less than 1 % of a core
at the scan's interval.
"""

import contextlib
import dataclasses
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bus.schedule import LISTENERS
from tests.images import client, docker_url, test_image
from tests.unit.worker_kit import Kit
from workers import port_scan
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.host_process import HostProcess

_LISTEN = """
import socket, sys
held = []
for _ in range(int(sys.argv[1])):
    each = socket.socket(); each.bind(("127.0.0.1", 0)); each.listen(); held.append(each)
print("ready", flush=True)
sys.stdin.read()
"""


def measure(containers: int = 100, listeners: int = 300, pairs: int = 9) -> dict[str, Any]:
    """Alternating, medians of `pairs`; the first look, which inspects what is stopped, on its own."""
    if shutil.which("ss") is None:
        return {"left_out": "no `ss` on this machine (iproute2)"}
    with tempfile.TemporaryDirectory(prefix="clos-bench-") as folder, contextlib.ExitStack() as stack:
        stack.enter_context(_containers(containers))
        stack.enter_context(_listeners(listeners))
        scan = stack.enter_context(_scanner(Path(folder)))
        _peer()  # warm the page cache for both
        first_s = _timed(scan)
        ours, peers, cpu = [], [], []
        for _ in range(pairs):
            began = time.process_time()
            ours.append(_timed(scan))
            cpu.append(time.process_time() - began)
            peers.append(_timed(_peer))
    return {
        "containers": containers,
        "listeners": listeners,
        "clos_s": round(statistics.median(ours), 4),
        "peer_s": round(statistics.median(peers), 4),
        "ratio": round(statistics.median(ours) / statistics.median(peers), 2),
        "first_look_s": round(first_s, 3),
        "cpu_percent_of_a_core": round(100 * statistics.median(cpu) / LISTENERS.interval_s, 3),
    }


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _peer() -> None:
    for argv in (["docker", "-H", docker_url(), "ps", "-a"], ["ss", "-tulpn"]):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _scanner(folder: Path) -> Iterator[Callable[[], object]]:
    """What the scheduled scan does, with the record on a disk."""
    kit = Kit(folder)
    engine = DockerEngine(docker_url(), uuid.uuid4().hex)
    processes = HostProcess(folder / "home", "bench", dict(os.environ))
    context = dataclasses.replace(kit.context, runtimes={"docker": engine, "process": processes})
    try:
        yield lambda: port_scan.scan(context)
    finally:
        engine.close()
        kit.close()


@contextlib.contextmanager
def _listeners(count: int, processes: int = 20) -> Iterator[None]:
    """Spread over some processes, as on a real host."""
    each = [count // processes + (n < count % processes) for n in range(processes)]
    made = [
        subprocess.Popen([sys.executable, "-c", _LISTEN, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in each
        if n
    ]
    try:
        for process in made:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        for process in made:
            process.communicate()


@contextlib.contextmanager
def _containers(count: int) -> Iterator[None]:
    """Half of them run, each publishes a port."""
    image, label = test_image(), f"clos-bench={uuid.uuid4().hex}"
    key, _, value = label.partition("=")
    engine = client()

    def make(number: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = engine.api.create_container(
            image, ["serve", "80"], ports=[80], labels={key: value},
            host_config=engine.api.create_host_config(port_bindings={80: ("127.0.0.1", port)}),
        )["Id"]  # fmt: skip
        if number % 2:
            engine.api.start(made)

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make, range(count)))
        yield
    finally:
        found = engine.api.containers(all=True, filters={"label": label})
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda each: engine.api.remove_container(each["Id"], force=True), found))
        engine.close()

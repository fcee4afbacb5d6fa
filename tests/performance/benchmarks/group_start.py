"""Groups of containers beside the real Compose and the engine's own API, in the same run and alternating.

Start of 10 and 30 without dependencies, nothing to do, stop, and a chain of ten that waits for health. Budgets: start
1.1 × raw and 0.7 × Compose, nothing to do 3 × `up -d` again, stop 1.0 × `down -t 1`, chain 0.25 × `up -d --wait`.
"""

import time
from collections import defaultdict
from statistics import median
from typing import Any

from tests.performance.benchmarks import compose_peer
from tests.performance.benchmarks.installation import Installation, installation


def measure(services: int = 10, pairs: int = 5) -> dict[str, Any]:
    """Medians of `pairs`: each start makes containers and network, each stop leaves the containers."""
    took: dict[str, list[float]] = defaultdict(list)
    body = {"name": "bench", "services": compose_peer.ours(services)}
    with installation() as clos:
        clos.up()
        with compose_peer.project(compose_peer.plain_services(services)) as compose:
            define(clos, body)
            for _ in range(pairs):
                took["start"].append(operation(clos, "start"))
                took["nothing"].append(operation(clos, "start"))
                took["stop"].append(operation(clos, "stop"))
                forget(clos)
                define(clos, body)
                took["raw"].append(compose_peer.raw_start(services))
                took["up"].append(compose.run("up", "-d"))
                took["up_again"].append(compose.run("up", "-d"))
                took["down"].append(compose.run("down", "-t", "1"))
    found = {name: median(each) for name, each in took.items()}
    return {
        "services": services,
        "pairs": pairs,
        **{f"{name}_s": round(each, 3) for name, each in found.items()},
        "start_to_raw": _ratio(took, "start", "raw"),
        "start_to_compose": _ratio(took, "start", "up"),
        "nothing_to_compose": _ratio(took, "nothing", "up_again"),
        "stop_to_compose": _ratio(took, "stop", "down"),
    }


def measure_30() -> dict[str, Any]:
    """The same with thirty services."""
    return measure(30)


def measure_chain(services: int = 10, pairs: int = 5) -> dict[str, Any]:
    """A chain of health checks, each waiting for the one before."""
    took: dict[str, list[float]] = defaultdict(list)
    body = {"name": "bench", "services": compose_peer.our_chain(services)}
    with installation() as clos:
        clos.up()
        with compose_peer.project(compose_peer.chained_services(services)) as compose:
            define(clos, body)
            for _ in range(pairs):
                took["start"].append(operation(clos, "start"))
                operation(clos, "stop")
                forget(clos)
                define(clos, body)
                took["up"].append(compose.run("up", "-d", "--wait"))
                compose.run("down", "-t", "1")
    return {
        "services": services,
        "pairs": pairs,
        "start_s": round(median(took["start"]), 2),
        "up_s": round(median(took["up"]), 2),
        "start_to_compose": _ratio(took, "start", "up"),
    }


def _ratio(took: dict[str, list[float]], ours: str, peer: str) -> float:
    """The median of the pairs' ratios: what slows both of a pair down does not count."""
    return round(median(mine / theirs for mine, theirs in zip(took[ours], took[peer], strict=True)), 2)


def define(clos: Installation, body: dict[str, Any]) -> None:
    """Register the group."""
    answer = clos.call("POST", "/groups", json=body)
    assert answer.status_code == 201, answer.text


def operation(clos: Installation, verb: str) -> float:
    """From the request to the operation's end, in seconds."""
    began = time.monotonic()
    operation_id = clos.call("POST", f"/groups/bench/{verb}").json()["id"]
    ended = clos.call("GET", f"/operations/{operation_id}?wait=60").json()
    assert ended["status"] == "completed", ended["error"]
    return time.monotonic() - began


def forget(clos: Installation) -> None:
    """Take containers and network away, and the group."""
    removal = clos.call("DELETE", "/groups/bench?force=true").json()["id"]
    ended = clos.call("GET", f"/operations/{removal}?wait=60").json()
    assert ended["status"] == "completed", ended["error"]

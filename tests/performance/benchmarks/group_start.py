"""Ten containers without dependencies, CLOS against the raw Docker API in the same run. Budget: 1.1 times raw."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.images import client, test_image
from tests.integration.rig import free_port
from tests.performance.benchmarks.installation import Installation, installation


def measure(services: int = 10, pairs: int = 5) -> dict[str, Any]:
    """Alternating, medians of `pairs`; and the start of what runs already."""
    image = test_image()
    with installation() as clos:
        clos.up()
        body = {
            "name": "bench",
            "services": [
                {"name": f"s{number}", "runtime": "docker", "image": image, "command": ["serve", "80"],
                 "ports": [{"host_port": free_port(), "container_port": 80}], "stop_timeout": 2}
                for number in range(services)
            ],
        }  # fmt: skip
        assert clos.call("POST", "/groups", json=body).status_code == 201
        ours, raw, nothing = [], [], []
        for _ in range(pairs):
            ours.append(_operation(clos, "start"))
            nothing.append(_operation(clos, "start"))
            _operation(clos, "stop")
            _remove(clos, body)
            raw.append(_raw(image, services))
        return {
            "services": services,
            "clos_s": round(statistics.median(ours), 2),
            "raw_s": round(statistics.median(raw), 2),
            "ratio": round(statistics.median(ours) / statistics.median(raw), 2),
            "nothing_to_do_s": round(statistics.median(nothing), 3),
        }


def _operation(clos: Installation, verb: str) -> float:
    began = time.monotonic()
    operation_id = clos.call("POST", f"/groups/bench/{verb}").json()["id"]
    ended = clos.call("GET", f"/operations/{operation_id}?wait=60").json()
    assert ended["status"] == "completed", ended["error"]
    return time.monotonic() - began


def _remove(clos: Installation, body: dict[str, Any]) -> None:
    """Take containers and network away, and define the group anew, so that each start makes both."""
    removal = clos.call("DELETE", "/groups/bench?force=true").json()["id"]
    ended = clos.call("GET", f"/operations/{removal}?wait=60").json()
    assert ended["status"] == "completed", ended["error"]
    assert clos.call("POST", "/groups", json=body).status_code == 201


def _raw(image: str, count: int) -> float:
    engine = client()
    network = engine.networks.create("clos-bench-raw", labels={"clos-bench": "1"})

    def one(number: int) -> str:
        made = engine.api.create_container(
            image, ["serve", "80"], ports=[80], name=f"clos-bench-raw-{number}",
            host_config=engine.api.create_host_config(
                port_bindings={80: ("127.0.0.1", free_port())}, network_mode="clos-bench-raw"),
        )["Id"]  # fmt: skip
        engine.api.start(made)
        return str(made)

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(count)))
    took_s = time.monotonic() - began
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: engine.api.remove_container(each, force=True), made))
    network.remove()
    engine.close()
    return took_s

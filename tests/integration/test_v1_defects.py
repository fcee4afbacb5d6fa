"""The ten defects of v1 (`v1.md`), each by name: what v1 got wrong, done right, on real sockets and containers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_fixture import Api, running_api
from tests.integration.rig import free_port, web_service
from tests.waiting import wait_until

_SQUATTER = """
import signal, socket, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(("127.0.0.1", int(sys.argv[1])))
taken.listen()
print("held", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def clos() -> Iterator[Api]:
    """The whole of CLOS but its gateway; one for all ten."""
    with running_api(CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE="0") as api:
        api.rig.scheduler()
        api.rig.worker()
        yield api


@contextlib.contextmanager
def squatter(port: int, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of somebody else's that holds a port."""
    process = subprocess.Popen([sys.executable, "-c", _SQUATTER, str(port), *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(10)


def group(clos: Api, *services: dict[str, Any], **more: Any) -> str:
    name = f"d{uuid.uuid4().hex[:8]}"
    made = clos.post("/groups", {"name": name, "services": list(services), **more})
    assert made.status_code == 201, made.text
    return name


def ended(clos: Api, asked: Any) -> Any:
    assert asked.status_code == 202, asked.text
    return clos.get(f"/operations/{asked.json()['id']}?wait=60").json()


def service(clos: Api, service_id: str) -> Any:
    return clos.get(f"/services/{service_id}").json()


def conflict_on(clos: Api, port: int, kind: str | None = None) -> Any:
    """The open conflict of a port, after a fresh look."""
    assert ended(clos, clos.post("/conflicts/scan"))["status"] == "completed"
    found = [c for c in clos.get(f"/ports/{port}/conflicts").json()["items"] if kind in (None, c["kind"])]
    assert len(found) == 1, found
    return found[0]


def says(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return str(answer.read().decode())


def test_defect_1_a_service_is_really_moved_to_another_port(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    with squatter(port):
        asked = clos.post(f"/groups/{name}/start", {"on_conflict": "migrate"})
        operation = ended(clos, asked)
        moved = service(clos, f"{name}-api")

        assert operation["status"] == "completed", operation["error"]
        assert moved["port"] not in (port, None)
        assert says(moved["port"]) == "ok"
    assert ended(clos, clos.post(f"/groups/{name}/stop"))["status"] == "completed"


@pytest.mark.docker
def test_defect_2_stopping_what_conflicts_stops_the_container_and_not_only_a_row(clos: Api) -> None:
    from tests.images import client, test_image

    port = free_port()
    name = group(clos, web_service("api", port))
    with contextlib.closing(client()) as engine:
        theirs = engine.containers.run(
            test_image(), ["serve", "80"], detach=True, ports={"80/tcp": ("127.0.0.1", port)}
        )
        try:
            conflict = conflict_on(clos, port, "foreign_container")
            operation = ended(clos, clos.post(f"/conflicts/{conflict['id']}/resolve", {"strategy": "stop_container"}))

            assert operation["status"] == "completed", operation["error"]
            theirs.reload()
            assert theirs.status == "exited"
        finally:
            theirs.remove(force=True)
    assert ended(clos, clos.post(f"/groups/{name}/start"))["status"] == "completed"
    assert ended(clos, clos.post(f"/groups/{name}/stop"))["status"] == "completed"


def test_defect_3_a_duplicate_registration_is_recorded_and_reported(clos: Api) -> None:
    port = free_port()
    first, second = group(clos, web_service("api", port)), group(clos, web_service("api", port))
    conflict = conflict_on(clos, port, "duplicate_claim")

    assert sorted(conflict["claimants"]) == sorted([f"{first}-api", f"{second}-api"])
    assert service(clos, f"{second}-api")["port"] == port
    leases = [lease for lease in clos.get("/ports?state=leased").json()["leases"] if lease["port"] == port]
    assert [lease["service_id"] for lease in leases] == [f"{first}-api"]


def test_defect_4_several_holders_are_several_and_a_client_connection_is_none(clos: Api) -> None:
    fork = (
        "import os, signal, socket, sys\n"
        "s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()\n"
        "os.fork() and os.fork()\nos.write(1, b'held\\n')\nsignal.pause()\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", fork, str(port)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["held\n"] * 3
        verdict = ended(clos, clos.post(f"/ports/{port}/check"))["result"]
        (entry,) = [e for e in verdict["entries"] if (e["host_ip"], e["protocol"]) == ("127.0.0.1", "tcp")]
        assert (entry["verdict"], len({holder["pid"] for holder in entry["holders"]})) == ("held", 3)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            own = connection.getsockname()[1]
            verdict = ended(clos, clos.post(f"/ports/{own}/check"))["result"]
            assert {entry["verdict"] for entry in verdict["entries"] if entry["holders"]} == set()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def test_defect_5_udp_and_other_addresses_are_seen_and_a_running_service_is_no_conflict_of_its_own(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    assert ended(clos, clos.post(f"/groups/{name}/start"))["status"] == "completed"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as other:
        udp.bind(("127.0.0.1", port))
        other.bind(("127.0.0.2", port))
        other.listen()
        verdict = ended(clos, clos.post(f"/ports/{port}/check"))["result"]
        by_place = {(e["host_ip"], e["protocol"]): e for e in verdict["entries"]}

        assert by_place["127.0.0.1", "udp"]["verdict"] == "held"
        assert by_place["127.0.0.2", "tcp"]["holders"][0]["kind"] == "process"
        assert [h["service_id"] for h in by_place["127.0.0.1", "tcp"]["holders"]] == [f"{name}-api"]
        assert clos.get(f"/ports/{port}/conflicts").json()["items"] == [] or all(
            conflict["kind"] == "reserved" for conflict in clos.get(f"/ports/{port}/conflicts").json()["items"]
        )
    assert ended(clos, clos.post(f"/groups/{name}/stop"))["status"] == "completed"


def test_defect_6_a_start_with_an_unresolved_conflict_exits_with_3(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    environment = clos.rig.environment() | {"CLOS_API_PORT": str(clos.port), "CLOS_WS_PORT": str(clos.ws_port)}
    with squatter(port) as other:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cli", "--no-up", "start", name],
            env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert str(other.pid) in done.stderr


def test_defect_7_what_survives_term_is_killed_and_only_the_process_that_was_named(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    with squatter(port, "stubborn") as stubborn:
        conflict = conflict_on(clos, port, "foreign_process")
        wrong = clos.post(f"/conflicts/{conflict['id']}/resolve", {"strategy": "kill_process", "confirm": "no"})
        assert (wrong.status_code, stubborn.poll()) == (422, None)
        (option,) = [each for each in conflict["options"] if each["strategy"] == "kill_process"]
        asked = clos.post(
            f"/conflicts/{conflict['id']}/resolve", {"strategy": "kill_process", "confirm": option["confirm"]}
        )
        operation = ended(clos, asked)

        assert operation["status"] == "completed", operation["error"]
        assert stubborn.wait(10) == -signal.SIGKILL
    assert service(clos, f"{name}-api")["port"] == port


def test_defect_8_ports_come_from_the_groups_project_and_never_from_its_name(clos: Api) -> None:
    name = group(clos, {"name": "core-apis", "runtime": "process", "command": ["true"], "ports": [{}]}, project="pkb")
    first = service(clos, f"{name}-core-apis")["port"]
    assert 3200 <= first <= 3299
    leased = clos.post("/ports/allocate", {"project": "pkb"}).json()
    assert 3200 <= leased["port"] <= 3299
    assert leased["port"] != first


def test_defect_9_a_group_starts_after_the_groups_it_depends_on_and_when_they_are_healthy(clos: Api) -> None:
    lower = group(clos, web_service("store", free_port(), delay_s=0.4))
    upper = group(clos, web_service("web", free_port()), dependencies=[lower])
    began = time.monotonic()
    operation = ended(clos, clos.post(f"/groups/{upper}/start"))
    took_s = time.monotonic() - began

    assert operation["status"] == "completed", operation["error"]
    assert {service(clos, each)["health"]["status"] for each in (f"{lower}-store", f"{upper}-web")} == {"healthy"}
    assert took_s > 0.4
    for name in (upper, lower):
        assert ended(clos, clos.post(f"/groups/{name}/stop"))["status"] == "completed"


def test_defect_10_health_is_what_the_health_url_answers_and_not_an_open_port(clos: Api) -> None:
    port = free_port()
    check = {"type": "http", "url": "/", "expected_status": 204, "interval": 0.2, "retries": 1, "start_period": 2.0}
    name = group(clos, web_service("api", port, health_check=check))
    operation = ended(clos, clos.post(f"/groups/{name}/start"))

    assert (operation["status"], operation["error"]["code"]) == ("failed", "unhealthy")
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass  # the port accepts connections, which v1 would have called healthy
    wait_until(lambda: service(clos, f"{name}-api")["health"]["status"] == "unhealthy", 10)
    assert ended(clos, clos.post(f"/groups/{name}/stop"))["status"] == "completed"

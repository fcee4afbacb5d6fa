"""Updates of real containers and processes, seen from the port that they serve on."""

import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from models import registry
from tests.contract.kit import free_port
from tests.integration.rig import Rig, container_service, rig, web_service
from tests.waiting import wait_until

Make = Callable[..., dict[str, Any]]
MAKES = [
    pytest.param(web_service, id="process"),
    pytest.param(container_service, id="docker", marks=pytest.mark.docker),
]
CHECK = {"type": "http", "url": "/", "interval": 0.5, "timeout": 1.0, "retries": 2, "start_period": 1.0}
# Neither ever serves; both obey TERM.
DEAF = {
    "docker": {"command": ["idle"]},
    "process": {"command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]},
}


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        made.worker()
        yield made


def up(clos: Rig, make: Make, **more: Any) -> int:
    port = free_port()
    clos.add_group("shop", [make("web", port, health_check=CHECK, **more)])
    ended = clos.ended(clos.ask("start", "shop"))
    assert ended.status == "completed", ended.error
    return port


def change(clos: Rig, **fields: Any) -> None:
    with clos.record.write() as session:
        registry.change_service(session, registry.get(session, "shop-web"), fields)


def deaf(clos: Rig) -> None:
    change(clos, **DEAF[clos.service("shop-web").runtime])


class Requests:
    """Fifty a second against a port; those that failed, as from when to when they took."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self.failed: list[tuple[datetime, datetime]] = []
        self.made = 0
        self._over = threading.Event()

    def _one(self) -> None:
        began = datetime.now(UTC)
        try:
            with urllib.request.urlopen(self._url, timeout=1.0) as answer:
                answer.read()
        except OSError:
            self.failed.append((began, datetime.now(UTC)))
        self.made += 1

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            self._one()
            due = max(due + 0.02, time.monotonic() - 0.02)
            self._over.wait(max(0.0, due - time.monotonic()))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._loop)
        thread.start()
        try:
            yield
            wanted = self.made + 10
            wait_until(lambda: self.made >= wanted, 20)
        finally:
            self._over.set()
            thread.join(10)


def window(told: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(told["unavailable_from"]), datetime.fromisoformat(told["unavailable_until"])


def assert_failed_only_within(requests: Requests, told: dict[str, Any]) -> None:
    began, ended = window(told)
    assert requests.failed, "a single instance cannot be exchanged without a gap"
    assert [each for each in requests.failed if each[1] < began or each[0] > ended] == []
    assert told["unavailable_s"] == pytest.approx((ended - began).total_seconds(), abs=0.01)


@pytest.mark.parametrize("make", MAKES)
def test_an_update_that_never_gets_healthy_ends_with_the_old_one_serving(clos: Rig, make: Make) -> None:
    port = up(clos, make)
    before = clos.service("shop-web")
    deaf(clos)
    requests = Requests(port)

    with requests.going_on():
        ended = clos.ended(clos.ask("update", "shop"), 60)

    assert ended.status == "failed"
    told = ended.result["services"][0]
    assert told["runs"] == "old"
    assert_failed_only_within(requests, told)
    after = clos.service("shop-web")
    assert (after.status, after.health_status, after.observed_hash) == ("running", "healthy", before.observed_hash)
    assert after.container_id == before.container_id


@pytest.mark.parametrize("make", MAKES)
def test_an_update_exchanges_the_instance_and_states_its_gap(clos: Rig, make: Make) -> None:
    port = up(clos, make)
    before = clos.service("shop-web")
    change(clos, environment={"VERSION": "2"})
    requests = Requests(port)

    with requests.going_on():
        ended = clos.ended(clos.ask("update", "shop"), 60)

    assert ended.status == "completed", ended.error
    assert ended.result["services"][0]["runs"] == "new"
    assert_failed_only_within(requests, ended.result["services"][0])
    after = clos.service("shop-web")
    assert (after.status, after.observed_hash == before.observed_hash) == ("running", False)
    assert clos.ended(clos.ask("update", "shop")).steps == []


@pytest.mark.docker
def test_an_update_to_what_policy_forbids_is_refused_by_the_worker_before_anything_is_stopped(clos: Rig) -> None:
    up(clos, container_service)
    before = clos.service("shop-web")
    # Written past the API, which asks the policy too.
    change(clos, container={"privileged": True})

    ended = clos.ended(clos.ask("update", "shop"))

    assert (ended.status, ended.error["code"]) == ("failed", "policy_denied")
    told = ended.result["services"][0]
    assert (told["runs"], told["unavailable_s"]) == ("old", 0.0)
    assert clos.service("shop-web").container_id == before.container_id


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("step", ["stop", "wait", "restore"])
def test_a_worker_that_is_killed_in_the_middle_of_an_update_leaves_it_to_another_one(
    clos: Rig, make: Make, step: str
) -> None:
    port = up(clos, make)
    before = clos.service("shop-web")
    deaf(clos)
    operation_id = clos.ask("update", "shop")

    def begun() -> bool:
        return any(row.action == step and row.status != "pending" for row in clos.operation(operation_id).steps)

    wait_until(begun, 30, f"the step {step}")
    clos.processes[0].send_signal(signal.SIGKILL)
    clos.processes[0].wait(5)
    clos.worker()

    ended = clos.ended(operation_id, 60)

    assert ended.status == "failed"
    assert ended.result["services"][0]["runs"] == "old"
    assert clos.service("shop-web").observed_hash == before.observed_hash
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2.0) as answer:
        assert answer.status == 200


@pytest.mark.docker
def test_a_failure_shows_no_lines_of_a_container_that_was_removed_before(clos: Rig) -> None:
    up(clos, container_service)
    change(clos, environment={"VERSION": "2"})
    assert clos.ended(clos.ask("update", "shop"), 60).status == "completed"
    deaf(clos)

    ended = clos.ended(clos.ask("update", "shop", on_failure="keep"), 60)

    assert (ended.status, ended.error["code"], ended.error["logs"]) == ("failed", "unhealthy", [])

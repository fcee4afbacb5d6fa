"""The way back of real containers and processes: how long it takes, and that it happens whoever is killed."""

import contextlib
import signal
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from models import operation_requests, operations, registry
from models.operations import Operation
from tests.images import client, test_image
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.integration.test_updates import DEAF, MAKES, Make
from tests.waiting import wait_until

# In a chain each one asks to be restarted with the one before it.
CHAIN = 8
STOP_TIMEOUT_S = 2.0
CHECK = {"type": "tcp", "interval": 0.5, "timeout": 1.0, "retries": 2, "start_period": 10.0}


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        made.worker()
        yield made


# It takes its time to end, as a server does that lets its requests finish.
SLOW = """
import http.server, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.0), os._exit(0)))
address = (os.environ["HOST"], int(os.environ["PORT"]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def slow_to_stop(name: str, port: int, **more: Any) -> dict[str, Any]:
    return web_service(name, port, command=[sys.executable, "-c", SLOW], **more)


def chain(clos: Rig, make: Make, **more: Any) -> list[str]:
    names = [f"s{index}" for index in range(CHAIN)]
    services = []
    for before, name in zip([None, *names], names, strict=False):
        needs = [{"service": before, "condition": "healthy", "restart": True}] if before else []
        services.append(
            make(name, free_port(), health_check=CHECK, stop_timeout=STOP_TIMEOUT_S, **more) | {"depends_on": needs}
        )
    clos.add_group("shop", services)
    return names


def change(clos: Rig, name: str, **fields: Any) -> None:
    with clos.record.write() as session:
        registry.change_service(session, registry.get(session, f"shop-{name}"), fields)


def cancelled_at(clos: Rig, operation_id: str, step: str) -> Operation:
    """Cancel it as soon as that step has begun; how it ended."""

    def begun() -> bool:
        return any(row.id == step and row.status != "pending" for row in clos.operation(operation_id).steps)

    wait_until(begun, 60, f"the step {step}")
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    return clos.ended(operation_id, 60)


def took_s(ended: Operation) -> float:
    assert ended.cancel_requested_at is not None
    assert ended.end_time is not None
    return (ended.end_time - ended.cancel_requested_at).total_seconds()


def its_start(clos: Rig) -> float:
    """How long the whole group takes to start, in seconds."""
    ended = clos.ended(clos.ask("start", "shop"), 120)
    assert ended.status == "completed", ended.error
    assert ended.start_time is not None
    assert ended.end_time is not None
    return (ended.end_time - ended.start_time).total_seconds()


@pytest.mark.parametrize("make", [pytest.param(slow_to_stop, id="slow"), *MAKES])
def test_a_cancelled_update_of_a_chain_is_back_within_one_stop_and_what_the_chain_takes_to_start(
    clos: Rig, make: Make
) -> None:
    names = chain(clos, make)
    starts_s = its_start(clos)
    before = {name: clos.service(f"shop-{name}").observed_hash for name in names}
    change(clos, "s0", environment={"VERSION": "2"})
    change(clos, names[-1], **DEAF[clos.service("shop-s0").runtime])

    ended = cancelled_at(clos, clos.ask("update", "shop"), f"wait:shop-{names[-1]}")

    assert ended.status == "cancelled"
    assert ended.result["undone"] == [f"shop-{name}" for name in names]
    assert "not_undone" not in ended.result
    after = {name: clos.service(f"shop-{name}") for name in names}
    assert {name: each.observed_hash for name, each in after.items()} == before
    assert {each.status for each in after.values()} == {"running"}
    assert took_s(ended) <= STOP_TIMEOUT_S + 2.0 + starts_s


def test_an_update_that_kills_three_workers_goes_back_and_says_what_runs(clos: Rig) -> None:
    port = free_port()
    clos.add_group("shop", [web_service("web", port, health_check=CHECK)])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    before = clos.service("shop-web").observed_hash
    # It is waited for long enough to kill whoever waits.
    change(clos, "web", **DEAF["process"], health_check_start_period=60.0)
    operation_id = clos.ask("update", "shop")
    for attempt in range(1, operations.MAX_CLAIMS + 1):
        wait_until(lambda attempt=attempt: _waits(clos, operation_id, attempt), 40, f"the wait of attempt {attempt}")
        clos.processes[-1].send_signal(signal.SIGKILL)
        clos.processes[-1].wait(10)
        clos.worker()

    ended = clos.ended(operation_id, 60)

    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 3)
    assert [each["runs"] for each in ended.result["services"]] == ["old"]
    assert clos.service("shop-web").observed_hash == before
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2.0) as answer:
        assert answer.status == 200


def _waits(clos: Rig, operation_id: str, attempt: int) -> bool:
    found = clos.operation(operation_id)
    waits = any(row.action == "wait" and row.status == "running" for row in found.steps)
    return found.attempt == attempt and waits


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("well", [True, False], ids=["forward", "back"])
def test_two_that_swap_their_ports_have_each_others_or_each_its_own(clos: Rig, make: Make, well: bool) -> None:
    one, other, third = free_port(), free_port(), free_port()
    again = {"health_check": CHECK, "stop_timeout": STOP_TIMEOUT_S}
    needs = [{"service": "a", "condition": "healthy"}]
    clos.add_group("shop", [make("a", one, **again), make("b", other, **again) | {"depends_on": needs}])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    before = {name: clos.service(f"shop-{name}").observed_hash for name in ("a", "b")}
    # By way of a third one, since no two may have the same at any time.
    for name, port in (("a", third), ("b", one), ("a", other)):
        change(clos, name, ports=[make(name, port)["ports"][0]])
    if not well:
        change(clos, "b", **DEAF[clos.service("shop-b").runtime])

    ended = clos.ended(clos.ask("update", "shop"), 90)

    assert ended.status == ("completed" if well else "failed"), ended.error
    assert "not_undone" not in ended.result
    assert {each["runs"] for each in ended.result["services"]} == {"new" if well else "old"}
    after = {name: clos.service(f"shop-{name}") for name in ("a", "b")}
    assert {name: each.observed_hash == before[name] for name, each in after.items()} == dict.fromkeys(after, not well)
    assert {(each.status, each.health_status) for each in after.values()} == {("running", "healthy")}


@pytest.mark.docker
@pytest.mark.parametrize("well", [True, False], ids=["forward", "back"])
def test_who_has_the_network_of_another_ones_container_has_that_of_the_one_that_runs(clos: Rig, well: bool) -> None:
    side = {"name": "side", "runtime": "docker", "image": test_image(), "command": ["serve", "81"],
            "network_mode": "service:main", "stop_timeout": 2}  # fmt: skip
    clos.add_group("shop", [container_service("main", free_port(), health_check=CHECK), side])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    before = clos.service("shop-main").container_id
    change(clos, "main", environment={"VERSION": "2"}, **({} if well else DEAF["docker"]))

    ended = clos.ended(clos.ask("update", "shop"), 90)

    assert ended.status == ("completed" if well else "failed"), ended.error
    assert "not_undone" not in ended.result
    main, inside = clos.service("shop-main"), clos.service("shop-side")
    assert (main.container_id == before) is not well
    with contextlib.closing(client()) as engine:
        found = engine.api.inspect_container(inside.container_id)
        assert found["HostConfig"]["NetworkMode"] == f"container:{main.container_id}"
        assert found["State"]["Running"]
        # It was started after what it lives in: else it has the network of one that is gone.
        assert found["State"]["StartedAt"] > engine.api.inspect_container(main.container_id)["State"]["StartedAt"]

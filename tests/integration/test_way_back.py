"""The way back of real containers and processes: how long it takes, and that it happens whoever is killed."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from models import operation_requests, operations, registry
from models.operations import Operation
from tests.integration.rig import Rig, free_port, rig, web_service
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

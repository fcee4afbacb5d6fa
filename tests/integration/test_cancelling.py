"""A cancel while a real worker waits: it ends in time, and the machine is as the operation says."""

from collections.abc import Iterator

import pytest

from models import operation_requests, operations
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.waiting import wait_until


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        made.worker()
        yield made


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(web_service, id="process"),
        pytest.param(container_service, id="docker", marks=pytest.mark.docker),
    ],
)
def test_a_cancel_in_a_wait_ends_in_time_and_says_what_is_left(clos, make):
    never = {"type": "tcp", "port": "other", "interval": 1.0, "timeout": 0.5, "start_period": 60.0}
    first, unused = free_port(), free_port()
    ports = [{"host_port": first, "container_port": 80}, {"name": "other", "host_port": unused, "container_port": 81}]
    store = make("store", first) | {"ports": ports, "health_check": never}
    clos.add_group("shop", [store, make("web", free_port(), needs=["store"])])
    operation_id = clos.ask("start", "shop")

    def waits() -> bool:
        return any(
            each.id == "wait:shop-store" and each.status == "running" for each in clos.operation(operation_id).steps
        )

    wait_until(waits, 30, "the wait")
    with clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))
    asked = clos.operation(operation_id).cancel_requested_at
    ended = clos.ended(operation_id, 20)

    assert ended.status == "cancelled"
    assert (ended.end_time - asked).total_seconds() < 5 + 2  # stop_timeout + 2 s
    left = {each["step"]: each["text"] for each in ended.result["left"]}
    assert "nobody waited" in left["start:shop-store"]
    assert not any(step.endswith("shop-web") for step in left)
    store, web = clos.service("shop-store"), clos.service("shop-web")
    assert (store.desired, store.status) == ("running", "running")
    assert (web.desired, web.status, web.container_id, web.pid) == ("stopped", "stopped", None, None)

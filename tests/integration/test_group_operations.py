"""A group's start, stop and restart through a real worker, on both runtimes."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from tests.integration.databases import postgres_database
from tests.integration.rig import Rig, container_service, free_port, rig, web_service

MAKERS = [
    pytest.param(web_service, id="process"),
    pytest.param(container_service, id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def clos(request) -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgres" else None
        yield stack.enter_context(rig(url))


def _shop(make, ports):
    return [
        make("web", ports[2], needs=["api"]),
        make("api", ports[1], needs=["store"]),
        make("store", ports[0]),
    ]


@pytest.mark.parametrize("make", MAKERS)
def test_a_group_starts_in_order_of_its_dependencies_and_stops_in_reverse(clos, make):
    clos.worker()
    clos.add_group("shop", _shop(make, [free_port() for _ in range(3)]))

    started = clos.ended(clos.ask("start", "shop"))

    assert started.status == "completed", started.error
    ended = {step.id: step.ended_at for step in started.steps}
    began = {step.id: step.started_at for step in started.steps}
    assert ended["wait:shop-store"] <= began["start:shop-api"]
    assert ended["wait:shop-api"] <= began["start:shop-web"]
    for name in ("store", "api", "web"):
        service = clos.service(f"shop-{name}")
        assert (service.status, service.health_status, service.waiting_for) == ("running", "healthy", None)

    stopped = clos.ended(clos.ask("stop", "shop"))

    assert stopped.status == "completed", stopped.error
    ended = {step.id: step.ended_at for step in stopped.steps}
    began = {step.id: step.started_at for step in stopped.steps}
    assert ended["stop:shop-web"] <= began["stop:shop-api"]
    assert ended["stop:shop-api"] <= began["stop:shop-store"]
    assert {clos.service(f"shop-{name}").status for name in ("store", "api", "web")} == {"stopped"}


@pytest.mark.parametrize("make", MAKERS)
def test_starting_what_runs_changes_nothing(clos, make):
    clos.worker()
    clos.add_group("shop", _shop(make, [free_port() for _ in range(3)]))
    clos.ended(clos.ask("start", "shop"))
    before = [clos.service(f"shop-{name}").started_at for name in ("store", "api", "web")]

    again = clos.ended(clos.ask("start", "shop"))

    assert again.status == "completed"
    assert again.steps == []
    assert [clos.service(f"shop-{name}").started_at for name in ("store", "api", "web")] == before


@pytest.mark.parametrize("make", MAKERS)
def test_a_taken_port_fails_its_service_by_the_holders_name_and_skips_what_needs_it(clos, make):
    clos.worker()
    ports = [free_port() for _ in range(3)]
    clos.add_group("shop", _shop(make, ports))
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", ports[1]))
        holder.listen()

        failed = clos.ended(clos.ask("start", "shop"))

    assert failed.status == "failed"
    assert failed.error["code"] == "port_held"
    assert failed.error["port"] == ports[1]
    assert failed.error["holder"]["pid"] == os.getpid()
    status = {step.id: step.status for step in failed.steps}
    assert status["start:shop-api"] == "failed"
    assert status["start:shop-web"] == "skipped"
    assert status["wait:shop-store"] == "completed"
    assert clos.service("shop-store").status == "running"
    assert clos.service("shop-api").status == "failed"
    assert "held by" in clos.service("shop-api").waiting_for[0]["text"]
    assert clos.service("shop-web").waiting_for[0]["ref"] == "shop-api"

    assert clos.ended(clos.ask("start", "shop")).status == "completed"


def test_a_service_that_dies_at_once_fails_with_its_exit_code_and_last_lines(clos):
    clos.worker()
    clos.add_group(
        "shop",
        [{"name": "bad", "runtime": "process", "restart_policy": "no",
          "command": ["/bin/sh", "-c", "echo no config; exit 3"], "ports": [{"host_port": free_port()}]}],
    )  # fmt: skip

    failed = clos.ended(clos.ask("start", "shop"))

    assert failed.status == "failed"
    assert failed.error["exit_code"] == 3
    assert failed.error["logs"] == ["no config"]


@pytest.mark.docker
def test_a_missing_image_fails_with_the_engines_reason_and_a_hint(clos):
    clos.worker()
    clos.add_group("shop", [{"name": "x", "runtime": "docker", "image": "clos-no-such-image:1"}])

    failed = clos.ended(clos.ask("start", "shop"), 60)

    assert failed.status == "failed"
    assert failed.error["code"] in ("image_missing", "image_pull_failed")
    assert failed.error["hint"]

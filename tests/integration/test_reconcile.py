"""An engine that goes and comes back, a host that is restarted, hands that stop things: real containers and processes.

The twelve services of three projects, in order over a start, an engine's restart and a reboot: tests/e2e.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from models import registry, registry_orphans
from models.base import now
from models.events import Event
from models.groups import Group
from models.operations import Operation
from models.services import Service
from tests.images import IMAGE
from tests.integration.rig import Rig, rig
from tests.private_engine import PrivateEngine, needs_private_engine, private_engine
from tests.waiting import wait_until
from workers.runtimes.docker_observation import parse_time

pytestmark = needs_private_engine
# So long each service takes to get healthy: a gate that is not waited at shows.
READY_S = 0.4
_READY = "rm -f {0}; sleep {1}; touch {0}; "


@pytest.fixture
def engine() -> Iterator[PrivateEngine]:
    with private_engine() as made:
        yield made


@pytest.fixture
def clos(engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    with rig() as made:
        yield made


def container(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A container that takes a while to get healthy."""
    return {
        "name": name,
        "runtime": "docker",
        "image": IMAGE,
        "command": ["/bin/sh", "-c", _READY.format("/tmp/ready", READY_S) + "exec /bin/idle"],
        "health_check": _check("/tmp/ready"),
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
        "stop_timeout": 3,
        "restart_policy": "no",
        **more,
    }


def process(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """The same as a process."""
    ready = f"/tmp/clos-ready-{uuid.uuid4().hex}"
    return container(name, *needs) | {
        "runtime": "process",
        "image": None,
        "command": ["/bin/sh", "-c", _READY.format(ready, READY_S) + f"trap 'rm -f {ready}; exit 0' TERM; "
                    "while :; do sleep 3600 & wait $!; done"],
        "health_check": _check(ready),
        **more,
    }  # fmt: skip


def _check(path: str) -> dict[str, Any]:
    return {"type": "exec", "test": ["test", "-e", path], "interval": 1.0, "timeout": 5.0, "start_period": 30.0}


def _repairs(clos: Rig, since: datetime) -> list[Operation]:
    with clos.record.read() as session:
        found = session.scalars(
            select(Operation).where(Operation.initiated_by == "system:reconcile", Operation.created_at >= since)
        ).all()
        for each in found:
            _ = list(each.steps)
        session.expunge_all()
        return list(found)


def _states(clos: Rig) -> dict[str, Any]:
    with clos.record.read() as session:
        rows = session.execute(select(Service.id, Service.status, Service.down_cause, Service.waiting_for))
        return {row.id: (row.status, row.down_cause, row.waiting_for) for row in rows}


def test_what_a_person_stops_or_removes_is_reported_within_moments_and_repaired_only_by_policy(clos, engine):
    clos.scheduler()
    clos.worker()
    clos.add_group("shop", [container("db"), container("web", "db"), process("job")])
    clos.add_group("kept", [container("one"), container("two")])
    with clos.record.write() as session:
        session.get(Group, "kept").reconcile = {"person": "repair"}
    for group in ("shop", "kept"):
        assert clos.ended(clos.ask("start", group), 60).status == "completed"
    since = now()

    began = time.monotonic()
    engine.client.api.stop(engine.inspect("shop-web")["Id"], timeout=2)
    wait_until(lambda: clos.service("shop-web").down_cause == "person", 10)
    print(f"a stop by hand is reported {time.monotonic() - began:.2f} s after it began")
    web = clos.service("shop-web")
    assert (web.status, web.exit_code, web.waiting_for[0]["text"]) == (
        "stopped", 0, "it was stopped by hand: `clos start shop-web` brings it back",
    )  # fmt: skip
    engine.client.api.remove_container(engine.inspect("shop-db")["Id"], force=True)
    # A look between its kill and its removal sees it stopped first.
    wait_until(lambda: "removed by hand" in str(clos.service("shop-db").waiting_for), 10)
    assert clos.service("shop-db").down_cause == "person"
    os.killpg(clos.service("shop-job").pid, signal.SIGKILL)
    wait_until(lambda: clos.service("shop-job").down_cause == "person", 10)

    engine.client.api.kill(engine.inspect("kept-one")["Id"])
    engine.client.api.remove_container(engine.inspect("kept-two")["Id"], force=True)
    for each in ("kept-one", "kept-two"):
        wait_until(lambda each=each: clos.service(each).restarts == 1, 15)
        wait_until(lambda each=each: clos.service(each).health_status == "healthy", 15)
    named = {name for each in _repairs(clos, since) for name in each.parameters["named"]}
    assert named == {"kept-one", "kept-two"}
    with clos.record.read() as session:
        told = session.scalars(select(Event).where(Event.type == "service.down")).all()
        assert {event.service_id for event in told} == {"shop-db", "shop-job", "shop-web"}

    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    assert clos.service("shop-web").waiting_for is None


def test_a_crash_is_answered_at_once_without_waiting_for_the_next_look(clos, engine):
    clos.worker()  # and no scheduler: nothing but the engine's events tells it to look
    clos.add_group("shop", [container("web", restart_policy="always")])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    before = engine.inspect("shop-web")["State"]

    began = time.monotonic()
    os.kill(before["Pid"], signal.SIGKILL)
    wait_until(lambda: clos.service("shop-web").restarts == 1, 10, f"{clos.log('workers.main')[-1500:]}")
    wait_until(lambda: engine.inspect("shop-web")["State"]["Running"], 10)

    print(f"a crash is answered after {time.monotonic() - began:.2f} s")
    assert _repairs(clos, clos.service("shop-web").created_at)[0].parameters["reason"] == "it ended with exit code 137"


def test_a_restart_of_clos_touches_nothing_and_what_happened_meanwhile_is_told_by_its_cause(clos, engine):
    clos.scheduler()
    worker = clos.worker()
    clos.add_group("shop", [container("db"), container("web", "db"), process("job")])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    names = ("shop-db", "shop-web")
    before = {each: engine.inspect(each)["State"]["StartedAt"] for each in names}
    job = clos.service("shop-job").pid
    since = now()

    worker.terminate()
    worker.wait(15)
    worker = clos.worker()
    _looked(clos, "docker")
    assert {each: engine.inspect(each)["State"]["StartedAt"] for each in names} == before
    assert clos.service("shop-job").pid == job
    assert _repairs(clos, since) == []

    worker.terminate()
    worker.wait(15)
    engine.stop()
    engine.start()
    clos.worker()
    wait_until(lambda: [each.status for each in _repairs(clos, since)] == ["completed"], 60, str(_states(clos)))
    assert _repairs(clos, since)[0].parameters["reason"] == "its engine was restarted"
    assert clos.service("shop-job").pid == job
    web, db = (parse_time(engine.inspect(each)["State"]["StartedAt"]) for each in ("shop-web", "shop-db"))
    assert (web - db).total_seconds() >= READY_S


def test_orphans_are_listed_adopted_and_removed_only_where_asked(clos, engine):
    clos.scheduler()
    clos.worker()
    clos.add_group("shop", [container("db"), container("web"), process("job"), container("kept")])
    assert clos.ended(clos.ask("start", "shop"), 60).status == "completed"
    refs = {each: engine.inspect(f"shop-{each}")["Id"] for each in ("db", "web", "kept")}
    job = clos.service("shop-job").pid
    marks = engine.inspect("shop-kept")["Config"]["Labels"]
    with clos.record.write() as session:
        for each in ("shop-db", "shop-web", "shop-job"):
            registry.delete_service(session, each)
    twin = engine.client.api.create_container(IMAGE, "idle", labels=marks, name="twin")["Id"]

    wait_until(lambda: len(_orphans(clos)) == 4, 40)
    found = _orphans(clos)
    assert {found[refs["db"]], found[refs["web"]], found[twin]} == {
        ("shop-db", "running"), ("shop-web", "running"), ("shop-kept", "created"),
    }  # fmt: skip

    with clos.record.write() as session:
        made = registry_orphans.adopt(session, refs["web"], None, None)
        assert (made.id, made.image, made.command) == ("shop-web", IMAGE, container("web")["command"])
    wait_until(lambda: clos.service("shop-web").status == "running", 20)
    assert clos.service("shop-web").container_id == refs["web"]

    job_ref = next(ref for ref, (of, _phase) in found.items() if of == "shop-job")
    for ref in (refs["db"], twin, job_ref):
        with clos.record.write() as session:
            asked = registry_orphans.remove(session, ref, "test")
            sent = (asked.id, asked.type)
        clos.outbox.operation(*sent)
        assert clos.ended(sent[0], 30).status == "completed"
    wait_until(lambda: not _orphans(clos), 20)
    left = {each["Id"] for each in engine.client.api.containers(all=True)}
    assert left == {refs["web"], refs["kept"]}
    wait_until(lambda: not psutil.pid_exists(job), 20)
    assert engine.inspect("shop-kept")["State"]["Running"]


def _orphans(clos: Rig) -> dict[str, tuple[str, str]]:
    with clos.record.read() as session:
        return {each.ref: (each.service_id, each.phase) for each in registry_orphans.page(session, None, 50)}


def _looked(clos: Rig, kind: str) -> None:
    """Wait until a look that begins now has ended."""
    from models.installation import SystemConfig

    since = now()

    def seen() -> bool:
        with clos.record.read() as session:
            row = session.get(SystemConfig, f"engine:{kind}")
            return row is not None and datetime.fromisoformat(row.value["answered_at"]) > since

    wait_until(seen, 15, "a look")

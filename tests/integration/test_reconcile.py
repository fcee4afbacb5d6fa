"""An engine that goes and comes back, a host that is restarted, hands that stop things: real containers and processes.

Issue 4, "Done when" 2: three groups and processes, twelve services in one graph.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
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


def twelve() -> dict[str, list[dict[str, Any]]]:
    """Three groups, two runtimes, twelve services, one graph."""
    return {
        "data": [container("db"), container("cache"), process("queue", "db"), container("search", "db", "cache")],
        "core": [
            container("auth", "data/db"),
            process("api", "auth", "data/cache", "data/queue"),
            container("jobs", "data/queue", "data/search"),
            container("mail", "jobs"),
        ],
        "edge": [
            container("web", "core/api"),
            process("admin", "core/api", "core/jobs"),
            container("proxy", "web", "admin"),
            container("probe", "proxy", "core/mail"),
        ],
    }


def edges(groups: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """(service, what it needs), by id."""
    found = []
    for group, services in groups.items():
        for one in services:
            for need in one["depends_on"]:
                other, _, name = need["service"].rpartition("/")
                found.append((f"{group}-{one['name']}", f"{other or group}-{name}"))
    return found


class World:
    """The twelve, and when each of them began."""

    def __init__(self, clos: Rig, engine: PrivateEngine) -> None:
        self.clos, self.engine = clos, engine
        self.groups = twelve()
        self.ids = [f"{group}-{one['name']}" for group, services in self.groups.items() for one in services]
        self.containers = [
            f"{group}-{one['name']}"
            for group, services in self.groups.items()
            for one in services
            if one["runtime"] == "docker"
        ]
        for group, services in self.groups.items():
            clos.add_group(group, services)

    def began(self) -> dict[str, datetime]:
        """Of containers as the engine tells, of processes as their launch was recorded."""
        found = {}
        for each in self.ids:
            if each in self.containers:
                state = self.engine.inspect(each)["State"]
                assert state["Running"], each
                at = parse_time(state["StartedAt"])
            else:
                at = self.clos.service(each).started_at
            assert at is not None
            found[each] = at
        return found

    def check_order(self, what: str, changed: list[str], since: datetime) -> None:
        """Every edge and every health gate is respected by those that began anew."""
        began = self.began()
        for service, need in edges(self.groups):
            if service in changed and need in changed:
                gap_s = (began[service] - began[need]).total_seconds()
                assert gap_s >= READY_S, (service, need, gap_s)
        for each in changed:
            assert began[each] >= since, each
        last = max(began[each] for each in changed)
        print(f"{what}: {len(changed)} services, last begun {(last - since).total_seconds():.2f} s after it")

    def up(self) -> bool:
        with self.clos.record.read() as session:
            rows = session.execute(select(Service.id, Service.status, Service.health_status)).all()
        return all((row.status, row.health_status) == ("running", "healthy") for row in rows)

    def pids(self) -> dict[str, int | None]:
        return {each: self.clos.service(each).pid for each in self.ids if each not in self.containers}


def _repairs(clos: Rig, since: datetime) -> list[Operation]:
    with clos.record.read() as session:
        found = session.scalars(
            select(Operation).where(Operation.initiated_by == "system:reconcile", Operation.created_at >= since)
        ).all()
        for each in found:
            _ = list(each.steps)
        session.expunge_all()
        return list(found)


def _up_again(clos: Rig, world: World, since: datetime) -> list[Operation]:
    """Wait until everything is healthy again; the repairs that made it so."""
    wait_until(
        lambda: world.up() and [each.status for each in _repairs(clos, since)].count("completed") > 0,
        90,
        f"all being healthy again: {_states(clos)}",
    )
    return _repairs(clos, since)


def _states(clos: Rig) -> dict[str, Any]:
    with clos.record.read() as session:
        rows = session.execute(select(Service.id, Service.status, Service.down_cause, Service.waiting_for))
        return {row.id: (row.status, row.down_cause, row.waiting_for) for row in rows}


def _another_boot(clos: Rig) -> None:
    """What CLOS runs from now on sees another boot of the host."""
    path = clos.home / "boot-id"
    path.write_text(f"{uuid.uuid4()}\n")
    path.chmod(0o444)
    mounted = f'mount --bind {path} /proc/sys/kernel/random/boot_id && exec "$@"'
    clos.wrapper = ["unshare", "--mount", "--", "sh", "-c", mounted, "sh"]


def test_twelve_services_come_up_in_order_after_a_start_an_engines_restart_its_death_and_a_reboot(clos, engine):
    clos.scheduler()
    worker = clos.worker()
    world = World(clos, engine)

    since = now()
    ended = clos.ended(clos.ask("start", "edge"), 90)
    assert ended.status == "completed", ended.error
    world.check_order("clos start", world.ids, since)
    for each in world.containers:
        assert engine.inspect(each)["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"), each
    wait_until(world.up, 30)

    for what, how in (("restart of the engine", signal.SIGTERM), ("death of the engine", signal.SIGKILL)):
        pids = world.pids()
        engine.stop(how)
        wait_until(lambda: clos.service("data-db").status == "unknown", 20, "the engine's being missed")
        assert clos.service("core-api").status == "running"
        since = now()
        engine.start()
        repairs = _up_again(clos, world, since)
        assert [(each.type, each.status) for each in repairs] == [("batch.start", "completed")], _states(clos)
        assert repairs[0].parameters["reason"] == "its engine was restarted"
        world.check_order(what, world.containers, since)
        assert world.pids() == pids  # what did not go with it was not touched

    worker.kill()
    worker.wait(10)
    engine.stop()
    for pid in world.pids().values():
        _end_session(pid)
    since = now()
    _another_boot(clos)
    clos.worker()
    engine.start()
    wait_until(world.up, 90, f"all being up after the reboot: {_states(clos)}")
    assert {each.parameters["reason"] for each in _repairs(clos, since)} == {"this host was restarted"}
    world.check_order("reboot", world.ids, since)


def _end_session(pid: int | None) -> None:
    assert pid is not None
    leader = psutil.Process(pid)
    for process_ in [leader, *leader.children(recursive=True)]:
        process_.kill()


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

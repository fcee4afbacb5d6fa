"""What carries our mark and is no service's: seen, adopted, removed; never touched otherwise."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from domain.errors import OperationInProgress, OrphanNotAdoptable, OrphanNotFound
from domain.observation import Instance, Phase
from domain.specs import RuntimeKind, ServiceSpec
from models import registry, registry_orphans
from models.orphans import Orphan
from models.services import Service
from tests.unit.worker_kit import Kit, plain
from tests.waiting import wait_until
from workers import orphans, runner, state
from workers.runtimes.docker_definition import definition_of
from workers.runtimes.docker_names import Marks
from workers.runtimes.host_process import HostProcess


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _look(kit: Kit) -> list[Orphan]:
    kit.context.observer.changed("process")
    kit.context.observer.changed("docker")
    state.collect(kit.context)
    with kit.record.read() as session:
        found = list(registry_orphans.page(session, None, 50))
        session.expunge_all()
        return found


def _forgotten(kit: Kit, **more: Any) -> str:
    """A service that runs and is registered no more. The ref of what it left."""
    kit.group("shop", plain("web", **more), plain("api"))
    kit.does("start")
    ref = kit.memory.observe()["shop-web"].ref
    with kit.record.write() as session:
        registry.delete_service(session, "shop-web")
    assert ref is not None
    return ref


def test_what_is_registered_no_more_is_listed_and_left_alone(kit):
    ref = _forgotten(kit)
    kit.memory.calls.clear()

    [orphan] = _look(kit)

    assert (orphan.ref, orphan.service_id, orphan.phase) == (ref, "shop-web", "running")
    assert [each.ref for each in _look(kit)] == [ref]
    assert kit.memory.calls == []


def test_it_disappears_with_what_it_stands_for(kit):
    _forgotten(kit)
    assert len(_look(kit)) == 1
    kit.memory.lose("shop-web")
    assert _look(kit) == []


def test_a_second_instance_of_a_service_is_listed_unless_an_operation_works_on_it(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.extra["twin"] = Instance("shop-web", Phase.RUNNING, "twin")
    assert [each.ref for each in _look(kit)] == ["twin"]
    kit.ask("stop")
    assert _look(kit) == []


def test_also_where_no_service_is_registered_at_all(kit):
    _forgotten(kit)
    with kit.record.write() as session:
        registry.delete_service(session, "shop-api")
    kit.memory.lose("shop-api")
    kit.context = kit.make_context("fresh")
    assert [each.service_id for each in _look(kit)] == ["shop-web"]


def test_an_adopted_one_is_its_services_instance_from_the_next_look_on(kit):
    ref = _forgotten(kit)
    kit.memory.definitions[ref] = {
        "runtime": "process", "command": ["serve", "x"], "environment": {"A": "1"}, "unread": [],
    }  # fmt: skip
    _look(kit)
    kit.memory.calls.clear()

    with kit.record.write() as session:
        made = registry_orphans.adopt(session, ref, None, None)
        assert (made.id, made.group_name, made.desired) == ("shop-web", "shop", "running")

    assert _look(kit) == []
    web = kit.service("web")
    assert (web.status, web.command) == ("running", ["serve", "x"])
    assert kit.memory.calls == []


def test_what_cannot_be_kept_is_named_and_nothing_is_registered(kit):
    ref = _forgotten(kit)
    kit.memory.definitions[ref] = {
        "runtime": "process", "command": ["x"], "unread": ["HostConfig.Privileged"],
    }  # fmt: skip
    _look(kit)
    with kit.record.write() as session:
        with pytest.raises(OrphanNotAdoptable) as refused:
            registry_orphans.adopt(session, ref, "other", None)
        assert refused.value.facts["reasons"] == [
            "HostConfig.Privileged cannot be kept",
            "its mark says shop-web, which is not service 'other' of group 'shop'",
        ]
        with pytest.raises(OrphanNotFound):
            registry_orphans.adopt(session, "nobody", None, None)
        assert session.get(Service, "shop-web") is None


def _remove(kit: Kit, ref: str) -> str:
    with kit.record.write() as session:
        return registry_orphans.remove(session, ref, "test").id


def _run(kit: Kit, operation_id: str):
    runner.run(kit.context, operation_id, orphans.remove)
    return kit.operation(operation_id)


def test_exactly_what_was_asked_for_is_removed_once(kit):
    ref = _forgotten(kit)
    _look(kit)
    asked = _remove(kit, ref)
    with pytest.raises(OperationInProgress):
        _remove(kit, ref)

    ended = _run(kit, asked)

    assert (ended.type, ended.status) == ("orphan.remove", "completed")
    assert [step.status for step in ended.steps] == ["completed"]
    assert [call for call in kit.memory.calls if call[0] == "discard"] == [("discard", ref)]
    assert _look(kit) == []
    assert kit.service("api").status == "running"


def test_one_that_was_adopted_meanwhile_is_not_removed(kit):
    ref = _forgotten(kit)
    _look(kit)
    asked = _remove(kit, ref)
    with kit.record.write() as session:
        registry_orphans.adopt(session, ref, None, None)

    ended = _run(kit, asked)

    assert (ended.status, ended.error["code"]) == ("failed", "not_an_orphan")
    assert kit.memory.observe()["shop-web"].alive


def test_a_containers_definition_is_what_its_image_does_not_say():
    inspected = {
        "Config": {
            "Image": "nginx:1", "Cmd": ["serve"], "Env": ["PATH=/bin", "A=1=2"], "User": "app",
            "Labels": {"clos.service": "shop-web", "team": "red", "of": "image"}, "WorkingDir": "/",
        },
        "HostConfig": {
            "Binds": ["data:/data"], "NanoCpus": 500_000_000, "Memory": 64 * 1024 * 1024, "Privileged": True,
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": [{"HostPort": ""}]},
            "CapAdd": None,
        },
    }  # fmt: skip
    image = {"Config": {"Env": ["PATH=/bin"], "Cmd": ["idle"], "WorkingDir": "/", "Labels": {"of": "image"}}}
    assert definition_of(inspected, image, Marks("i")) == {
        "runtime": "docker", "image": "nginx:1", "command": ["serve"], "environment": {"A": "1=2"}, "user": "app",
        "labels": {"team": "red"}, "volumes": ["data:/data"], "cpu_limit": 0.5, "memory_limit": 64,
        "ports": [{"container_port": 80, "host_port": 8080, "protocol": "tcp", "host_ip": "127.0.0.1"}],
        "unread": ["HostConfig.PortBindings[81/tcp]", "HostConfig.Privileged"],
    }  # fmt: skip


def test_a_process_is_described_by_its_command_line_and_ended_by_its_ref(tmp_path: Path):
    runtime = HostProcess(tmp_path, "i" * 32, {"PATH": os.environ["PATH"]})
    spec = ServiceSpec(
        "shop-web", "web", "shop", RuntimeKind.PROCESS, command=(sys.executable, "-c", "import time; time.sleep(600)"),
        environment={"MODE": "test"}, working_dir=str(tmp_path),
    )  # fmt: skip
    ref = runtime.start(spec).ref
    assert ref is not None
    try:
        seen = runtime.describe(ref)
        assert (seen["command"], seen["working_dir"]) == (list(spec.command), str(tmp_path))
        assert (seen["environment"], seen["unread"]) == ({"MODE": "test"}, [])
        assert runtime.beside() == ()
    finally:
        runtime.discard(ref, 2.0)
    wait_until(lambda: not runtime.observe().get("shop-web", Instance("shop-web")).alive, 5)
    runtime.discard(ref, 2.0)
    assert runtime.describe(ref) == {}


def test_a_lock_of_a_removal_is_let_go_with_it(kit):
    ref = _forgotten(kit)
    _look(kit)
    _run(kit, _remove(kit, ref))
    assert kit.locks() == []

"""Taking over what Compose started: exchanged on request, put back where it does not come up, else left alone."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.states import OperationStatus
from models import import_inputs, operations
from models.operations import Operation
from models.ports import PortRange
from tests.images import client, docker_url, test_image
from tests.integration.real_compose import RealCompose
from tests.integration.rig import Rig, free_port, rig

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")


@pytest.fixture(scope="module")
def clos() -> Iterator[Rig]:
    test_image()
    with rig() as made:
        with made.record.write() as session:
            session.add(PortRange(project="development", start_port=9000, end_port=9999))
        made.worker()
        yield made


class Running:
    """A project that Compose has started, with something in its volume."""

    def __init__(self, clos: Rig, folder: Path) -> None:
        self.clos = clos
        self.folder = folder
        self.port = free_port()
        folder.mkdir()
        self.compose = RealCompose(folder, folder.name)
        self.write("serve 8000")
        self.before = self.compose.up()
        engine = client()
        engine.containers.get(self.before["web"]["Id"]).exec_run(["sh", "-c", "echo kept > /data/note"])
        engine.close()

    def write(self, command: str) -> None:
        text = f"""
services:
  web:
    image: clos-test:latest
    command: {command}
    ports: ["127.0.0.1:{self.port}:8000"]
    volumes: ["data:/data"]
    depends_on: [db]
  db: {{image: "clos-test:latest"}}
volumes: {{data: {{}}}}
"""
        (self.folder / "compose.yaml").write_text(text, encoding="utf-8")

    def imports(self, **asked: Any) -> Operation:
        parameters = {"path": str(self.folder), **asked}
        with self.clos.record.write() as session:
            made = operations.create(session, "group.import", parameters=parameters, initiated_by="test")
            import_inputs.keep(session, made.id, None, {})
            operation_id = made.id
        self.clos.outbox.operation(operation_id, "group.import")
        return self.clos.ended(operation_id, 120)

    def close(self) -> None:
        if self.clos.record is not None:
            self.clos.ended(self.clos.ask("remove", self.folder.name), 60)
        self.compose.down()


@pytest.fixture
def running(clos: Rig, tmp_path: Path) -> Iterator[Running]:
    made = Running(clos, tmp_path / f"adopt{uuid.uuid4().hex[:8]}")
    yield made
    made.close()


def test_without_being_asked_for_nothing_is_touched_and_its_containers_are_named(running: Running) -> None:
    ended = running.imports()
    assert ended.status == OperationStatus.COMPLETED.value, ended.error
    assert {each["service"] for each in (ended.result or {})["containers"]} == {"web", "db"}
    after = running.compose.inspected()
    assert {name: each["State"]["StartedAt"] for name, each in after.items()} == {
        name: each["State"]["StartedAt"] for name, each in running.before.items()
    }


def test_on_request_its_containers_are_exchanged_and_the_volume_is_kept(running: Running) -> None:
    ended = running.imports(adopt=True)
    assert ended.status == OperationStatus.COMPLETED.value, ended.error
    assert (ended.result or {})["runs"] == "the containers that CLOS made"
    assert running.compose.inspected() == {}
    service = running.clos.service(f"{running.folder.name}-web")
    assert (service.status, service.desired) == ("running", "running")
    engine = client()
    container = engine.containers.get(service.container_id)
    assert container.exec_run(["cat", "/data/note"]).output == b"kept\n"
    assert f"{running.folder.name}_default" in container.attrs["NetworkSettings"]["Networks"]
    engine.close()
    order = [step.id for step in sorted(ended.steps, key=lambda step: step.started_at or step.position)]
    assert max(order.index(each) for each in order if each.startswith("stop:container")) < min(
        order.index(each) for each in order if each.startswith("start:")
    )


def test_what_does_not_come_up_is_taken_back_and_the_old_ones_run_again(running: Running) -> None:
    running.write('["sh", "-c", "exit 3"]')
    ended = running.imports(adopt=True)
    assert ended.status == OperationStatus.FAILED.value
    assert (ended.result or {})["runs"] == "the containers that Compose made"
    after = running.compose.inspected()
    assert {name: each["Id"] for name, each in after.items()} == {
        name: each["Id"] for name, each in running.before.items()
    }
    assert all(each["State"]["Running"] for each in after.values())
    assert running.clos.service(f"{running.folder.name}-web").desired == "stopped"

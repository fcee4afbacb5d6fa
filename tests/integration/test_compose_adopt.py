"""Taking over what Compose started: exchanged on request, put back where it does not come up, else left alone."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.states import OperationStatus
from models import import_inputs, operation_requests, operations
from models.operations import Operation
from models.ports import PortRange
from tests.images import client, docker_url, test_image
from tests.integration.real_compose import RealCompose
from tests.integration.rig import Rig, free_port, rig
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path(docker_url().removeprefix("unix://")).exists(), reason="needs Docker")


# It serves, and does not end when it is asked to.
DEAF = """["sh", "-c", "trap '' TERM INT; httpd -f -p 8000 -h /www & while :; do sleep 1; done"]"""


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

    def __init__(self, clos: Rig, folder: Path, command: str = "serve 8000") -> None:
        self.clos = clos
        self.folder = folder
        self.port = free_port()
        folder.mkdir()
        self.compose = RealCompose(folder, folder.name)
        self.write(command)
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
    stop_grace_period: 15s
  db: {{image: "clos-test:latest"}}
volumes: {{data: {{}}}}
"""
        (self.folder / "compose.yaml").write_text(text, encoding="utf-8")

    def imports(self, **asked: Any) -> Operation:
        return self.clos.ended(self.ask(**asked), 120)

    def ask(self, **asked: Any) -> str:
        parameters = {"path": str(self.folder), **asked}
        with self.clos.record.write() as session:
            made = operations.create(session, "group.import", parameters=parameters, initiated_by="test")
            import_inputs.keep(session, made.id, None, {})
            operation_id = made.id
        self.clos.outbox.operation(operation_id, "group.import")
        return str(operation_id)

    def step(self, operation_id: str, service: str, action: str) -> str | None:
        """How a step on one of Compose's containers stands."""
        target = f"container:{self.before[service]['Id'][:12]}"
        steps = self.clos.operation(operation_id).steps
        return next((each.status for each in steps if (each.action, each.target) == (action, target)), None)

    def as_they_were(self) -> bool:
        """Whether Compose's containers run, the same ones."""
        after = self.compose.inspected()
        same = {name: each["Id"] for name, each in after.items()} == {
            name: each["Id"] for name, each in self.before.items()
        }
        return same and all(each["State"]["Running"] for each in after.values())

    def close(self) -> None:
        if self.clos.record is not None:
            self.clos.ended(self.clos.ask("remove", self.folder.name), 60)
        self.compose.down()


@pytest.fixture
def running(clos: Rig, tmp_path: Path) -> Iterator[Running]:
    made = Running(clos, tmp_path / f"adopt{uuid.uuid4().hex[:8]}")
    yield made
    made.close()


@pytest.fixture
def stubborn(clos: Rig, tmp_path: Path) -> Iterator[Running]:
    """Its `web` does not end when it is asked to."""
    made = Running(clos, tmp_path / f"adopt{uuid.uuid4().hex[:8]}", DEAF)
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
    assert running.as_they_were()
    assert running.clos.service(f"{running.folder.name}-web").desired == "stopped"


def test_a_take_over_that_is_cancelled_is_undone_and_says_what_it_did_not_reach(running: Running) -> None:
    operation_id = running.ask(adopt=True)
    wait_until(lambda: running.step(operation_id, "web", "stop") in ("running", "completed"), 60)
    with running.clos.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = running.clos.ended(operation_id, 60)

    assert (ended.status, (ended.result or {})["runs"]) == ("cancelled", "the containers that Compose made")
    assert running.as_they_were()
    assert {running.step(operation_id, name, "remove") for name in ("web", "db")} == {"skipped"}


def test_once_an_old_container_is_removed_the_new_ones_stay_and_what_is_left_is_told(running: Running) -> None:
    operation_id = running.ask(adopt=True)
    wait_until(lambda: running.step(operation_id, "db", "stop") == "completed", 60)
    engine = client()
    engine.containers.get(running.before["db"]["Id"]).start()  # one that runs is not removed
    engine.close()

    ended = running.clos.ended(operation_id, 60)

    result = ended.result or {}
    assert (ended.status, result["runs"]) == ("failed", "the containers that CLOS made"), ended.error
    assert [each["service"] for each in result["left"]] == ["db"]
    assert set(running.compose.inspected()) == {"db"}
    for name in ("web", "db"):
        service = running.clos.service(f"{running.folder.name}-{name}")
        assert (service.status, service.desired) == ("running", "running")


def _strike(running: Running, operation_id: str, action: str, kills: int, attempt: int) -> None:
    """`kill -9` of so many workers, each as its attempt does that to one of Compose's containers."""
    clos = running.clos
    for which in range(attempt, attempt + kills):

        def is_there(which: int = which) -> bool:
            found = clos.operation(operation_id)
            doing = any(row.action == action and row.status == "running" for row in found.steps)
            return found.attempt == which and doing

        wait_until(is_there, 60, f"a {action} of attempt {which}")
        clos.processes[-1].send_signal(signal.SIGKILL)
        clos.processes[-1].wait(10)
        clos.worker()


def test_a_take_over_that_kills_three_workers_is_undone_and_can_be_retried(stubborn: Running) -> None:
    operation_id = stubborn.ask(adopt=True)
    _strike(stubborn, operation_id, "stop", operations.MAX_CLAIMS, 1)

    ended = stubborn.clos.ended(operation_id, 90)

    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 3)
    assert (ended.result["runs"], "not_undone" in ended.result) == ("the containers that Compose made", False)
    assert stubborn.as_they_were()
    assert stubborn.clos.service(f"{stubborn.folder.name}-web").desired == "stopped"
    assert _both_run(stubborn, stubborn.imports(adopt=True))


def test_what_a_take_over_left_standing_is_started_by_the_next_one(running: Running) -> None:
    """It promised, stopped `web`, and ended as one that nobody could take back."""
    first = running.imports(dry_run=True)
    kept = [
        {"container_id": each["Id"], "name": each["Name"].lstrip("/"), "service": name, "running": True}
        for name, each in running.before.items()
    ]
    promised = {"group": running.folder.name, "project": running.folder.name, "containers": kept, "result": {}}
    with running.clos.record.write() as session:
        row = operations.get(session, first.id)
        row.status, row.group_name, row.result = "failed", running.folder.name, None
        row.compensation = promised
    engine = client()
    engine.containers.get(running.before["web"]["Id"]).stop(timeout=1)
    engine.close()

    assert _both_run(running, running.imports(adopt=True))


def _both_run(running: Running, ended: Operation) -> bool:
    assert ended.status == OperationStatus.COMPLETED.value, ended.error
    assert {each["service"] for each in (ended.result or {})["taken_over"]} == {"web", "db"}
    services = [running.clos.service(f"{running.folder.name}-{name}") for name in ("web", "db")]
    assert [(each.status, each.desired) for each in services] == [("running", "running")] * 2
    return running.compose.inspected() == {}

"""Resolutions that fail, and those that are resumed: what their steps and their end say is what happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ClaimLost, ClosError, StartFailed
from models import conflict_requests, operation_requests, operations, registry_conflicts
from models.operations import Operation
from models.ports import PortRange
from tests.ports import free_run
from tests.unit.worker_kit import Kit, checked, plain, status
from workers import conflicts, runner
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour

# They are bound to see whether they are free: so they are no other test process's.
_PORTS = free_run(20)
OURS = _PORTS[10]


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path)
    with made.record.write() as session:
        session.add(PortRange(project="development", start_port=_PORTS[0], end_port=_PORTS[-1]))
    yield made
    made.close()


class Once(dict[str, ClosError]):
    """Each of these calls fails the first time."""

    def get(self, call: str, default: Any = None) -> Any:
        return self.pop(call, default)


def asked(kit: Kit, service: dict[str, Any], dry_run: bool = False) -> str:
    """A running service that another group's claims the port of is to move away."""
    kit.group("shop", service | {"ports": [{"host_port": OURS}]})
    kit.group("rival", plain("web", ports=[{"host_port": OURS}]))
    assert kit.does("start").status == "completed"
    conflicts.note(kit.context)
    with kit.record.write() as session:
        row = next(each for each in registry_conflicts.open_ones(session) if each.kind != "reserved")
        body = {"strategy": "migrate_service", "service_id": f"shop-{service['name']}", "dry_run": dry_run}
        return conflict_requests.resolve(session, row, body, initiated_by="test").id


def work(kit: Kit, operation_id: str) -> Operation:
    """As the actors do."""
    runner.run(kit.context, operation_id, conflicts.settle)
    return kit.operation(operation_id)


def killed_after(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, operation_id: str, step_id: str, how_it_went: str = "completed"
) -> None:
    """Its worker is killed right after that step is on record, and another one finds it silent."""
    write = getattr(Journal, how_it_went)

    def and_dies(journal: Journal, step: Any, *how: Any, **more: Any) -> Any:
        goes_on = write(journal, step, *how, **more)
        if step.id == step_id:
            raise ClaimLost("killed")
        return goes_on

    with monkeypatch.context() as patch:
        patch.setattr(Journal, how_it_went, and_dies)
        assert work(kit, operation_id).status == "in_progress"
    with kit.record.write() as session:
        operations.silence(operations.get(session, operation_id))
    kit.context = kit.make_context("there")


def test_a_resumed_resolution_waits_for_what_was_restarted_and_fails_if_it_stays_ill(kit, monkeypatch):
    operation_id = asked(kit, checked("api"))
    kit.memory.behave("shop-api", Behaviour(unhealthy=True))
    killed_after(kit, monkeypatch, operation_id, "start:shop-api")
    stops = kit.memory.calls.count(("stop", "shop-api"))

    ended = work(kit, operation_id)

    assert (ended.status, ended.error["code"], ended.error["step"]) == ("failed", "unhealthy", "wait:shop-api")
    assert status(ended)["wait:shop-api"] == "failed"
    assert kit.memory.calls.count(("stop", "shop-api")) == stops


def test_a_resumed_resolution_completes_when_what_was_restarted_is_well_and_restarts_it_no_second_time(
    kit, monkeypatch
):
    operation_id = asked(kit, checked("api"))
    killed_after(kit, monkeypatch, operation_id, "start:shop-api")
    starts = kit.memory.calls.count(("start", "shop-api"))

    ended = work(kit, operation_id)

    assert (ended.status, set(status(ended).values())) == ("completed", {"completed"}), ended.error
    assert kit.memory.calls.count(("start", "shop-api")) == starts
    assert next(each for each in ended.steps if each.id == "wait:shop-api").started_at is not None


def test_a_step_that_failed_for_a_worker_that_was_killed_is_no_failure_of_a_resolution_that_completes(kit, monkeypatch):
    operation_id = asked(kit, plain("api"))
    kit.memory.behave("shop-api", Behaviour(fail_on=Once(stop=StartFailed("a hiccup"))))
    killed_after(kit, monkeypatch, operation_id, "stop:shop-api", "failed")
    assert status(kit.operation(operation_id))["stop:shop-api"] == "failed"
    kit.memory.end("shop-api", 0)

    ended = work(kit, operation_id)

    assert (ended.status, status(ended)["stop:shop-api"]) == ("completed", "completed"), ended.error


def test_a_failed_resolution_shows_what_failed_and_that_what_ran_was_started_again(kit):
    operation_id = asked(kit, plain("api"))
    kit.memory.behave("shop-api", Behaviour(fail_on=Once(start=StartFailed("a hiccup"))))

    ended = work(kit, operation_id)

    assert (ended.status, ended.error["step"]) == ("failed", "start:shop-api")
    assert status(ended) == {
        "stop:shop-api": "completed",
        "migrate_port:shop-api": "completed",
        "start:shop-api": "failed",
        "wait:shop-api": "skipped",
        "start_again:shop-api": "completed",
        "wait_again:shop-api": "completed",
    }
    again = next(each for each in ended.steps if each.id == "start_again:shop-api")
    assert (again.action, again.cause) == ("start", "the resolution failed, and it ran before")
    assert (kit.service("api").status, kit.memory.observe()["shop-api"].alive) == ("running", True)


def test_what_could_not_be_started_again_after_a_failed_resolution_is_told(kit):
    operation_id = asked(kit, plain("api"))
    kit.memory.behave("shop-api", Behaviour(fail_on={"start": StartFailed("it never starts")}))

    ended = work(kit, operation_id)

    assert ended.error["step"] == "start:shop-api"
    assert ended.error["failed_steps"] == ["start:shop-api", "start_again:shop-api"]
    assert status(ended)["start_again:shop-api"] == "failed"


def test_a_dry_run_of_a_resolution_says_what_its_steps_are_expected_to_take(kit):
    operation_id = asked(kit, plain("api"), dry_run=True)

    plan = work(kit, operation_id).result["plan"]

    taken = {each["id"]: each["expected_s"] for each in plan["steps"]}
    assert taken["start:shop-api"] is not None  # it was started once already
    assert taken["migrate_port:shop-api"] is None


def test_a_resolution_that_is_to_ask_and_is_cancelled_right_before_ends_and_asks_nobody(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = asked(kit, plain("api", ports=[{"host_port": OURS}]))
    with kit.record.write() as session:
        operation = operations.get(session, operation_id)
        choices = [{**each, "strategy": "ask"} for each in (operation.parameters or {})["choices"]]
        operation.parameters = (operation.parameters or {}) | {"choices": choices}
    ask = Journal.ask

    def cancelled_then(journal: Journal, question: Any) -> bool:
        with kit.record.write() as session:
            operation = operations.get(session, operation_id)
            if operation.cancel_requested_at is None:
                operation_requests.cancel(session, operation)
        return ask(journal, question)

    monkeypatch.setattr(Journal, "ask", cancelled_then)
    ends = []
    for _ in range(2):
        runner.run(kit.context, operation_id, conflicts.settle)
        ends.append(kit.operation(operation_id).status)

    assert ends == ["pending", "cancelled"]
    assert kit.operation(operation_id).question is None
    assert kit.locks() == []

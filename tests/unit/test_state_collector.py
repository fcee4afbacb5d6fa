from datetime import timedelta

import pytest
from sqlalchemy import select

from domain.errors import EngineUnreachable
from domain.observation import Instance, Phase
from domain.states import OperationStatus
from models import operations
from models.base import now
from models.operations import Operation
from models.services import Service
from tests.unit.worker_kit import Kit, checked, plain
from workers import state
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _look(kit: Kit):
    kit.context.observer.changed("process")
    kit.context.observer.changed("docker")
    state.collect(kit.context)


def _restarts(kit: Kit):
    return [message.args[0] for message in kit.sent()]


@pytest.mark.parametrize(
    ("policy", "exit_code", "again"),
    [("no", 1, False), ("on-failure", 1, True), ("on-failure", 0, False), ("always", 0, True),
     ("unless-stopped", 1, True)],
)  # fmt: skip
def test_what_ended_by_itself_is_started_again_as_its_policy_says(kit, policy, exit_code, again):
    kit.group("shop", plain("web", restart_policy=policy))
    kit.does("start")
    kit.memory.end("shop-web", exit_code)

    _look(kit)

    sent = _restarts(kit)
    assert bool(sent) is again
    assert kit.service("web").restarts == int(again)
    assert kit.service("web").status == ("failed" if exit_code else "stopped")
    if again:
        assert kit.run(sent[0]).status == "completed"
        assert kit.service("web").status == "running"


def test_deaths_in_a_row_are_answered_with_a_growing_back_off(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    waits = []
    for _ in range(4):
        kit.memory.end("shop-web", 1)
        _look(kit)
        sent = _restarts(kit)
        if not sent:
            waits.append((kit.service("web").restart_not_before - now()).total_seconds())
            assert kit.service("web").waiting_for[0]["kind"] == "slot"
            kit.seen("web", restart_not_before=now() - timedelta(seconds=1))
            _look(kit)
            sent = _restarts(kit)
        assert kit.run(sent[0]).status == "completed"

    assert len(waits) == 3
    assert waits == sorted(waits)
    assert waits[-1] > 2 * waits[0]
    assert kit.service("web").restarts == 4


def test_a_restart_that_does_not_come_up_is_tried_again(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.behave("shop-web", Behaviour(ends_with=1))
    kit.memory.end("shop-web", 1)
    _look(kit)
    assert kit.run(_restarts(kit)[0]).status == "failed"

    _look(kit)
    assert kit.service("web").restart_not_before is not None
    kit.seen("web", restart_not_before=now() - timedelta(seconds=1))
    _look(kit)
    assert len(_restarts(kit)) == 1


def test_a_start_that_failed_is_left_to_the_person_who_asked(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(ends_with=1))
    assert kit.does("start").status == "failed"

    _look(kit)

    assert _restarts(kit) == []
    assert kit.service("web").status == "failed"


def test_having_run_long_gives_a_clean_sheet(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.seen("web", crash_count=5)
    kit.memory._instances["shop-web"] = Instance(
        "shop-web", Phase.RUNNING, "memory-1", started_at=now() - timedelta(seconds=120)
    )
    _look(kit)
    assert kit.service("web").crash_count == 0


def test_what_was_stopped_or_removed_behind_our_back_is_noticed(kit):
    kit.group("shop", plain("web", restart_policy="no"), plain("api", restart_policy="no"))
    kit.does("start")
    kit.memory.end("shop-web", 143)
    kit.memory._instances.pop("shop-api")

    _look(kit)

    assert (kit.service("web").status, kit.service("web").exit_code) == ("failed", 143)
    assert (kit.service("api").status, kit.service("api").down_cause) == ("stopped", "person")
    reasons = [event["data"]["reason"] for event in kit.events("service.status_changed")][-2:]
    assert sorted(reasons) == ["it ended with exit code 143", "it is gone"]


def test_what_was_started_behind_our_back_is_noticed(kit):
    kit.group("shop", checked("web", runtime="docker", image="x"))
    with kit.record.read() as session:
        spec = session.get(Service, "shop-web").spec()
    kit.memory.start(spec)

    _look(kit)

    assert (kit.service("web").status, kit.service("web").health_status) == ("running", "starting")


def test_an_engine_that_does_not_answer_leaves_its_services_unknown_until_it_does(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.behave("*", Behaviour(fail_on={"observe": EngineUnreachable("down")}))
    _look(kit)
    assert (kit.service("web").status, kit.service("web").waiting_for[0]["kind"]) == ("unknown", "engine")

    kit.memory.behave("*", Behaviour())
    _look(kit)
    assert (kit.service("web").status, kit.service("web").waiting_for) == ("running", None)
    assert _restarts(kit) == []


def test_what_an_operation_holds_is_left_to_it(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.ask("stop")
    kit.memory.end("shop-web", 1)

    _look(kit)

    assert kit.service("web").status == "running"
    assert _restarts(kit) == []


def test_a_rival_operation_on_what_it_needs_puts_the_repair_off(kit):
    kit.group("shop", plain("db"), plain("web", "db"))
    kit.does("start")
    kit.memory.end("shop-web", 1)
    with kit.record.write() as session:
        rival = operations.create(session, "service.restart", targets=["service:shop-db"], service_id="shop-db")
        rival_id = rival.id

    _look(kit)
    assert _restarts(kit) == []
    assert kit.service("web").restarts == 0

    with kit.record.write() as session:
        operations.finish(session, session.get(Operation, rival_id), OperationStatus.CANCELLED)
    _look(kit)
    assert kit.run(_restarts(kit)[0]).status == "completed"
    assert kit.service("web").restarts == 1


def test_a_process_that_runs_although_it_was_stopped_is_stopped_again(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    with kit.record.write() as session:
        session.get(Service, "shop-web").desired = "stopped"

    _look(kit)

    with kit.record.read() as session:
        stops = session.scalars(select(Operation).where(Operation.type == "service.stop")).all()
    assert [(stop.service_id, stop.initiated_by) for stop in stops] == [("shop-web", "system:state")]


def test_an_unchanged_world_writes_no_event(kit):
    kit.group("shop", checked("web"), plain("api"))
    kit.does("start")
    before = len(kit.events())

    _look(kit)
    _look(kit)

    assert len(kit.events()) == before

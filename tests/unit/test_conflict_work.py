"""What workers do about conflicts: before a start, after one that failed, by request and by policy."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.configuration import Conflicts
from domain.errors import ClaimLost
from domain.resolving import Decision
from domain.states import OperationStatus
from models import conflict_requests, operation_requests, operations, port_moves, questions, registry_conflicts
from models.base import now
from models.groups import Group
from models.operations import Operation
from models.ports import PortConflict, PortLease, PortRange
from tests.ports import free_run
from tests.unit.test_update_operations import _again
from tests.unit.worker_kit import Kit, plain, status
from workers import conflicts, runner, watchdog
from workers.journal import Journal
from workers.ports import look

STRANGER = {"kind": "process", "running": True, "name": "postgres", "pid": 812, "service_id": None, "own": False}
# They are bound to see whether they are free: so they are no other test process's.
_PORTS = free_run(60)
FIRST, LAST = _PORTS[0], _PORTS[-1]
OURS, ELSE = _PORTS[20], _PORTS[40]


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path)
    with made.record.write() as session:
        session.add(PortRange(project="development", start_port=FIRST, end_port=LAST))
    yield made
    made.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this test's own process holds."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def on(port: int, name: str = "api", **more: Any) -> dict[str, Any]:
    return plain(name, ports=[{"host_port": port}], **more)


def work(kit: Kit, operation_id: str) -> Operation:
    """As the actors do."""
    runner.run(kit.context, operation_id, lambda *p: conflicts.WORK.get(p[1].type, runner.carry_out)(*p))
    return kit.operation(operation_id)


def open_conflicts(kit: Kit) -> list[dict[str, Any]]:
    with kit.record.read() as session:
        rows = registry_conflicts.open_ones(session)
        return [registry_conflicts.shown(row) for row in rows if row.kind != "reserved"]


def resolve(kit: Kit, **body: Any) -> Operation:
    conflict = open_conflicts(kit)[0]
    with kit.record.write() as session:
        row = registry_conflicts.get(session, conflict["id"])
        made = conflict_requests.resolve(session, row, body, initiated_by="test")
        operation_id = made.id
    return work(kit, operation_id)


def undo(kit: Kit, conflict_id: int) -> Operation:
    with kit.record.write() as session:
        row = registry_conflicts.get(session, conflict_id)
        operation_id = conflict_requests.undo(session, row, initiated_by="test").id
    return work(kit, operation_id)


def leased(kit: Kit) -> set[int]:
    with kit.record.read() as session:
        return {each.port for each in session.query(PortLease)}


# Before a start, and when a start runs into it


def test_a_port_that_only_the_start_finds_taken_is_moved_away_from_where_policy_says_so(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.memory.hold(OURS, STRANGER)
    done = kit.does("start", on_conflict="migrate")

    assert (done.status, kit.service("api").port) == ("completed", FIRST)
    assert status(done) == {
        "start:shop-api": "completed",
        "wait:shop-api": "completed",
        "migrate_port:shop-api": "completed",
    }
    assert leased(kit) == {FIRST}
    assert [(each["from_port"], each["port"]) for each in done.result["resolutions"]] == [(OURS, FIRST)]
    (told,) = kit.events("port.conflict_resolved")
    assert told["data"]["resolution"] == {
        "strategy": "migrate_service", "from_port": OURS, "to_port": FIRST, "operation_id": done.id,
    }  # fmt: skip


def test_without_a_word_the_start_fails_with_the_holder_named_and_once(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.memory.hold(OURS, STRANGER)
    done = kit.does("start")

    assert (done.status, done.error["code"], done.error["holder"]["pid"]) == ("failed", "port_held", 812)
    assert kit.memory.calls.count(("start", "shop-api")) == 1
    assert [(each["kind"], each["holder"]["pid"]) for each in open_conflicts(kit)] == [("foreign_process", 812)]


def test_a_port_that_is_taken_again_and_again_is_given_up_after_two_new_plans(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    for port in range(FIRST, LAST + 1):
        kit.memory.hold(port, STRANGER)
    done = kit.does("start", on_conflict="migrate")

    assert (done.status, done.error["code"]) == ("failed", "port_held")
    assert kit.memory.calls.count(("start", "shop-api")) == 3


def test_a_port_that_is_seen_to_be_held_is_resolved_before_anything_is_started(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken), on(OURS, "web"))
    done = kit.does("start", on_conflict="migrate")

    assert done.status == "completed", done.error
    assert kit.service("api").port == FIRST
    assert kit.service("web").port == OURS
    assert min(done.steps, key=lambda each: each.position).id == "migrate_port:shop-api"


def test_a_dry_run_shows_the_conflict_and_the_resolution_and_changes_nothing(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    plan = kit.does("start", on_conflict="migrate", dry_run=True).result["plan"]

    assert plan["steps"][0]["id"] == "migrate_port:shop-api"
    assert [each["port"] for each in plan["conflicts"]] == [taken]
    assert [each["strategy"] for each in plan["resolutions"]] == ["migrate_service"]
    assert kit.service("api").port == taken
    asked = kit.does("start", on_conflict="ask", dry_run=True)
    assert (asked.status, asked.result["plan"]["resolutions"]) == ("completed", [])


def test_where_the_range_is_full_the_start_fails_and_says_who_holds_the_port(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    with kit.record.write() as session:
        for row in session.query(PortRange):
            session.delete(row)
    kit.memory.hold(taken, STRANGER)
    done = kit.does("start", on_conflict="migrate")
    assert (done.status, done.error["code"]) == ("failed", "port_held")


def test_of_two_services_of_one_start_that_claim_one_port_the_one_without_the_lease_moves(kit: Kit) -> None:
    kit.group("shop", on(OURS), on(OURS, "web"))
    done = kit.does("start", on_conflict="migrate")

    assert done.status == "completed", done.error
    assert {kit.service("api").port, kit.service("web").port} == {OURS, FIRST}


def test_a_groups_policy_resolves_without_a_request_and_a_request_overrules_it(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    with kit.record.write() as session:
        session.get_one(Group, "shop").conflicts = {"auto_resolve": True}
    kit.memory.hold(taken, STRANGER)
    assert kit.does("start", on_conflict="fail").status == "failed"
    assert kit.does("start").status == "completed"


# Questions


def test_a_question_names_the_holder_and_the_choices_and_holds_no_worker(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    asked = kit.does("start", on_conflict="ask")

    assert (asked.status, asked.attempt, asked.heartbeat_at) == ("waiting", 0, None)
    assert [each["choice"] for each in asked.question["choices"]] == [
        "migrate_service", "change_port", "kill_process", "ignore",
    ]  # fmt: skip
    assert sorted(kit.locks()) == ["group:shop", "service:shop-api"]
    (told,) = kit.events("operation.waiting")
    assert told["data"]["question"]["choices"] == asked.question["choices"]
    assert kit.service("api").waiting_for[0]["kind"] == "answer"


# The ports are others in each test process, the names of the tests are not.
@pytest.mark.parametrize(
    ("choice", "port"), [("migrate_service", FIRST), (f"change_port:{ELSE}", ELSE)], ids=["migrate", "change"]
)
def test_the_answer_is_what_is_done(kit: Kit, taken: int, choice: str, port: int) -> None:
    kit.group("shop", on(taken))
    asked = kit.does("start", on_conflict="ask")
    with kit.record.write() as session:
        questions.answer(session, session.get_one(Operation, asked.id), choice)
    done = kit.run(asked.id)

    assert (done.status, kit.service("api").port, done.question) == ("completed", port, None)


def test_an_answer_to_leave_it_lets_the_start_fail_as_it_would_have(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    kit.memory.hold(taken, STRANGER)
    asked = kit.does("start", on_conflict="ask")
    with kit.record.write() as session:
        questions.answer(session, session.get_one(Operation, asked.id), "ignore")
    assert kit.run(asked.id).error["code"] == "port_held"


@pytest.mark.parametrize(("on_timeout", "expected"), [("fail", "failed"), ("migrate", "completed")])
def test_a_question_whose_time_is_up_is_answered_by_policy(
    kit: Kit, taken: int, on_timeout: str, expected: str
) -> None:
    kit.group("shop", on(taken))
    kit.memory.hold(taken, STRANGER)
    object.__setattr__(kit.context, "conflicts", Conflicts(on_timeout=on_timeout))
    asked = kit.does("start", on_conflict="ask")
    kit.change(asked.id, question=asked.question | {"expires_at": (now() - timedelta(seconds=1)).isoformat()})
    watchdog.send_overdue(kit.context, queue_is_empty=True)
    assert kit.operation(asked.id).status == OperationStatus.PENDING

    assert kit.run(asked.id).status == expected


# By request


def test_a_resolution_moves_a_running_service_and_an_undo_moves_it_back(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.group("other", on(OURS))
    assert kit.does("start").status == "completed"
    conflicts.note(kit.context)
    conflict = open_conflicts(kit)[0]
    done = resolve(kit, strategy="migrate_service", service_id="shop-api")

    assert done.status == "completed", done.error
    assert [step.id for step in sorted(done.steps, key=lambda each: each.position)] == [
        "stop:shop-api", "migrate_port:shop-api", "start:shop-api", "wait:shop-api",
    ]  # fmt: skip
    assert kit.service("api").port == FIRST
    assert open_conflicts(kit) == []
    with pytest.raises(conflict_requests.UndoImpossible):
        undo(kit, conflict["id"])  # the other one has inherited the port
    assert kit.does("remove", "other").status == "completed"
    back = undo(kit, conflict["id"])
    assert (back.status, kit.service("api").port) == ("completed", OURS)
    assert kit.memory.observe()["shop-api"].alive


def test_stopping_the_other_service_frees_the_port_for_the_one_that_waits(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.group("other", on(OURS))
    assert kit.does("start").status == "completed"
    assert kit.does("start", "other").error["code"] == "port_held"
    conflicts.note(kit.context)
    done = resolve(kit, strategy="stop_container")

    assert done.status == "completed", done.error
    assert not kit.memory.observe()["shop-api"].alive
    assert kit.memory.observe()["other-api"].alive


def test_what_is_ignored_is_not_told_of_again_while_it_lasts(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    conflicts.note(kit.context)
    assert resolve(kit, strategy="ignore").status == "completed"
    conflicts.note(kit.context)

    assert [each["status"] for each in open_conflicts(kit)] == ["ignored"]
    assert (
        len([each for each in kit.events("port.conflict_detected") if each["data"]["kind"] == "foreign_process"]) == 1
    )


def test_to_ask_about_a_conflict_is_an_operation_that_waits(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    conflicts.note(kit.context)
    asked = resolve(kit, strategy="ask")
    assert asked.status == "waiting"
    with kit.record.write() as session:
        questions.answer(session, session.get_one(Operation, asked.id), "migrate_service")
    assert (work(kit, asked.id).status, kit.service("api").port) == ("completed", FIRST)


def test_a_resolution_whose_conflict_is_gone_by_then_fails_and_changes_nothing(kit: Kit) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        kit.group("shop", on(port))
        conflicts.note(kit.context)
        with kit.record.write() as session:
            row = registry_conflicts.get(session, open_conflicts_of(session))
            operation_id = conflict_requests.resolve(
                session, row, {"strategy": "migrate_service"}, initiated_by="test"
            ).id
    done = work(kit, operation_id)
    assert (done.status, done.error["code"], kit.service("api").port) == ("failed", "conflict_closed", port)


def open_conflicts_of(session: Any) -> int:
    return next(row.id for row in registry_conflicts.open_ones(session) if row.kind != "reserved")


def test_a_scan_says_what_began_and_what_ended(kit: Kit, taken: int) -> None:
    kit.group("shop", on(taken))
    with kit.record.write() as session:
        operation_id = conflict_requests.scan(session, initiated_by="test").id
    runner.run(kit.context, operation_id, look)
    done = kit.operation(operation_id)
    held = [each for each in done.result["conflicts"] if each["kind"] == "foreign_process"]

    assert done.status == "completed"
    assert [each["port"] for each in held] == [taken]
    assert held[0]["id"] in done.result["opened"]


def test_the_scheduled_look_resolves_what_a_service_waits_for_and_leaves_the_rest(kit: Kit, taken: int) -> None:
    object.__setattr__(kit.context, "conflicts", Conflicts(auto_resolve=True))
    kit.group("shop", on(taken))
    kit.group("idle", on(taken))
    kit.memory.hold(taken, STRANGER)
    assert kit.does("start", on_conflict="fail").status == "failed"
    conflicts.tick(kit.context)
    (message,) = [each for each in kit.sent() if each.args]
    done = work(kit, message.args[0])

    assert (done.type, done.status, done.initiated_by) == ("conflict.resolve", "completed", "system:conflicts")
    assert kit.service("api").port == FIRST
    assert kit.memory.observe()["shop-api"].alive
    assert kit.service("api", "idle").port == taken
    conflicts.tick(kit.context)
    assert kit.sent() == []


# What a review had found


def test_a_running_service_of_another_group_is_moved_away_from(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.group("other", on(OURS))
    assert kit.does("start").status == "completed"
    planned = kit.does("start", "other", on_conflict="migrate", dry_run=True).result["plan"]
    assert planned["steps"][0]["id"] == "migrate_port:other-api"
    assert kit.does("start", "other", on_conflict="migrate").status == "completed"

    assert (kit.service("api").port, kit.service("api", "other").port) == (OURS, FIRST)
    asked = kit.does("restart", "other", on_conflict="ask")
    assert asked.status == "completed"  # nothing is in its way any more


def test_an_answer_about_one_holder_is_none_about_the_next(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.memory.hold(OURS, STRANGER)
    object.__setattr__(kit.context, "conflicts", Conflicts(on_start="ask"))
    asked = kit.does("start")
    assert (asked.status, asked.question["choices"][2]["confirm"]) == ("waiting", "postgres (pid 812)")
    with kit.record.write() as session:
        questions.answer(session, session.get_one(Operation, asked.id), "kill_process")
        row = next(each for each in registry_conflicts.open_ones(session) if each.kind == "foreign_process")
        row.holder = STRANGER | {"pid": 813, "name": "redis"}
    kit.memory.hold(OURS, STRANGER | {"pid": 813, "name": "redis"})
    again = kit.run(asked.id)

    assert again.status == "waiting"
    assert again.question["choices"][2]["confirm"] == "redis (pid 813)"


def test_what_was_not_chosen_is_neither_stopped_nor_ended(kit: Kit) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        kit.group("shop", on(holder.getsockname()[1]))
        conflicts.note(kit.context)
        with kit.record.write() as session:
            row = registry_conflicts.get(session, open_conflicts_of(session))
            body = {"strategy": "kill_process", "confirm": str(row.holder["pid"])}
            made = conflict_requests.resolve(session, row, body, initiated_by="test")
            made.parameters = made.parameters | {"choices": [made.parameters["choices"][0] | {"holder": "4711@1"}]}
            operation_id = made.id
        done = work(kit, operation_id)
    assert (done.status, done.error["code"]) == ("failed", "holder_changed")


def test_an_undo_whose_port_is_taken_at_the_last_moment_stops_nothing(kit: Kit) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    kit.group("shop", on(port))
    kit.memory.hold(port, STRANGER)
    assert kit.does("start", on_conflict="migrate").status == "completed"
    moved = kit.service("api").port
    with kit.record.read() as session:
        conflict_id = next(row.id for row in session.query(PortConflict) if row.undo)
    with kit.record.write() as session:
        row = registry_conflicts.get(session, conflict_id)
        operation_id = conflict_requests.undo(session, row, initiated_by="test").id
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", port))
        taker.listen()
        done = work(kit, operation_id)

    assert (done.status, done.error["code"], list(done.steps)) == ("failed", "port_held", [])
    assert kit.memory.observe()["shop-api"].alive
    assert ("stop", "shop-api") not in kit.memory.calls
    assert kit.service("api").port == moved


def test_an_undo_that_is_taken_over_goes_on_where_it_was(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.memory.hold(OURS, STRANGER)
    assert kit.does("start", on_conflict="migrate").status == "completed"
    with kit.record.write() as session:
        row = next(row for row in session.query(PortConflict) if row.undo)
        restores = list(row.undo["restore"])
        operation_id = conflict_requests.undo(session, row, initiated_by="test").id
    kit.memory.hold(OURS, None)
    kit.memory.end("shop-api", 143)
    with kit.record.write() as session:  # a worker had stopped it and moved it back when it was killed
        decision = Decision(restarts=("shop-api",), restore=tuple(restores))
        operation = session.get_one(Operation, operation_id)
        operation.parameters = operation.parameters | {"decision": decision.as_dict()}
        port_moves.restore(session, restores[0])
    done = work(kit, operation_id)

    assert done.status == "completed", done.error
    assert (kit.service("api").port, kit.memory.observe()["shop-api"].alive) == (OURS, True)


def test_the_move_of_a_service_without_the_lease_can_be_undone(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.group("other", on(OURS))
    conflicts.note(kit.context)
    conflict_id = open_conflicts(kit)[0]["id"]
    assert resolve(kit, strategy="migrate_service").status == "completed"
    assert kit.service("api", "other").port == FIRST
    assert undo(kit, conflict_id).status == "completed"

    assert (kit.service("api").port, kit.service("api", "other").port) == (OURS, OURS)
    assert leased(kit) == {OURS}


def test_a_cancelled_request_to_stop_a_service_leaves_what_is_wanted_of_it(kit: Kit) -> None:
    kit.group("shop", on(OURS))
    kit.group("other", on(OURS))
    assert kit.does("start").status == "completed"
    conflicts.note(kit.context)
    with kit.record.write() as session:
        row = registry_conflicts.get(session, open_conflicts_of(session))
        conflict_requests.resolve(session, row, {"strategy": "stop_container"}, initiated_by="test")
    assert kit.service("api").desired == "running"


def test_a_conflict_with_a_holder_that_nobody_can_see_lasts_as_long_as_a_bind_fails(kit: Kit) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen: no look shows it
        port = bound.getsockname()[1]
        kit.group("shop", on(port))
        kit.memory.hold(port, {"kind": "unknown", "running": True, "name": None, "pid": None})
        assert kit.does("start").error["code"] == "port_held"
        (first,) = open_conflicts(kit)
        conflicts.tick(kit.context)
        conflicts.note(kit.context)
        assert [each["id"] for each in open_conflicts(kit)] == [first["id"]]
    conflicts.note(kit.context)
    assert open_conflicts(kit) == []


def test_a_move_that_nobody_had_begun_when_its_worker_was_killed_is_not_told_as_done(kit, taken, monkeypatch):
    kit.group("shop", on(taken))
    operation_id = kit.ask("start", on_conflict="migrate")
    begin = Journal.begin

    def dies(journal, *plan, **how):
        begin(journal, *plan, **how)
        raise ClaimLost("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", dies)
        kit.run(operation_id)
    assert status(kit.operation(operation_id))["migrate_port:shop-api"] == "pending"
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))

    ended = _again(kit, operation_id)

    assert (ended.status, ended.result["left"]) == ("cancelled", [])
    assert "migrate_port:shop-api" not in status(ended)

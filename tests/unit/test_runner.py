import threading
import time
from datetime import timedelta

import pytest

from domain.errors import DatabaseBusy, EngineUnreachable, ImageMissing, StartFailed
from domain.observation import Phase
from models import operation_requests, operations
from models.base import now
from models.operations import Operation
from models.record import Record
from models.services import Service
from tests.unit.worker_kit import Kit, checked, every, plain, status
from tests.waiting import wait_until
from workers import runner
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _cancel(kit: Kit, operation_id: str) -> None:
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def _while_running(kit: Kit, operation_id: str) -> threading.Thread:
    thread = threading.Thread(target=runner.run, args=(kit.context, operation_id))
    thread.start()
    return thread


def test_a_group_starts_in_the_order_of_its_needs_and_is_recorded_as_it_is(kit):
    kit.group("shop", checked("web", "api"), checked("api", "db"), plain("db"))

    ended = kit.does("start")

    assert ended.status == "completed", ended.error
    assert ended.progress == 100
    assert [call for call in kit.memory.calls if call[0] == "start"] == [
        ("start", "shop-db"), ("start", "shop-api"), ("start", "shop-web")]  # fmt: skip
    assert {kit.service(name).status for name in ("web", "api", "db")} == {"running"}
    assert kit.service("web").health_status == "healthy"
    assert kit.service("web").waiting_for is None
    assert kit.locks() == []


def test_who_waits_for_health_takes_no_place_from_who_has_something_to_do(tmp_path):
    kit = Kit(tmp_path, parallel=1)
    ill = [checked(f"s{number}", health_check=every(30.0, start_period=30.0)) for number in range(3)]
    kit.group("shop", *ill)
    for number in range(3):
        kit.memory.behave(f"shop-s{number}", Behaviour(unhealthy=True))
    operation_id = kit.ask("start")
    thread = _while_running(kit, operation_id)
    wait_until(lambda: len([call for call in kit.memory.calls if call[0] == "start"]) == 3, 5, "all starts")
    for number in range(3):
        kit.memory.behave(f"shop-s{number}", Behaviour())
    thread.join(20)
    assert kit.operation(operation_id).status == "completed"
    kit.close()


def test_a_second_start_finds_nothing_to_do(kit):
    kit.group("shop", checked("web"))
    kit.does("start")

    again = kit.does("start")

    assert (again.status, again.steps, again.result) == ("completed", [], {"changed": 0, "steps": 0})


def test_a_stop_and_a_restart_do_what_they_say(kit):
    kit.group("shop", checked("web", "api"), checked("api"))
    kit.does("start")
    before = kit.memory.observe()["shop-api"].ref

    restarted = kit.does("restart")
    assert restarted.status == "completed", restarted.error
    assert kit.memory.observe()["shop-api"].ref != before or kit.memory.observe()["shop-api"].alive

    stopped = kit.does("stop")
    assert stopped.status == "completed"
    assert [call[1] for call in kit.memory.calls if call[0] == "stop"][-2:] == ["shop-web", "shop-api"]
    assert {kit.service(name).status for name in ("web", "api")} == {"stopped"}


def test_a_failed_step_skips_what_needs_it_and_names_it(kit):
    kit.group("shop", checked("web", "api"), checked("api"), plain("other"))
    kit.memory.behave("shop-api", Behaviour(fail_on={"start": StartFailed("no such program", hint="install it")}))

    failed = kit.does("start")

    assert failed.status == "failed"
    assert failed.error["code"] == "start_failed"
    assert failed.error["step"] == "start:shop-api"
    assert failed.error["failed_steps"] == ["start:shop-api"]
    steps = {step.id: step for step in failed.steps}
    assert steps["start:shop-web"].status == "skipped"
    assert steps["wait:shop-web"].error["step"] == "start:shop-api"
    assert steps["wait:shop-other"].status == "completed"
    assert kit.service("api").status == "failed"
    assert kit.service("web").waiting_for[0]["ref"] == "shop-api"
    assert kit.locks() == []


def test_an_unhealthy_service_is_recorded_as_unhealthy_and_not_as_starting(kit):
    kit.group("shop", checked("web"))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))

    failed = kit.does("start")

    assert failed.error["code"] == "unhealthy"
    assert (kit.service("web").status, kit.service("web").health_status) == ("unhealthy", "unhealthy")


def test_a_service_that_ends_at_once_fails_with_exit_code_and_lines(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(ends_with=3))

    failed = kit.does("start")

    assert failed.error["exit_code"] == 3
    assert failed.error["logs"] == ["shop-web started"]
    assert (kit.service("web").status, kit.service("web").exit_code) == ("failed", 3)


def test_what_dies_after_its_wait_fails_its_step_in_the_last_look(kit):
    kit.group("shop", plain("early"), checked("late", "early", depends_on=[{"service": "early"}]))
    kit.memory.behave("shop-late", Behaviour(delay_s=0.2))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: status(kit.operation(operation_id)).get("wait:shop-early") == "completed", 5)
    kit.memory.end("shop-early", 9)
    thread.join(10)

    ended = kit.operation(operation_id)
    assert ended.status == "failed"
    assert ended.error["step"] == "wait:shop-early"
    assert ended.error["exit_code"] == 9
    assert kit.service("late").status == "running"


def test_an_engine_that_cannot_be_asked_fails_the_operation_with_its_hint(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("*", Behaviour(fail_on={"observe": EngineUnreachable("no engine", hint="start Docker")}))

    failed = kit.does("start")

    assert (failed.status, failed.error["code"], failed.error["hint"]) == (
        "failed",
        "engine_unreachable",
        "start Docker",
    )
    assert kit.locks() == []


def test_a_dry_run_changes_nothing_and_shows_its_plan(kit):
    kit.group("shop", checked("web", "api"), checked("api"))

    ended = kit.does("start", dry_run=True)

    assert ended.status == "completed"
    assert ended.result["plan"]["steps"][0]["id"] == "start:shop-api"
    assert kit.memory.observe() == {}
    assert ended.steps == []


def test_a_missing_image_fails_the_pull_and_skips_the_rest(kit):
    kit.group("shop", {"name": "web", "runtime": "docker", "image": "nope:1"})
    kit.memory.behave("shop-web", Behaviour(fail_on={"prepare": ImageMissing("no such image", hint="push it")}))

    failed = kit.does("start")

    assert failed.error["code"] == "image_missing"
    assert status(failed) == {
        "pull:shop-web": "failed", "create:shop-web": "skipped", "start:shop-web": "skipped",
        "wait:shop-web": "skipped"}  # fmt: skip


def test_a_pull_tells_its_progress(kit):
    kit.group("shop", {"name": "web", "runtime": "docker", "image": "x:1"})

    assert kit.does("start").status == "completed"

    notes = [e["data"]["step"].get("note") for e in kit.events("operation.progress") if "step" in e["data"]]
    assert "shop-web prepared" in notes


def test_an_operation_without_services_completes(kit):
    kit.group("empty")

    ended = kit.does("start", "empty")

    assert (ended.status, ended.steps) == ("completed", [])


def test_a_service_that_was_deleted_meanwhile_is_left_out(kit):
    kit.group("shop", plain("web"), plain("gone"))
    operation_id = kit.ask("start")
    with kit.record.write() as session:
        session.delete(session.get(Service, "shop-gone"))

    ended = kit.run(operation_id)

    assert ended.status == "completed"
    assert status(ended) == {"start:shop-web": "completed", "wait:shop-web": "completed"}


def test_a_service_that_is_deleted_during_its_operation_does_not_break_it(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(delay_s=0.2))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: ("start", "shop-web") in kit.memory.calls, 5)
    with kit.record.write() as session:
        session.delete(session.get(Service, "shop-web"))
    thread.join(10)

    assert kit.operation(operation_id).status == "completed"


def test_a_removed_group_is_forgotten_with_the_end_of_its_operation(kit):
    kit.group("shop", plain("web"))
    kit.does("start")

    ended = kit.does("remove")

    assert ended.status == "completed", ended.error
    assert kit.memory.observe() == {}
    with kit.record.read() as session:
        assert session.get(Service, "shop-web") is None


def test_a_removal_whose_worker_died_after_the_deletion_completes_when_it_is_continued(kit):
    kit.group("shop", plain("web"))
    operation_id = kit.ask("remove")
    with kit.record.write() as session:
        session.delete(session.get(Service, "shop-web"))
    with kit.record.write() as session:
        from models import groups

        session.delete(groups.get(session, "shop"))

    assert kit.run(operation_id).status == "completed"


def test_a_claimed_or_ended_operation_is_dropped(kit):
    kit.group("shop", plain("web"))
    operation_id = kit.ask("start")
    kit.run(operation_id)
    calls = list(kit.memory.calls)

    again = kit.run(operation_id)
    runner.run(kit.context, "no-such-operation")

    assert again.attempt == 1
    assert kit.memory.calls == calls


def test_a_cancel_between_steps_skips_what_was_not_reached(kit):
    kit.group("shop", checked("web", "api"), checked("api"))
    operation_id = kit.ask("start")
    kit.memory.behave("shop-api", Behaviour(delay_s=0.3))
    thread = _while_running(kit, operation_id)
    wait_until(lambda: ("start", "shop-api") in kit.memory.calls, 5)
    _cancel(kit, operation_id)
    kit.context.claims._beat()
    thread.join(10)

    ended = kit.operation(operation_id)
    assert ended.status == "cancelled"
    assert ended.error["code"] == "cancelled"
    assert status(ended)["start:shop-api"] == "completed"
    assert status(ended)["start:shop-web"] == "skipped"
    assert kit.service("api").status == "running"
    assert kit.service("web").status == "stopped"
    assert kit.locks() == []


def test_a_cancel_ends_a_long_wait(kit):
    kit.group("shop", checked("web", health_check=every(30)))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: status(kit.operation(operation_id)).get("wait:shop-web") == "running", 5)
    began = time.monotonic()
    _cancel(kit, operation_id)
    kit.context.claims._beat()
    thread.join(10)

    assert time.monotonic() - began < 3
    ended = kit.operation(operation_id)
    assert (ended.status, status(ended)["wait:shop-web"]) == ("cancelled", "skipped")
    assert kit.service("web").status == "running"


def test_a_death_during_a_long_wait_is_noticed_before_the_next_check(kit):
    kit.group("shop", checked("web", health_check=every(30)))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: status(kit.operation(operation_id)).get("wait:shop-web") == "running", 5)
    kit.memory.end("shop-web", 4)
    thread.join(5)

    assert kit.operation(operation_id).error["exit_code"] == 4


def test_a_cancel_that_comes_when_all_is_done_does_not_deny_it(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    operation_id = kit.ask("stop")
    kit.memory.behave("shop-web", Behaviour(delay_s=0.2))
    thread = _while_running(kit, operation_id)
    wait_until(lambda: ("stop", "shop-web") in kit.memory.calls, 5)
    _cancel(kit, operation_id)
    kit.context.claims._beat()
    thread.join(5)

    assert kit.operation(operation_id).status == "completed"


def test_a_cancel_before_the_claim_ends_it_at_once(kit):
    kit.group("shop", plain("web"))
    operation_id = kit.ask("start")
    _cancel(kit, operation_id)

    ended = kit.run(operation_id)

    assert (ended.status, ended.attempt) == ("cancelled", 0)
    assert kit.memory.calls == []
    assert kit.locks() == []


def test_a_cancelled_operation_of_a_dead_worker_ends_cancelled(kit):
    kit.group("shop", plain("web"))
    operation_id = kit.ask("start")
    rival = kit.make_context("dead")
    assert rival.claims.take(operation_id) is not None
    _cancel(kit, operation_id)
    kit.change(operation_id, heartbeat_at=now() - timedelta(seconds=60))

    ended = kit.run(operation_id)

    assert (ended.status, ended.attempt) == ("cancelled", 2)
    assert set(status(ended).values()) == {"skipped"}


def test_a_stopping_worker_hands_back_and_the_next_one_continues_without_counting_it(kit):
    kit.group("shop", checked("web", health_check=every(30)))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: status(kit.operation(operation_id)).get("wait:shop-web") == "running", 5)
    kit.stopping.set()
    thread.join(5)

    handed = kit.operation(operation_id)
    assert (handed.status, handed.attempt, handed.claimed_by) == ("pending", 0, None)
    assert [message.args[0] for message in kit.sent()] == [operation_id]
    assert kit.service("web").pid is None
    kit.stopping.clear()
    kit.memory.behave("shop-web", Behaviour())

    ended = kit.run(operation_id)

    assert (ended.status, ended.attempt) == ("completed", 1)
    assert [call for call in kit.memory.calls if call[0] == "start"] == [("start", "shop-web")]


def test_a_stopping_worker_takes_nothing(kit):
    kit.group("shop", plain("web"))
    kit.stopping.set()

    assert kit.run(kit.ask("start")).status == "pending"


def test_a_worker_that_lost_its_claim_writes_nothing_more(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(delay_s=0.3))
    thread = _while_running(kit, operation_id := kit.ask("start"))
    wait_until(lambda: ("start", "shop-web") in kit.memory.calls, 5)
    kit.change(operation_id, heartbeat_at=now() - timedelta(seconds=60))
    rival = kit.make_context("rival")
    taken = rival.claims.take(operation_id)
    assert taken is not None
    thread.join(10)

    between = kit.operation(operation_id)
    assert (between.status, between.fence) == ("in_progress", taken[1].fence)
    assert kit.context.claims.held() == 0


def test_the_fourth_worker_to_take_it_finds_it_poisoned(kit):
    kit.group("shop", plain("web"))
    operation_id = kit.ask("start")
    for _ in range(operations.MAX_CLAIMS):
        assert kit.make_context("dying").claims.take(operation_id) is not None
        kit.change(operation_id, heartbeat_at=None)

    ended = kit.run(operation_id)

    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 3)
    assert kit.locks() == []


def test_what_cannot_be_written_down_is_no_failure_of_the_service(tmp_path):
    impatient = Kit(tmp_path, timeout_s=0.2)
    other_program = Record(f"sqlite:///{impatient.path}")
    impatient.group("shop", plain("web"), plain("api"))
    impatient.memory.behave("*", Behaviour(delay_s=0.2))
    thread = _while_running(impatient, operation_id := impatient.ask("start"))
    wait_until(lambda: len([call for call in impatient.memory.calls if call[0] == "start"]) == 2, 5)
    with other_program.write():
        thread.join(10)
    other_program.close()
    assert not thread.is_alive()

    between = impatient.operation(operation_id)
    assert between.status == "in_progress"
    assert "failed" not in status(between).values()
    assert impatient.context.claims.held() == 0
    impatient.change(operation_id, heartbeat_at=None)

    ended = impatient.run(operation_id)

    assert (ended.status, ended.attempt) == ("completed", 2)
    assert {impatient.service(name).status for name in ("web", "api")} == {"running"}
    assert sorted(call[1] for call in impatient.memory.calls if call[0] == "start") == ["shop-api", "shop-web"]
    impatient.close()


def test_a_busy_database_at_the_claim_leaves_the_operation_for_later(tmp_path):
    impatient = Kit(tmp_path, timeout_s=0.1)
    other_program = Record(f"sqlite:///{impatient.path}")
    impatient.group("shop", plain("web"))
    operation_id = impatient.ask("start")
    with other_program.write():
        with pytest.raises(DatabaseBusy), impatient.record.write():
            pass
        runner.run(impatient.context, operation_id)
        assert impatient.operation(operation_id).status == "pending"
    other_program.close()
    impatient.close()


def test_a_defect_ends_the_operation_and_says_so(kit):
    kit.group("shop", plain("web"))
    kit.change(operation_id := kit.ask("start"), type="nonsense")

    ended = kit.run(operation_id)

    assert (ended.status, ended.error["code"]) == ("failed", "internal_error")
    assert kit.locks() == []


def test_a_step_that_breaks_fails_its_service_and_not_the_worker(kit):
    kit.group("shop", plain("web"), plain("api"))
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": ZeroDivisionError("boom")}))  # type: ignore[dict-item]

    ended = kit.run(kit.ask("start"))

    assert (ended.status, ended.error["code"]) == ("failed", "start_failed")
    assert "boom" in ended.error["message"]
    assert kit.service("api").status == "running"


def test_the_operations_timeout_ends_a_wait(kit):
    kit.group("shop", checked("web", health_check=every(30, start_period=30)))
    kit.memory.behave("shop-web", Behaviour(unhealthy=True))
    began = time.monotonic()

    ended = kit.does("start", timeout=0.3)

    assert time.monotonic() - began < 3
    assert (ended.status, ended.error["code"]) == ("failed", "timeout")


def test_steps_for_which_no_time_is_left_fail_by_timeout(kit):
    kit.group("shop", plain("web"))

    ended = kit.does("start", timeout=1e-9)

    assert ended.error["code"] == "timeout"
    assert kit.memory.observe() == {}


def test_an_external_service_is_waited_for_and_never_started(kit):
    kit.group(
        "shop",
        {"name": "ext", "runtime": "external", "health_check": {"type": "http", "url": "http://127.0.0.1:9/"}},
        plain("web", "ext"),
    )
    kit.memory.simulated_health = lambda _id: True  # its socket is elsewhere

    ended = kit.does("start")

    assert ended.status == "completed", ended.error
    assert kit.memory.observe().get("shop-ext") is None
    assert kit.service("ext").status == "running"


def test_a_job_that_others_wait_for_to_complete_is_run_to_its_end(kit):
    kit.group("shop", plain("migrate"), plain("web", depends_on=[{"service": "migrate", "condition": "completed"}]))
    kit.memory.behave("shop-migrate", Behaviour(ends_with=0))

    ended = kit.does("start")

    assert ended.status == "completed", ended.error
    assert (kit.service("migrate").status, kit.service("web").status) == ("stopped", "running")


def test_a_job_that_ends_badly_or_vanishes_fails_what_waits_for_it(kit):
    kit.group("shop", plain("migrate"), plain("web", depends_on=[{"service": "migrate", "condition": "completed"}]))
    kit.memory.behave("shop-migrate", Behaviour(ends_with=2))

    ended = kit.does("start")

    assert ended.error["exit_code"] == 2
    assert status(ended)["start:shop-web"] == "skipped"
    assert kit.memory.observe()["shop-migrate"].phase is Phase.EXITED


def test_an_optional_need_may_fail(kit):
    kit.group("shop", plain("cache"), plain("web", depends_on=[{"service": "cache", "required": False}]))
    kit.memory.behave("shop-cache", Behaviour(ends_with=1))

    ended = kit.does("start")

    assert ended.status == "failed"
    assert kit.service("web").status == "running"


def test_a_stop_that_fails_says_that_it_still_runs(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    kit.memory.behave("shop-web", Behaviour(fail_on={"stop": StartFailed("it does not end")}))

    ended = kit.does("stop", timeout=1)

    assert ended.status == "failed"
    assert kit.service("web").status == "running"


def test_progress_never_falls_even_over_several_attempts(kit):
    kit.group("shop", *(plain(f"s{number}") for number in range(6)))
    operation_id = kit.ask("start")
    with kit.record.write() as session:
        session.get(Operation, operation_id).progress = 40  # of an earlier attempt

    kit.run(operation_id)

    seen = [event["data"]["progress"] for event in kit.events() if event["operation_id"] == operation_id
            and "progress" in event["data"]]  # fmt: skip
    assert seen[1:] == sorted(seen[1:])
    assert kit.operation(operation_id).progress == 100

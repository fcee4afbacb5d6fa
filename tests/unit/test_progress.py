"""Progress by weights, the estimate of the rest, timings that are learnt, and the time of one step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.planning import Plan
from domain.progress import Part, Tally, critical_path, remaining_s, weight_s
from domain.states import StepStatus
from models import step_timings
from models.operations import StepTiming
from tests.unit.worker_kit import Kit, checked, every, plain, status
from workers.journal import Journal
from workers.runtimes.in_memory import Behaviour


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _part(name, seconds, *needs, how="pending", ran=0.0, action="start"):
    return Part(name, action, needs, seconds, StepStatus(how), ran)


def test_progress_goes_by_weight_and_never_says_a_hundred():
    weights = {"short": 1.0, "long": 9.0}
    done: tuple[list[str], ...] = ([], ["short"], ["long"], ["short", "long"], ["short", "short", "of another plan"])
    assert [Tally(weights, ended).percent for ended in done] == [0, 10, 90, 99, 10]
    assert Tally({}).end("short") == 0


def test_a_step_that_never_ran_weighs_what_such_a_step_usually_takes():
    assert weight_s("build", None) > weight_s("start", None) > 0
    assert weight_s("build", 0.2) == 0.2


def test_the_critical_path_is_the_chain_that_takes_longest():
    parts = [_part("a", 1.0), _part("b", 1.0, "a"), _part("c", 5.0), _part("d", 1.0, "b", "c")]
    assert critical_path(parts) == ["c", "d"]
    # What has ended counts with what it took.
    ended = [_part("a", 1.0, how="completed", ran=9.0), *parts[1:]]
    assert critical_path(ended) == ["a", "b", "d"]


def test_the_rest_is_estimated_along_the_chains_with_so_many_at_once():
    parts = [_part(name, 2.0) for name in "abcd"]
    assert [remaining_s(parts, many) for many in (1, 2, 4, 9)] == [8.0, 4.0, 2.0, 2.0]
    assert remaining_s([_part("a", 2.0, how="running", ran=1.5), _part("b", 1.0, "a")], 1) == 1.5
    assert remaining_s([_part("a", 2.0, how="completed"), _part("b", 1.0, "a")], 1) == 1.0
    # A wait takes no step's place; a step that takes longer than ever is about to end.
    assert remaining_s([_part("w", 5.0, action="wait"), _part("b", 1.0)], 1) == 5.0
    assert remaining_s([_part("a", 1.0, how="running", ran=60.0)], 1) == 0.0
    assert remaining_s([_part("a", 1.0), _part("b", None)], 4) is None
    assert remaining_s([], 4) == 0.0


@given(st.lists(st.tuples(st.floats(0.1, 10), st.sets(st.integers(0, 7), max_size=3)), max_size=8), st.integers(1, 4))
def test_the_estimate_is_between_the_longest_chain_and_all_one_by_one(drawn, parallel):
    parts = [
        _part(str(number), seconds, *(str(need) for need in needs if need < number))
        for number, (seconds, needs) in enumerate(drawn)
    ]
    known = {part.id: part.weight_s for part in parts}
    found = remaining_s(parts, parallel)
    assert sum(known[each] for each in critical_path(parts)) - 0.01 <= found <= sum(known.values()) + 0.01


def test_what_a_step_took_is_learnt_and_expected_of_the_next_run(kit):
    kit.group("shop", plain("web"))
    kit.memory.behave("shop-web", Behaviour(delay_s=0.2))
    first = kit.does("start")
    assert [step.expected_s for step in first.steps] == [None, None]
    kit.does("stop")
    second = kit.does("start")
    expected = {step.id: step.expected_s for step in second.steps}
    assert 0.2 <= expected["start:shop-web"] < 1.0
    with kit.record.read() as session:
        assert session.get(StepTiming, "start:shop-web").samples == 2
    assert Journal(kit.record, kit.context.feed, None).expected(Plan()) == {}


def test_timings_move_towards_the_newest_run(kit):
    for seconds in (10.0, 20.0):
        with kit.record.write() as session:
            step_timings.learn(session, {"start:x": seconds})
    with kit.record.read() as session:
        assert step_timings.expected(session, ["start:x", "start:y"]) == {"start:x": 13.0}


def test_the_progress_of_an_operation_follows_the_weights(kit):
    kit.group("shop", plain("db"), plain("web", "db"))
    with kit.record.write() as session:
        took = {"start:shop-db": 8.0, "wait:shop-db": 1.0, "start:shop-web": 0.5, "wait:shop-web": 0.5}
        step_timings.learn(session, took)
    operation = kit.does("start")
    told = [event["data"]["progress"] for event in kit.events("operation.progress")]
    assert sorted(set(told)) == [0, 80, 90, 95, 99]
    assert told == sorted(told)
    assert operation.progress == 100


def test_a_dry_run_shows_the_path_that_takes_longest(kit):
    kit.group("shop", plain("a"), plain("b"), plain("web", "a", "b"))
    with kit.record.write() as session:
        for each in ("a", "b", "web"):
            took = {f"wait:shop-{each}": 0.1, f"start:shop-{each}": 5.0 if each == "b" else 0.1}
            step_timings.learn(session, took)
    plan = kit.does("start", dry_run=True).result["plan"]
    assert plan["critical_path"] == ["start:shop-b", "wait:shop-b", "start:shop-web", "wait:shop-web"]


def test_a_step_over_its_time_says_which_how_long_and_what_it_waited_for(kit):
    kit.group("shop", checked("db", health_check=every(0.05, start_period=60)), plain("web", "db"))
    kit.memory.behave("shop-db", Behaviour(unhealthy=True))
    ended = kit.does("start", step_timeout=0.3)
    assert (ended.status, ended.error["code"], ended.error["step"]) == ("failed", "timeout", "wait:shop-db")
    assert ended.error["message"] == "wait:shop-db had 0.3 s (step_timeout): shop-db did not become healthy in time"
    assert ended.error["step_timeout"] == 0.3


def test_a_completed_dependency_that_never_ends_is_told_as_that(kit):
    job = plain("job", restart_policy="no")
    kit.group("shop", job, {**plain("web"), "depends_on": [{"service": "job", "condition": "completed"}]})
    ended = kit.does("start", step_timeout=0.3)
    assert (ended.error["code"], ended.error["step"]) == ("timeout", "wait:shop-job")
    assert "shop-job still runs" in ended.error["message"]
    assert "waits until it has completed" in ended.error["message"]
    assert status(ended)["start:shop-web"] == "skipped"
    assert kit.service("job").status == "running"  # and not unhealthy: it has no check


def test_the_operations_own_time_comes_first_where_it_is_shorter(kit):
    kit.group("shop", checked("db", health_check=every(0.05, start_period=60)))
    kit.memory.behave("shop-db", Behaviour(unhealthy=True))
    ended = kit.does("start", step_timeout=30, timeout=0.3)
    assert (ended.error["code"], ended.error.get("step_timeout")) == ("timeout", None)

"""Steps from decisions: order, causes, and what is left to do after an interruption."""

from dataclasses import replace
from datetime import UTC, datetime

from domain.configuration import Conflicts
from domain.observation import Instance, ObservedState, Phase
from domain.resolving import Decision, before_starts, decide, decision_of, plan_resolution, policy_of
from domain.specs import Condition, Dependency, PortRequest, RuntimeKind, ServiceSpec
from domain.starting import plan_start
from domain.strategies import Move, Resolution, Risk, Strategy

AT = datetime(2026, 11, 27, tzinfo=UTC)
API = ServiceSpec("s-api", "api", "s", RuntimeKind.PROCESS, ports=(PortRequest(host_port=9311),))
WEB = ServiceSpec("s-web", "web", "s", RuntimeKind.PROCESS, depends_on=(Dependency("s-api", Condition.STARTED),))
MOVE = Move("s-api", "tcp", 9311, 9000)


def seen(*running: ServiceSpec) -> ObservedState:
    instances = {spec.id: Instance(spec.id, Phase.RUNNING, spec_hash=spec.hash()) for spec in running}
    return ObservedState(AT, instances)


def ids(plan) -> list[str]:
    return [step.id for step in plan.steps]


def step(plan, step_id):
    return next(each for each in plan.steps if each.id == step_id)


def test_a_service_that_moves_is_stopped_after_its_dependents_and_started_before_them():
    plan = plan_resolution([API, WEB], seen(API, WEB), Decision((MOVE,), ("s-api", "s-web")))

    assert ids(plan) == [
        "stop:s-web", "stop:s-api", "migrate_port:s-api", "start:s-api", "wait:s-api", "start:s-web", "wait:s-web",
    ]  # fmt: skip
    assert "stop:s-api" in step(plan, "migrate_port:s-api").depends_on
    assert "migrate_port:s-api" in step(plan, "start:s-api").depends_on
    assert "wait:s-api" in step(plan, "start:s-web").depends_on
    assert all(each.cause for each in plan.steps)


def test_a_stopped_service_that_moves_stays_stopped():
    assert ids(plan_resolution([API], seen(), Decision((MOVE,)))) == ["migrate_port:s-api"]


def test_one_that_waits_for_its_port_is_started_when_the_stranger_has_gone():
    stranger = {"pid": 812, "name": "postgres"}
    plan = plan_resolution([API], seen(), Decision(starts=("s-api",), processes=(stranger,)))

    assert ids(plan) == ["terminate:process:812", "start:s-api", "wait:s-api"]
    assert "terminate:process:812" in step(plan, "start:s-api").depends_on


def test_after_a_kill_what_is_done_already_gives_no_step():
    moved = replace(API, ports=(PortRequest(host_port=9000),))
    decision = Decision((MOVE,), ("s-api", "s-web"))

    half = plan_resolution([moved, WEB], seen(WEB), decision, moved=[MOVE])
    assert "migrate_port:s-api" not in ids(half)
    assert "start:s-api" in ids(half)
    assert ids(plan_resolution([moved, WEB], seen(moved, WEB), decision, moved=[MOVE])) == []


def test_an_undo_restores_between_stop_and_start():
    restore = {"service_id": "s-api", "from_port": 9311, "protocol": "tcp"}
    plan = plan_resolution([API], seen(API), Decision(restarts=("s-api",), restore=(restore,)))
    assert ids(plan) == ["stop:s-api", "restore:s-api", "start:s-api", "wait:s-api"]


def test_a_decision_is_read_as_it_was_written_down():
    decision = decide([(7, Resolution(Strategy.MIGRATE_SERVICE, Risk.LOW, "c", "d", ("e",), (MOVE,), ("s-api",)))])
    assert decision_of(decision.as_dict()) == decision
    assert decision.shown[0]["conflict_id"] == 7
    assert decision.services == {"s-api"}


def test_a_service_in_two_conflicts_is_stopped_and_not_restarted():
    stop = Resolution(Strategy.STOP_CONTAINER, Risk.MEDIUM, "c", "d", stop_services=("s-api",))
    move = Resolution(Strategy.MIGRATE_SERVICE, Risk.LOW, "c", "d", moves=(MOVE,), restarts=("s-api",))
    decision = decide([(1, stop), (2, move)])
    assert (decision.stop_services, decision.restarts) == (("s-api",), ())


def test_no_start_begins_before_all_moves_are_made():
    plan = before_starts(plan_start([API, WEB], seen(), ["s-api", "s-web"]), Decision((MOVE,)))
    assert ids(plan)[0] == "migrate_port:s-api"
    assert all("migrate_port:s-api" in step(plan, f"start:{each}").depends_on for each in ("s-api", "s-web"))


def test_a_plan_without_a_decision_is_the_plan():
    plan = plan_start([API], seen(), ["s-api"])
    assert before_starts(plan, Decision()) is plan


def test_the_request_comes_before_the_group_and_the_group_before_the_installation():
    installation = Conflicts()
    assert policy_of(installation, None).on_start == "fail"
    assert policy_of(installation, {"on_start": "ask"}).on_start == "ask"
    assert policy_of(installation, {"on_start": "ask"}, "migrate").on_start == "migrate"
    assert policy_of(installation, {"auto_resolve": True}).on_start == "migrate"
    assert policy_of(installation, {"auto_resolve": True}, "fail").on_start == "fail"
    assert policy_of(replace(installation, max_risk="medium"), {"max_risk": None}).max_risk == "medium"

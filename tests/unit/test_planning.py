"""Plans: what is desired and what was observed make steps."""

from datetime import UTC, datetime

import pytest

from domain.errors import DependencyCycle
from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action, Plan, Step, blocked_by, ready
from domain.specs import Condition, Dependency, GroupSpec, HealthCheck, RuntimeKind, ServiceSpec
from domain.starting import plan_start
from domain.states import HealthStatus
from domain.stopping import plan_restart, plan_stop

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHECK = HealthCheck()


def service(name, *needs, runtime=RuntimeKind.PROCESS, check=CHECK, group="g", **more):
    depends_on = tuple(
        need if isinstance(need, Dependency) else Dependency(f"g-{need}", Condition.HEALTHY) for need in needs
    )
    return ServiceSpec(
        id=f"{group}-{name}", name=name, group=group, runtime=runtime, depends_on=depends_on, health_check=check, **more
    )


def seen(health=None, **phases):
    instances = {
        f"g-{name}": Instance(f"g-{name}", phase, exit_code=0 if phase is Phase.EXITED else None)
        for name, phase in phases.items()
    }
    return ObservedState(NOW, instances, health or {})


def ordered(**start_orders):
    return [GroupSpec(name, start_order=start_order) for name, start_order in start_orders.items()]


def ids(plan):
    return [step.id for step in plan.steps]


def needs(plan, step_id):
    return set(next(step.depends_on for step in plan.steps if step.id == step_id))


def test_a_process_is_started_and_waited_for():
    plan = plan_start([service("db")], seen(), {"g-db"})

    assert ids(plan) == ["start:g-db", "wait:g-db"]
    assert plan.steps[1].condition is Condition.HEALTHY


def test_a_container_is_fetched_created_started_and_waited_for():
    plan = plan_start([service("db", runtime=RuntimeKind.DOCKER, image="x")], seen(), {"g-db"})

    assert ids(plan) == ["pull:g-db", "create:g-db", "start:g-db", "wait:g-db"]
    assert needs(plan, "create:g-db") == {"pull:g-db"}


def test_an_image_that_is_present_is_not_fetched():
    plan = plan_start([service("db", runtime=RuntimeKind.DOCKER, image="x")], seen(), {"g-db"}, {"g-db"})

    assert ids(plan) == ["create:g-db", "start:g-db", "wait:g-db"]


def test_an_image_with_a_build_is_built():
    spec = service("db", runtime=RuntimeKind.DOCKER, build={"context": "/x"})

    assert ids(plan_start([spec], seen(), {"g-db"}))[0] == "build:g-db"


def test_images_are_fetched_while_dependencies_still_start():
    specs = [service("db"), service("web", "db", runtime=RuntimeKind.DOCKER, image="x")]

    plan = plan_start(specs, seen(), {"g-web"})

    assert needs(plan, "pull:g-web") == set()
    assert needs(plan, "create:g-web") == {"wait:g-db", "pull:g-web"}


def test_a_dependent_comes_after_the_health_of_what_it_needs():
    plan = plan_start([service("web", "db"), service("db")], seen(), {"g-web", "g-db"})

    assert ids(plan) == ["start:g-db", "wait:g-db", "start:g-web", "wait:g-web"]
    assert needs(plan, "start:g-web") == {"wait:g-db"}


def test_started_does_not_wait_for_the_health_of_a_service_with_a_check():
    need = Dependency("g-db", Condition.STARTED)

    assert needs(plan_start([service("web", need), service("db")], seen(), set()), "start:g-web") == {"start:g-db"}


def test_started_of_a_service_without_a_check_is_alive_and_listening():
    need = Dependency("g-db", Condition.STARTED)
    plan = plan_start([service("web", need), service("db", check=None)], seen(), set())

    assert needs(plan, "start:g-web") == {"wait:g-db"}
    assert next(step for step in plan.steps if step.id == "wait:g-db").condition is Condition.STARTED


def test_completed_waits_for_the_end_of_what_is_needed():
    need = Dependency("g-migrate", Condition.COMPLETED)
    plan = plan_start([service("web", need), service("migrate", check=None)], seen(), set())

    assert next(step for step in plan.steps if step.id == "wait:g-migrate").condition is Condition.COMPLETED


def test_what_has_completed_is_not_run_again():
    need = Dependency("g-migrate", Condition.COMPLETED)
    specs = [service("web", need), service("migrate", check=None)]

    assert ids(plan_start(specs, seen(migrate=Phase.EXITED), set())) == ["start:g-web", "wait:g-web"]


def test_what_is_as_wanted_gives_no_step():
    observed = seen({"g-db": HealthStatus.HEALTHY}, db=Phase.RUNNING, plain=Phase.RUNNING)

    assert plan_start([service("db"), service("plain", check=None)], observed, set()).steps == ()


def test_what_runs_without_being_healthy_yet_is_only_waited_for():
    assert ids(plan_start([service("db")], seen(db=Phase.RUNNING), set())) == ["wait:g-db"]


def test_an_interrupted_container_is_taken_up_where_it_was_left():
    plan = plan_start([service("db", runtime=RuntimeKind.DOCKER)], seen(db=Phase.CREATED), {"g-db"}, {"g-db"})

    assert ids(plan) == ["create:g-db", "start:g-db", "wait:g-db"]
    assert "interrupted" in plan.steps[0].cause


def test_an_external_service_is_only_waited_for():
    outside = service("saas", runtime=RuntimeKind.EXTERNAL)

    assert ids(plan_start([outside], seen(), {"g-saas"})) == ["wait:g-saas"]
    assert plan_start([outside], seen({"g-saas": HealthStatus.HEALTHY}), set()).steps == ()
    assert plan_stop([outside], seen()).steps == ()


def test_each_step_says_why():
    plan = plan_start([service("web", "db"), service("db")], seen(), {"g-web"})
    causes = {step.id: step.cause for step in plan.steps}

    assert causes["start:g-web"] == "start was asked for; it has no instance"
    assert causes["start:g-db"] == "web needs it; it has no instance"


def test_a_cycle_is_refused():
    with pytest.raises(DependencyCycle):
        plan_start([service("a", "b"), service("b", "a")], seen(), set())


def test_start_order_of_groups_breaks_ties_and_never_an_edge():
    first, second = service("x", group="early"), service("y", group="late")
    assert ids(plan_start([first, second], seen(), set(), (), ordered(early=2, late=1)))[0] == "start:late-y"

    needy = service("z", Dependency("late-y", Condition.HEALTHY), group="early")
    steps = ids(plan_start([needy, second], seen(), set(), (), ordered(early=1, late=9)))
    assert steps.index("wait:late-y") < steps.index("start:early-z")


def test_a_dependency_outside_the_plan_is_no_step():
    assert needs(plan_start([service("web", "db")], seen(), set()), "start:g-web") == set()


def test_an_optional_dependency_may_fail():
    need = Dependency("g-db", Condition.HEALTHY, required=False)
    plan = plan_start([service("web", need), service("db")], seen(), set())
    web = next(step for step in plan.steps if step.id == "start:g-web")

    assert blocked_by(web, {"wait:g-db"}) is None
    assert ready([web], set(), {"wait:g-db"}) == [web]


def test_a_required_dependency_that_failed_blocks():
    web = Step(Action.START, "g-web", "", ("wait:g-db",))

    assert blocked_by(web, {"wait:g-db"}) == "wait:g-db"
    assert ready([web], set(), {"wait:g-db"}) == []


def test_ready_are_those_whose_needs_are_done():
    plan = plan_start([service("web", "db"), service("db"), service("other")], seen(), set())

    assert [step.id for step in ready(plan.steps, set(), set())] == ["start:g-db", "start:g-other"]
    left = [step for step in plan.steps if step.action is not Action.START]
    assert [step.id for step in ready(left, {"start:g-db"}, set())] == ["wait:g-db"]


def test_a_stop_takes_dependents_first_and_leaves_out_what_does_not_run():
    specs = [service("web", "api"), service("api", "db"), service("db")]

    plan = plan_stop(specs, seen(web=Phase.RUNNING, api=Phase.EXITED, db=Phase.RUNNING))

    assert ids(plan) == ["stop:g-web", "stop:g-db"]


def test_what_an_ended_service_left_running_is_stopped_too():
    observed = ObservedState(NOW, {"g-db": Instance("g-db", Phase.EXITED, exit_code=0, leftovers=True)})

    plan = plan_stop([service("db")], observed)

    assert ids(plan) == ["stop:g-db"]
    assert "live on" in plan.steps[0].cause


def test_a_stop_that_fails_does_not_keep_the_rest_running():
    plan = plan_stop([service("web", "db"), service("db")], seen(web=Phase.RUNNING, db=Phase.RUNNING))

    assert blocked_by(plan.steps[1], {"stop:g-web"}) is None


def test_a_cycle_can_still_be_stopped():
    plan = plan_stop([service("a", "b"), service("b", "a")], seen(a=Phase.RUNNING, b=Phase.RUNNING))

    assert sorted(ids(plan)) == ["stop:g-a", "stop:g-b"]


def test_a_removal_comes_after_the_stop():
    plan = plan_stop([service("db")], seen(db=Phase.RUNNING), remove=True)

    assert ids(plan) == ["stop:g-db", "remove:g-db"]
    assert needs(plan, "remove:g-db") == {"stop:g-db"}
    assert ids(plan_stop([service("db")], seen(db=Phase.EXITED), remove=True)) == ["remove:g-db"]


def test_a_restart_stops_all_then_starts_all():
    specs = [service("web", "db"), service("db")]
    observed = seen({"g-db": HealthStatus.HEALTHY}, web=Phase.RUNNING, db=Phase.RUNNING)

    plan = plan_restart(specs, observed, {"g-web", "g-db"})

    assert ids(plan)[:2] == ["stop:g-web", "stop:g-db"]
    assert {"stop:g-web", "stop:g-db"} <= needs(plan, "start:g-db")


def test_a_restart_leaves_what_is_only_needed_running():
    specs = [service("web", "db"), service("db")]
    observed = seen({"g-db": HealthStatus.HEALTHY}, web=Phase.RUNNING, db=Phase.RUNNING)

    assert ids(plan_restart(specs, observed, {"g-web"})) == ["stop:g-web", "start:g-web", "wait:g-web"]


def test_a_plan_is_shown_with_its_critical_path():
    shown = plan_start([service("web", "db"), service("db"), service("other")], seen(), set()).as_dict()

    assert shown["critical_path"] == ["start:g-db", "wait:g-db", "start:g-web", "wait:g-web"]
    assert {step["status"] for step in shown["steps"]} == {"pending"}
    assert Plan().as_dict() == {"steps": [], "conflicts": [], "resolutions": [], "critical_path": []}

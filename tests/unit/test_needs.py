"""One graph across groups: who waits for whom, and what is not done again."""

from dataclasses import replace

import pytest

from domain.errors import DependencyCycle, UnknownDependency
from domain.needs import edges_of, followers, in_order
from domain.observation import Instance, ObservedState, Phase
from domain.planning import blocked_by
from domain.specs import Condition, Dependency, GroupSpec, HealthCheck, RestartPolicy, RuntimeKind, ServiceSpec
from domain.starting import plan_start
from domain.states import HealthStatus
from domain.stopping import plan_restart, plan_stop
from tests.unit.test_planning import NOW, ids, needs, seen

DATA = GroupSpec("data")
SHOP = GroupSpec("shop", dependencies=("data",))


def one(group, name, *own, **more):
    """A service without a health check that needs others of its own group."""
    depends_on = tuple(need if isinstance(need, Dependency) else Dependency(f"{group}-{need}") for need in own)
    return ServiceSpec(
        f"{group}-{name}", name, group, RuntimeKind.PROCESS, command=("x",), depends_on=depends_on, **more
    )


def running(*specs, health=None):
    instances = {spec.id: Instance(spec.id, Phase.RUNNING, spec_hash=spec.hash()) for spec in specs}
    return ObservedState(NOW, instances, health or {})


def completed(spec, **changes):
    return replace(Instance(spec.id, Phase.EXITED, exit_code=0, spec_hash=spec.hash()), **changes)


def test_what_a_group_depends_on_is_up_before_its_first_service_starts():
    specs = [one("shop", "web", "api"), one("shop", "api"), one("data", "db"), one("data", "cache")]

    plan = plan_start(specs, seen(), set(), groups=(SHOP, DATA))

    assert needs(plan, "start:shop-api") == {"wait:data-db", "wait:data-cache"}
    assert needs(plan, "start:shop-web") == {"wait:shop-api"}


def test_a_group_that_is_needed_is_waited_for_until_its_services_are_healthy_even_where_started_would_do():
    checked = one("data", "db", health_check=HealthCheck())
    web = one("shop", "web", Dependency("data-db", Condition.STARTED))

    plan = plan_start([web, checked], seen(), set(), groups=(SHOP, DATA))

    assert needs(plan, "start:shop-web") == {"start:data-db", "wait:data-db"}


def test_a_one_shot_of_a_needed_group_is_waited_for_to_its_end_where_anybody_needs_that():
    seed = one("data", "seed")
    db = one("data", "db", Dependency("data-seed", Condition.COMPLETED))
    web = one("shop", "web")

    plan = plan_start([web, db, seed], seen(), set(), groups=(SHOP, DATA))

    assert needs(plan, "start:shop-web") == {"wait:data-db", "wait:data-seed"}
    assert next(step.condition for step in plan.steps if step.id == "wait:data-seed") is Condition.COMPLETED


def test_what_a_group_needs_holds_up_each_service_that_nothing_of_its_own_group_holds_up_any_more():
    api, web, db = one("shop", "api"), one("shop", "web", "api"), one("data", "db")

    plan = plan_start([web, api, db], running(api), set(), groups=(SHOP, DATA))

    assert ids(plan) == ["start:data-db", "wait:data-db", "start:shop-web", "wait:shop-web"]
    assert needs(plan, "start:shop-web") == {"wait:data-db"}


def test_an_optional_need_within_its_group_does_not_stand_for_what_the_group_needs():
    api = one("shop", "api")
    web = one("shop", "web", Dependency("shop-api", required=False))

    plan = plan_start([web, api, one("data", "db")], seen(), set(), groups=(SHOP, DATA))

    assert needs(plan, "start:shop-web") == {"wait:data-db", "wait:shop-api"}
    start = next(step for step in plan.steps if step.id == "start:shop-web")
    assert blocked_by(start, {"wait:shop-api"}) is None
    assert blocked_by(start, {"wait:data-db"}) == "wait:data-db"


def test_a_group_without_services_passes_on_what_it_depends_on():
    groups = (GroupSpec("shop", dependencies=("all",)), GroupSpec("all", dependencies=("data",)), DATA)

    plan = plan_start([one("shop", "web"), one("data", "db")], seen(), set(), groups=groups)

    assert needs(plan, "start:shop-web") == {"wait:data-db"}


def test_groups_that_need_each_other_are_a_cycle_with_its_path():
    groups = (GroupSpec("a", dependencies=("b",)), GroupSpec("b", dependencies=("a",)))

    with pytest.raises(DependencyCycle) as found:
        plan_start([one("a", "x"), one("b", "y")], seen(), set(), groups=groups)

    assert set(found.value.cycle) == {"a-x", "b-y"}


def test_three_groups_stop_in_reverse_also_where_the_one_between_does_not_run():
    groups = (GroupSpec("c", dependencies=("b",)), GroupSpec("b", dependencies=("a",)), GroupSpec("a"))
    specs = [one("a", "x"), one("b", "y"), one("c", "z")]

    plan = plan_stop(specs, running(specs[0], specs[2]), groups=groups)

    assert ids(plan) == ["stop:c-z", "stop:a-x"]
    assert needs(plan, "stop:a-x") == {"stop:c-z"}


def test_a_restart_over_groups_stops_in_reverse_and_starts_in_order():
    web, db = one("shop", "web"), one("data", "db")

    plan = plan_restart([web, db], running(web, db), {web.id, db.id}, groups=(SHOP, DATA))

    assert ids(plan)[:2] == ["stop:shop-web", "stop:data-db"]
    assert needs(plan, "start:data-db") == {"stop:shop-web", "stop:data-db"}
    assert "wait:data-db" in needs(plan, "start:shop-web")


def test_start_order_breaks_ties_between_groups_and_never_an_edge():
    specs = [one("shop", "web"), one("data", "db"), one("alone", "x")]
    groups = (replace(SHOP, start_order=-9), replace(DATA, start_order=9), GroupSpec("alone", start_order=1))

    assert in_order(specs, groups) == ["alone-x", "data-db", "shop-web"]


def test_the_graph_has_a_groups_edge_only_where_its_own_services_do_not_have_it_already():
    specs = [one("shop", "web", "api"), one("shop", "api"), one("data", "db")]

    assert edges_of(specs, (SHOP, DATA)) == {
        "shop-web": {"shop-api"}, "shop-api": {"data-db"}, "data-db": set()}  # fmt: skip


class TestOneShots:
    migrate = one("g", "migrate", restart_policy=RestartPolicy.NO)
    web = one("g", "web", Dependency("g-migrate", Condition.COMPLETED))

    def plan(self, instance, again=()):
        observed = ObservedState(NOW, {"g-migrate": instance})
        return ids(plan_start([self.web, self.migrate], observed, {"g-web", "g-migrate"}, again=again))

    def test_what_completed_is_not_run_again_with_its_group(self):
        assert self.plan(completed(self.migrate)) == ["start:g-web", "wait:g-web"]

    def test_it_is_run_again_when_it_is_named_itself(self):
        assert self.plan(completed(self.migrate), again={"g-migrate"})[:2] == ["start:g-migrate", "wait:g-migrate"]

    def test_it_is_run_again_when_it_failed_or_is_another_one_by_now(self):
        assert self.plan(completed(self.migrate, exit_code=1))[0] == "start:g-migrate"
        assert self.plan(completed(self.migrate, spec_hash="other"))[0] == "start:g-migrate"

    def test_a_restart_of_the_group_does_not_run_it_again(self):
        observed = ObservedState(NOW, {"g-migrate": completed(self.migrate), **running(self.web).instances})

        plan = plan_restart([self.web, self.migrate], observed, {"g-web", "g-migrate"})

        assert ids(plan) == ["stop:g-web", "start:g-web", "wait:g-web"]

    def test_a_stop_of_the_group_has_nothing_to_do_for_it(self):
        observed = ObservedState(NOW, {"g-migrate": completed(self.migrate), **running(self.web).instances})

        assert ids(plan_stop([self.web, self.migrate], observed)) == ["stop:g-web"]


class TestWhatIsGone:
    web = one("g", "web", "db")

    def test_a_start_of_what_needs_it_is_refused_with_its_name(self):
        with pytest.raises(UnknownDependency, match="g-web depends on g-db, which is not registered"):
            plan_start([self.web], seen(), {"g-web"}, gone={"g-db"})

    def test_what_runs_already_does_not_need_it_any_more(self):
        assert plan_start([self.web], running(self.web), {"g-web"}, gone={"g-db"}).steps == ()

    def test_what_can_do_without_it_starts(self):
        web = one("g", "web", Dependency("g-db", required=False))

        assert ids(plan_start([web], seen(), {"g-web"}, gone={"g-db"})) == ["start:g-web", "wait:g-web"]


class TestFollowers:
    db = one("g", "db")
    api = one("g", "api", Dependency("g-db", restart=True))
    web = one("g", "web", Dependency("g-api", restart=True))
    other = one("g", "other", "db")

    def test_they_are_those_that_ask_for_it_however_far(self):
        assert followers([self.db, self.api, self.web, self.other], {"g-db"}) == {"g-api", "g-web"}

    def test_a_restart_takes_those_along_that_run(self):
        specs = [self.db, self.api, self.web, self.other]

        plan = plan_restart(specs, running(self.db, self.api, self.other), {"g-db"})

        stopped = [step.target for step in plan.steps if step.action == "stop"]
        assert stopped == ["g-api", "g-db"]
        assert [step.target for step in plan.steps if step.action == "start"] == ["g-db", "g-api"]


def test_an_external_service_of_a_needed_group_is_waited_for():
    saas = one("data", "saas", health_check=HealthCheck())
    saas = replace(saas, runtime=RuntimeKind.EXTERNAL)

    plan = plan_start([one("shop", "web"), saas], seen(), set(), groups=(SHOP, DATA))

    assert ids(plan) == ["wait:data-saas", "start:shop-web", "wait:shop-web"]
    healthy = ObservedState(NOW, {}, {"data-saas": HealthStatus.HEALTHY})
    assert needs(plan_start([one("shop", "web"), saas], healthy, set(), groups=(SHOP, DATA)), "start:shop-web") == set()

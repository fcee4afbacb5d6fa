"""Plans of updates: what is exchanged, in which order, and the way back."""

from dataclasses import replace

import pytest

from domain.observation import Instance, ObservedState, Phase
from domain.specs import Condition, Dependency, GroupSpec, RuntimeKind, ServiceSpec
from domain.updating import Kind, change_of, changes, plan_back, plan_update
from tests.unit.test_planning import NOW, ids, needs


def spec(name, *own, runtime=RuntimeKind.DOCKER, group="g", **more):
    depends_on = tuple(need if isinstance(need, Dependency) else Dependency(f"{group}-{need}") for need in own)
    image = "web:2" if runtime is RuntimeKind.DOCKER else None
    return ServiceSpec(f"{group}-{name}", name, group, runtime, image=image, depends_on=depends_on, **more)


def old(one, phase=Phase.RUNNING, **more):
    return Instance(one.id, phase, ref=f"ref-{one.name}", spec_hash="old", image="web:1", **more)


def same(one, phase=Phase.RUNNING, **more):
    return replace(old(one, phase, **more), spec_hash=one.hash())


def seen(*instances):
    return ObservedState(NOW, {each.service_id: each for each in instances})


def plan(specs, *instances, named=None, ready=(), groups=(), stopped=(), before=None):
    observed = seen(*instances)
    wanted = changes(specs, seen(*(before or instances)), named or {each.id for each in specs})
    return plan_update(specs, observed, wanted, ready, groups, stopped)


def test_what_runs_otherwise_is_made_stopped_started_and_only_then_removed():
    web = spec("web")

    made = plan([web], old(web))

    assert ids(made) == ["pull:g-web", "create:g-web", "stop:g-web", "start:g-web", "wait:g-web", "remove:g-web"]
    assert needs(made, "create:g-web") == {"pull:g-web"}
    assert needs(made, "stop:g-web") == {"pull:g-web", "create:g-web"}
    assert "wait:g-web" in needs(made, "remove:g-web")


@pytest.mark.parametrize(
    "instance",
    [same(spec("web")), Instance("g-web"), replace(old(spec("web")), spec_hash=None)],
    ids=["as wanted", "never started", "unknown"],
)
def test_what_is_as_wanted_or_was_never_started_or_is_not_known_gives_no_step(instance):
    assert plan([spec("web")], instance).steps == ()


def test_a_stopped_container_is_replaced_and_not_started():
    web = spec("web")

    made = plan([web], old(web, Phase.EXITED, exit_code=137), ready={"g-web"})

    assert ids(made) == ["create:g-web", "remove:g-web"]


def test_a_stopped_process_has_nothing_to_be_replaced():
    web = spec("web", runtime=RuntimeKind.PROCESS)

    assert plan([web], old(web, Phase.EXITED, exit_code=0)).steps == ()


def test_nothing_is_stopped_before_all_images_are_there_and_all_new_ones_are_made():
    specs = [spec("web", "db"), spec("db"), spec("other")]

    made = plan(specs, *(old(each) for each in specs))

    fetched = {f"pull:{each.id}" for each in specs}
    assert needs(made, "create:g-db") == fetched
    for each in specs:
        assert fetched | {f"create:{each.id}" for each in specs} <= needs(made, f"stop:{each.id}")


def test_dependencies_are_exchanged_first_and_waited_for():
    specs = [spec("web", "db"), spec("db")]

    made = plan(specs, *(old(each) for each in specs))

    assert "wait:g-db" in needs(made, "stop:g-web")


def test_dependencies_through_groups_are_exchanged_first():
    web, db = spec("web", group="shop"), spec("db", group="data")
    groups = (GroupSpec("shop", dependencies=("data",)), GroupSpec("data"))

    assert "wait:data-db" in needs(plan([web, db], old(web), old(db), groups=groups), "stop:shop-web")


def test_only_what_was_asked_for_is_exchanged():
    specs = [spec("web", "db"), spec("db")]

    assert {step.target for step in plan(specs, *(old(each) for each in specs), named={"g-web"}).steps} == {"g-web"}


def test_who_asks_for_it_is_restarted_after_what_it_needs_has_been_exchanged():
    db = spec("db")
    api = spec("api", Dependency("g-db", restart=True))
    other = spec("other", "db")

    made = plan([db, api, other], old(db), same(api), same(other), named={"g-db"}, ready={"g-db"})

    assert ids(made) == ["create:g-db", "stop:g-db", "start:g-db", "wait:g-db", "stop:g-api", "start:g-api",
                         "wait:g-api", "remove:g-db"]  # fmt: skip
    assert "wait:g-db" in needs(made, "stop:g-api")


def test_who_asks_for_it_and_does_not_run_stays_so():
    db, api = spec("db"), spec("api", Dependency("g-db", restart=True))

    made = plan([db, api], old(db), same(api, Phase.EXITED, exit_code=0), named={"g-db"})

    assert {step.target for step in made.steps} == {"g-db"}


def test_a_changed_one_shot_that_is_needed_completed_is_run_before_those_that_need_it():
    migrate = spec("migrate")
    web = spec("web", Dependency("g-migrate", Condition.COMPLETED))

    made = plan([web, migrate], old(web), old(migrate, Phase.EXITED, exit_code=0), ready={"g-web", "g-migrate"})

    assert "stop:g-migrate" not in ids(made)
    assert next(step.condition for step in made.steps if step.id == "wait:g-migrate") is Condition.COMPLETED
    assert "wait:g-migrate" in needs(made, "stop:g-web")


def test_an_interrupted_update_goes_on_where_it_stands():
    web = spec("web")
    before = [old(web)]

    created = plan([web], old(web), before=before, ready={"g-web"})
    stopped = plan([web], replace(same(web), phase=Phase.CREATED), before=before, ready={"g-web"})
    started = plan([web], same(web), before=before, ready={"g-web"})

    assert ids(created) == ["create:g-web", "stop:g-web", "start:g-web", "wait:g-web", "remove:g-web"]
    assert ids(stopped) == ["create:g-web", "start:g-web", "wait:g-web", "remove:g-web"]
    assert ids(started) == ["wait:g-web", "remove:g-web"]


def test_a_restart_along_is_not_done_twice():
    db, api = spec("db"), spec("api", Dependency("g-db", restart=True))
    before = [old(db), same(api)]

    made = plan([db, api], same(db), same(api), before=before, named={"g-db"}, stopped={"g-api"})

    assert ids(made) == ["wait:g-db", "wait:g-api", "remove:g-db"]


def test_the_way_back_is_in_dependency_order_and_one_failure_holds_up_nobody():
    specs = [spec("web", "api"), spec("api", "db"), spec("db")]
    wanted = changes(specs, seen(*(old(each) for each in specs)), {each.id for each in specs})

    back = plan_back(specs, wanted, {"g-web", "g-db"})

    assert ids(back) == ["restore:g-db", "restore:g-web"]
    assert needs(back, "restore:g-web") == {"restore:g-db"}
    assert back.steps[1].optional == {"restore:g-db"}


def test_what_was_there_is_kept_and_read_again():
    web = spec("web")
    change = changes([web], seen(old(web)), {"g-web"})["g-web"]

    assert change_of(change.as_dict()) == change
    assert (change.kind, change.ref, change.ran, change.hash, change.image) == (
        Kind.EXCHANGE, "ref-web", True, "old", "web:1")  # fmt: skip

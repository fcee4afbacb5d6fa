"""Plans of updates: what is exchanged, in which order, and the way back."""

import json
from dataclasses import replace

import pytest

from domain.going_back import plan_back
from domain.observation import Instance, ObservedState, Phase
from domain.specs import Condition, Dependency, GroupSpec, HealthCheck, PortRequest, RuntimeKind, ServiceSpec
from domain.updating import Kind, change_of, changes, plan_update
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


def inside(name, of, **more):
    """One that has the network of another one's container."""
    attached = {"services": {of: f"g-{of}"}}
    return spec(name, Dependency(f"g-{of}"), network_mode=f"service:{of}", definitions=attached, **more)


def test_who_lives_in_the_container_that_is_exchanged_is_restarted_after_it_without_asking_for_it():
    main, side = spec("main"), inside("side", "main")

    made = plan([main, side], old(main), same(side), named={"g-main"}, ready={"g-main"})

    assert ids(made) == ["create:g-main", "stop:g-main", "start:g-main", "wait:g-main", "stop:g-side", "start:g-side",
                         "wait:g-side", "remove:g-main"]  # fmt: skip


def test_on_the_way_back_who_lives_in_a_container_that_was_stopped_is_started_again_although_nothing_was_done_to_it():
    main, side = spec("main"), inside("side", "main")

    back = way_back([main, side], [old(main), same(side)], {"g-main"}, named={"g-main"})

    assert ids(back) == ["withdraw:g-main", "withdraw:g-side", "restore:g-main", "confirm:g-main", "restore:g-side",
                         "confirm:g-side"]  # fmt: skip
    assert needs(back, "restore:g-side") == {"withdraw:g-side", "confirm:g-main"}


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


def way_back(specs, instances, touched, disturbed=None, withdrawn=(), named=None):
    wanted = changes(specs, seen(*instances), named or {each.id for each in specs})
    return plan_back(specs, wanted, touched, touched if disturbed is None else disturbed, (), withdrawn)


def test_on_the_way_back_everything_is_stopped_at_once_and_restored_in_the_order_of_a_start():
    specs = [spec("web", "api"), spec("api", "db"), spec("db")]

    back = way_back(specs, [old(each) for each in specs], {"g-web", "g-api", "g-db"})

    assert ids(back) == [
        "withdraw:g-db", "withdraw:g-api", "withdraw:g-web", "restore:g-db", "confirm:g-db", "restore:g-api",
        "confirm:g-api", "restore:g-web", "confirm:g-web"]  # fmt: skip
    assert all(not step.depends_on for step in back.steps if step.action == "withdraw")
    assert needs(back, "restore:g-web") == {"withdraw:g-web", "confirm:g-api"}


def test_on_the_way_back_one_that_cannot_be_restored_holds_up_nobody():
    specs = [spec("web", "db"), spec("db")]

    back = way_back(specs, [old(each) for each in specs], {"g-web", "g-db"})

    step = next(each for each in back.steps if each.id == "restore:g-web")
    assert step.optional == set(step.depends_on)


def test_on_the_way_back_one_waits_for_what_it_needs_beyond_what_was_left_alone():
    specs = [spec("web", "api"), spec("api", "db"), spec("db")]

    back = way_back(specs, [old(specs[0]), same(specs[1]), old(specs[2])], {"g-web", "g-db"})

    assert needs(back, "restore:g-web") == {"withdraw:g-web", "confirm:g-db"}


def test_on_the_way_back_one_that_needs_another_only_started_does_not_wait_until_it_is_healthy():
    db = spec("db", health_check=HealthCheck())
    web = spec("web", Dependency("g-db", Condition.STARTED))

    back = way_back([web, db], [old(web), old(db)], {"g-web", "g-db"})

    assert needs(back, "restore:g-web") == {"withdraw:g-web", "restore:g-db"}


def test_on_the_way_back_what_was_only_made_beside_is_taken_away_and_nothing_is_stopped_or_waited_for():
    specs = [spec("web", "db"), spec("db")]

    back = way_back(specs, [old(each) for each in specs], {"g-web", "g-db"}, disturbed={"g-db"})

    assert [each for each in ids(back) if each.startswith("withdraw")] == ["withdraw:g-db"]
    assert needs(back, "restore:g-web") == set()


def test_on_the_way_back_one_that_was_to_be_restarted_along_and_was_not_is_left_alone():
    db, api = spec("db"), spec("api", Dependency("g-db", restart=True))

    back = way_back([db, api], [old(db), same(api)], {"g-db", "g-api"}, disturbed={"g-db"}, named={"g-db"})

    assert {step.target for step in back.steps} == {"g-db"}


def test_on_the_way_back_nothing_is_stopped_that_an_earlier_attempt_had_stopped():
    web = spec("web")

    back = way_back([web], [old(web)], {"g-web"}, withdrawn={"g-web"})

    assert ids(back) == ["restore:g-web", "confirm:g-web"]


def swapped():
    """Two that swap their ports, of which one needs the other; both as they run, and what is to be done."""
    a = spec("a", ports=(PortRequest(host_port=8002),))
    b = spec("b", "a", ports=(PortRequest(host_port=8001),))
    wanted = changes([a, b], seen(old(a), old(b)), {"g-a", "g-b"})
    wanted["g-a"] = replace(wanted["g-a"], ports=(("tcp", 8001),))
    wanted["g-b"] = replace(wanted["g-b"], ports=(("tcp", 8002),))
    return a, b, wanted


def test_two_that_swap_their_ports_are_both_stopped_before_either_is_started():
    a, b, wanted = swapped()

    made = plan_update([a, b], seen(old(a), old(b)), wanted, {"g-a", "g-b"})

    assert ids(made) == [
        "create:g-a", "create:g-b", "stop:g-a", "stop:g-b", "start:g-a", "wait:g-a", "start:g-b", "wait:g-b",
        "remove:g-a", "remove:g-b"]  # fmt: skip
    assert needs(made, "stop:g-b") == {"create:g-a", "create:g-b"}
    assert needs(made, "start:g-a") >= {"stop:g-a", "stop:g-b"}
    assert needs(made, "start:g-b") >= {"stop:g-a", "stop:g-b", "wait:g-a"}


def test_one_that_takes_the_port_of_another_that_is_stopped_by_now_waits_for_nothing():
    a, b, wanted = swapped()

    made = plan_update([a, b], seen(old(a), old(b, Phase.EXITED, exit_code=0)), wanted, {"g-a", "g-b"})

    assert "stop:g-b" not in ids(made)
    assert "stop:g-b" not in needs(made, "start:g-a")


def test_on_the_way_back_two_that_swap_their_ports_are_both_stopped_before_either_is_restored():
    a, b, wanted = swapped()

    back = plan_back([a, b], wanted, {"g-a", "g-b"}, {"g-a", "g-b"})

    assert needs(back, "restore:g-a") >= {"withdraw:g-a", "withdraw:g-b"}
    assert needs(back, "restore:g-b") >= {"withdraw:g-a", "withdraw:g-b"}


def test_what_was_there_is_kept_and_read_again():
    web = spec("web")
    change = replace(changes([web], seen(old(web)), {"g-web"})["g-web"], ports=(("tcp", 8001),))

    assert change_of(json.loads(json.dumps(change.as_dict()))) == change
    assert (change.kind, change.ref, change.ran, change.hash, change.image) == (
        Kind.EXCHANGE, "ref-web", True, "old", "web:1")  # fmt: skip

from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import ImageMissing, PortHeld, ServiceRunning
from domain.observation import Phase
from domain.specs import PortRequest, ServiceSpec
from workers.runtimes.in_memory import Behaviour, InMemory

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(name: str = "web", port: int | None = None, image: str | None = None) -> ServiceSpec:
    ports = () if port is None else (PortRequest(host_port=port),)
    return ServiceSpec(id=f"shop.{name}", name=name, group="shop", image=image, ports=ports)


@pytest.fixture
def runtime() -> InMemory:
    return InMemory(now=lambda: NOW)


def test_times_are_the_clock_that_was_given(runtime: InMemory) -> None:
    runtime.start(spec())

    assert runtime.observe()["shop.web"].started_at == NOW
    assert runtime.stop(spec(), 1.0).ended_at == NOW


def test_it_fails_where_it_is_told_to(runtime: InMemory) -> None:
    runtime.behave("shop.web", Behaviour(fail_on={"prepare": ImageMissing("no such image")}))

    with pytest.raises(ImageMissing):
        runtime.prepare(spec(image="x"), lambda _: None)

    assert not runtime.prepared(spec(image="x"))
    assert runtime.calls == [("prepare", "shop.web")]


def test_an_observation_fails_where_every_service_is_told_to(runtime: InMemory) -> None:
    runtime.behave("*", Behaviour(fail_on={"observe": ImageMissing("down")}))

    with pytest.raises(ImageMissing):
        runtime.observe()


def test_preparing_tells_progress_and_is_needed_once(runtime: InMemory) -> None:
    told: list[str] = []
    runtime.prepare(spec(image="x"), told.append)

    assert told
    assert runtime.prepared(spec(image="x"))
    assert runtime.prepared(spec("plain"))


def test_a_port_of_a_running_neighbour_is_held_by_it(runtime: InMemory) -> None:
    runtime.start(spec("one", port=80))

    with pytest.raises(PortHeld) as refusal:
        runtime.start(spec("two", port=80))
    assert refusal.value.holder
    assert refusal.value.holder["service_id"] == "shop.one"

    runtime.stop(spec("one"), 1.0)
    assert runtime.start(spec("two", port=80)).alive


def test_a_strangers_port_can_be_let_go(runtime: InMemory) -> None:
    runtime.hold(80, {"name": "nginx", "pid": 1})
    with pytest.raises(PortHeld, match="nginx"):
        runtime.start(spec(port=80))

    runtime.hold(80, None)
    assert runtime.start(spec(port=80)).alive


def test_an_instance_ends_by_itself_or_right_after_its_start(runtime: InMemory) -> None:
    runtime.start(spec())
    runtime.end("shop.web", 9)
    runtime.end("shop.web", 10)
    runtime.behave("shop.job", Behaviour(ends_with=0))

    assert runtime.observe()["shop.web"].exit_code == 9
    assert runtime.start(spec("job")).phase is Phase.EXITED


def test_health_follows_life_and_behaviour(runtime: InMemory) -> None:
    assert not runtime.simulated_health("shop.web")
    runtime.start(spec())
    assert runtime.simulated_health("shop.web")
    runtime.behave("shop.web", Behaviour(unhealthy=True))
    assert not runtime.simulated_health("shop.web")


def test_a_created_instance_is_adopted_and_one_of_another_spec_replaced(runtime: InMemory) -> None:
    first = runtime.create(spec())

    assert runtime.create(spec()).ref == first.ref
    assert runtime.create(spec(port=81)).ref != first.ref


def test_what_runs_is_not_removed_and_its_lines_stay_afterwards(runtime: InMemory) -> None:
    runtime.start(spec())
    with pytest.raises(ServiceRunning):
        runtime.remove(spec())
    runtime.stop(spec(), 1.0)
    runtime.remove(spec())

    assert runtime.observe() == {}
    assert [line.text for line in runtime.logs("shop.web", 5, since=NOW)] == ["shop.web started"]
    assert runtime.logs("shop.web", 5, since=NOW + timedelta(seconds=1)) == []


def test_following_gives_what_is_written_meanwhile_also_beyond_what_is_kept(runtime: InMemory) -> None:
    for number in range(5100):
        runtime.write("shop.web", f"old {number}")
    looks = iter([False, False, True])
    stream = runtime.follow("shop.web", lambda: next(looks))
    assert next(stream) is None
    runtime.write("shop.web", "new", stream="stderr")

    (line,) = list(stream)
    assert line
    assert (line.text, line.stream) == ("new", "stderr")
    assert len(runtime.logs("shop.web", 9999)) == 5000

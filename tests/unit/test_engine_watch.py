"""What the engine tells as it happens, and what is made of it: against a stand-in of the engine."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.errors import EngineUnreachable
from domain.observation import Instance, Phase, Sighting
from models import operations
from tests.unit.engine_stand_in import EngineStandIn
from tests.unit.worker_kit import Kit, plain
from tests.waiting import wait_until
from workers import collectors
from workers.engine_watch import EngineWatch
from workers.runtimes import process_identity
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.docker_events import Deaths

INSTANCE = "0123456789abcdef0123456789abcdef"
T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EngineStandIn]:
    made = EngineStandIn(tmp_path / "engine.sock")
    yield made
    made.close()


@pytest.fixture
def engine(there: EngineStandIn) -> Iterator[DockerEngine]:
    made = DockerEngine(there.url, INSTANCE, timeout_s=2.0)
    yield made
    made.close()


def _event(action: str, at: datetime, ref: str = "c1", **attributes: str) -> dict:
    return {"Action": action, "timeNano": int(at.timestamp() * 1e9), "Actor": {"ID": ref, "Attributes": attributes}}


def _by_hand(*events: dict, ref: str = "c1") -> bool:
    deaths = Deaths()
    for event in events:
        deaths.note(event)
    ended = Instance("x", Phase.EXITED, ref, exit_code=137, ended_at=T0)
    return deaths.judged({"x": ended})["x"].by_hand


@pytest.mark.parametrize(
    ("what", "events", "by_hand"),
    [
        ("docker stop", [("kill", 0, "15"), ("die", 2, "")], True),
        ("docker stop, and it would not", [("kill", 0, "15"), ("kill", 10, "9"), ("die", 10.1, "")], True),
        ("its own end", [("die", 1, "")], False),
        ("told to read its configuration, then died", [("kill", 0, "1"), ("die", 1, "")], False),
        ("a signal of long ago", [("kill", 0, "15"), ("die", 500, "")], False),
        ("killed in an earlier run", [("kill", 0, "9"), ("die", 0.1, ""), ("start", 5, ""), ("die", 6, "")], False),
        ("nothing was told", [], False),
    ],
)
def test_who_killed_a_container_is_told_by_its_last_run(what, events, by_hand):
    told = [_event(action, T0 + timedelta(seconds=at), signal=signal) for action, at, signal in events]
    assert _by_hand(*told) is by_hand, what


def test_what_runs_or_is_another_container_is_not_marked():
    deaths = Deaths()
    deaths.note(_event("kill", T0, signal="9"))
    deaths.note(_event("die", T0))
    seen = {"a": Instance("a", Phase.RUNNING, "c1"), "b": Instance("b", Phase.EXITED, "c2", ended_at=T0)}
    assert deaths.judged(seen) == seen


def test_a_look_that_is_quicker_than_the_stream_waits_for_it():
    deaths = Deaths()
    deaths.listening = True
    ended = Instance("x", Phase.EXITED, "c1", exit_code=137, ended_at=datetime.now(UTC))
    found = {}
    looker = threading.Thread(target=lambda: found.update(deaths.judged({"x": ended})))
    looker.start()
    deaths.note(_event("kill", datetime.now(UTC), signal="15"))
    deaths.note(_event("die", datetime.now(UTC)))
    looker.join(5)
    assert found["x"].by_hand


def test_what_is_remembered_is_bounded():
    deaths = Deaths()
    for number in range(5000):
        deaths.note(_event("die", T0, ref=f"c{number}"))
    assert len(deaths._told) == 2048


def test_a_stream_gives_services_as_something_happens_to_them_and_ends_with_the_engine(there, engine):
    heard = []
    changes = engine.changes(lambda: False)
    assert next(changes) is None
    for action in ("kill", "die"):
        there.tell(action, "c1", datetime.now(UTC), signal="15", **{"clos.service": "shop-web"})
    there.end_events()
    heard = [each for each in changes if each is not None]
    assert heard == ["shop-web"]  # a kill alone changes nothing
    ended = Instance("x", Phase.EXITED, "c1", ended_at=datetime.now(UTC))
    assert engine._events.deaths.judged({"x": ended})["x"].by_hand


def test_lines_that_are_no_events_are_read_over(there, engine):
    there.events += [["nonsense"], {"Action": "die"}, None]  # type: ignore[list-item]
    assert [each for each in engine.changes(lambda: False) if each] == []


def test_an_engine_that_is_not_there_cannot_be_listened_to(tmp_path):
    engine = DockerEngine(f"unix://{tmp_path}/nobody.sock", INSTANCE, timeout_s=1.0)
    with pytest.raises(EngineUnreachable):
        list(engine.changes(lambda: False))
    with pytest.raises(EngineUnreachable):
        engine.sighting()


def test_an_engine_is_known_by_its_id_and_the_start_of_its_bridge(there, engine):
    there.networks["bridge"] = {"Id": "bridge", "Name": "bridge", "Created": "2026-01-01T12:00:00Z", "Labels": {}}
    assert engine.sighting() == Sighting("STAND:IN", T0)
    engine.sighting()
    assert there.asked.count("GET /info") == 1  # once per start
    there.networks["bridge"]["Created"] = "2026-01-01T13:00:00Z"
    assert engine.sighting().since == T0 + timedelta(hours=1)


def test_an_engine_without_a_bridge_is_known_by_its_process(there, engine):
    mine = process_identity.read_stat(threading.main_thread().native_id or 0)
    assert mine is not None
    assert engine.sighting() == Sighting("STAND:IN", process_identity.started_at(mine.start_ticks))


class _Told:
    """An engine that tells what it is given, then goes away."""

    def __init__(self, *rounds: list[str | None]) -> None:
        self.rounds = list(rounds)
        self.listened = 0

    def changes(self, stop) -> Iterator[str | None]:
        self.listened += 1
        if not self.rounds:
            raise EngineUnreachable("gone")
        yield from self.rounds.pop(0)


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _watch(kit: Kit, engine: _Told, looks: list[int]) -> EngineWatch:
    return EngineWatch(kit.record, engine, lambda: looks.append(1), kit.stopping)


def test_news_of_what_an_operation_holds_make_nobody_look(kit):
    kit.group("shop", plain("web"), plain("api"))
    with kit.record.write() as session:
        operations.create(session, "service.stop", targets=["service:shop-web"], service_id="shop-web")
    looks: list[int] = []
    watch = _watch(kit, _Told(), looks)
    watch._take("shop-web")
    watch._take(None)
    watch._look_if_due()
    assert looks == []
    watch._take("shop-web")
    watch._take("shop-api")
    watch._take(None)
    watch._look_if_due()
    assert looks == [1]


def test_a_watch_looks_when_it_begins_to_hear_and_when_the_engine_goes_and_ends_with_its_worker(kit):
    looks: list[int] = []
    engine = _Told([None])
    watch = _watch(kit, engine, looks)
    watch.start()
    wait_until(lambda: engine.listened >= 2, 10)
    assert looks
    kit.stopping.set()
    watch.close(5.0)
    assert not watch._thread.is_alive()


def test_a_look_at_once_is_made_once_a_second_over_all_workers(kit):
    done: list[str] = []
    mine = collectors.Ticks(kit.context, {"state": lambda: done.append("mine")})
    others = collectors.Ticks(kit.make_context("rival"), {"state": lambda: done.append("others")})
    second = {each.at_once("state") for each in (mine, others, mine, others)}
    assert True in second
    assert len(done) <= 2  # a second may have begun in between
    mine._busy["state"].acquire()
    assert mine.at_once("state") is False

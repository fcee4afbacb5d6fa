"""The reader of the event log, and the courier that takes out what a commit has made due."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy.exc import OperationalError

from api import courier as courier_module
from api import feed as feed_module
from api.courier import Courier
from api.feed import FeedReader
from bus.outbox import Outbox
from domain.events import EventType
from models import events
from models.record import Record
from tests.unit.api_kit import LocalFeed, make_record
from tests.waiting import wait_until


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = make_record(tmp_path)
    yield made
    made.close()


@pytest.fixture
def feed() -> LocalFeed:
    return LocalFeed()


@pytest.fixture
def reader(record: Record, feed: LocalFeed) -> Iterator[FeedReader]:
    made = FeedReader(record, feed, poll_s=0.05)  # type: ignore[arg-type]
    yield made
    made.close()


def tell(
    record: Record, count: int = 1, type_: EventType = EventType.SERVICE_STATUS_CHANGED, **facts: Any
) -> list[int]:
    with record.write() as session:
        return [events.append(session, type_, {}, **facts) for _ in range(count)]


def test_it_begins_behind_what_was_there_and_hands_out_every_event_once_in_order(
    record: Record, reader: FeedReader, feed: LocalFeed
) -> None:
    tell(record, 3)
    heard: list[int] = []
    number, position = reader.listen(lambda event: heard.append(event["id"]))
    assert (number, position) == (1, 3)
    told = tell(record, 1200)
    feed.wake()
    wait_until(lambda: len(heard) == 1200)
    assert heard == told
    assert reader.position == told[-1]


def test_it_finds_what_it_was_not_woken_for(record: Record, reader: FeedReader) -> None:
    heard: list[int] = []
    reader.listen(lambda event: heard.append(event["id"]))
    told = tell(record)
    wait_until(lambda: heard == told, 5)


def test_starting_twice_is_one_reader(reader: FeedReader) -> None:
    reader.start()
    thread = reader._thread
    reader.start()
    assert reader._thread is thread


def test_who_has_left_hears_nothing(record: Record, reader: FeedReader, feed: LocalFeed) -> None:
    gone, there = [], []
    number, _ = reader.listen(gone.append)
    reader.listen(there.append)
    reader.leave(number)
    reader.leave(number)
    tell(record), feed.wake()
    wait_until(lambda: len(there) == 1)
    assert gone == []


def test_one_listeners_mistake_ends_its_own_feed_only(record: Record, reader: FeedReader, feed: LocalFeed) -> None:
    heard: list[Any] = []
    called: list[Any] = []

    def mistaken(event: Any) -> None:
        called.append(event)
        raise ZeroDivisionError

    reader.listen(mistaken)
    reader.listen(heard.append)
    tell(record, 3), feed.wake()
    wait_until(lambda: len(heard) == 3)
    assert len(called) == 1


def test_nothing_is_handed_out_while_it_is_paused(record: Record, reader: FeedReader, feed: LocalFeed) -> None:
    heard: list[Any] = []
    reader.listen(heard.append)
    with reader.paused() as position:
        tell(record), feed.wake()
        assert not threading.Event().wait(0.1)
        assert (heard, position) == ([], reader.position)
    wait_until(lambda: len(heard) == 1)


def test_what_is_not_kept_is_handed_on_as_it_is(reader: FeedReader, feed: LocalFeed) -> None:
    heard: list[Any] = []
    reader.listen(heard.append)
    event = {"id": None, "type": "service.metrics_updated"}
    feed.publish(event)
    assert heard == [event]


def test_the_end_of_an_operation_is_told_to_all_who_wait_for_it(
    record: Record, reader: FeedReader, feed: LocalFeed
) -> None:
    with reader.end_of("o") as one, reader.end_of("o") as two, reader.end_of("other") as other:
        tell(record, type_=EventType.OPERATION_PROGRESS, operation_id="o")
        tell(record, type_=EventType.OPERATION_COMPLETED, operation_id="o")
        feed.wake()
        assert one.wait(5)
        assert two.wait(5)
        assert not other.is_set()
    assert not reader._ends


def _reads(reader: FeedReader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    reads: list[int] = []
    real = reader._read
    monkeypatch.setattr(reader, "_read", lambda: reads.append(1) or real())
    return reads


def test_who_waits_for_an_end_only_is_not_woken_by_steps(
    record: Record, feed: LocalFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FeedReader(record, feed, poll_s=600)  # type: ignore[arg-type]
    reads = _reads(reader, monkeypatch)
    with reader.end_of("o") as ended:
        wait_until(lambda: reads == [1])  # whoever subscribes is woken once
        tell(record, 50, EventType.OPERATION_PROGRESS, operation_id="o")
        feed.wake(ends=False)
        assert not reader._grown.is_set()
        assert reads == [1]
        tell(record, type_=EventType.OPERATION_COMPLETED, operation_id="o")
        feed.wake()
        assert ended.wait(5)
        # Somebody who listens is woken by everything.
        heard: list[int] = []
        reader.listen(lambda event: heard.append(event["id"]))
        told = tell(record)
        feed.wake(ends=False)
        wait_until(lambda: heard == told, 5)
    reader.close()


def test_nothing_is_read_while_nobody_listens_and_who_comes_then_begins_behind_it(
    record: Record, feed: LocalFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FeedReader(record, feed, poll_s=600)  # type: ignore[arg-type]
    reads = _reads(reader, monkeypatch)
    number, _ = reader.listen(lambda _event: None)
    wait_until(lambda: reads == [1])
    reader.leave(number)
    missed = tell(record, 700)
    feed.wake()
    wait_until(lambda: not reader._grown.is_set())
    heard: list[int] = []
    _, position = reader.listen(lambda event: heard.append(event["id"]))
    assert position == missed[-1]
    told = tell(record, 3)
    feed.wake()
    wait_until(lambda: heard == told, 5)
    reader.close()


def test_a_reader_that_ends_lets_everybody_go(reader: FeedReader) -> None:
    with reader.end_of("o") as waiting:
        assert not reader.closed
        reader.close()
        assert waiting.is_set()
        with reader.end_of("o") as late:
            assert late.is_set()
    assert reader.closed


def test_a_database_that_is_away_is_read_again_later(
    record: Record, reader: FeedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    reader.listen(heard.append)
    failures = []
    real = feed_module.events.after

    def after(*args: Any) -> Any:
        if len(failures) < 2:
            failures.append(1)
            raise OperationalError("x", {}, Exception("gone"))
        return real(*args)

    monkeypatch.setattr(feed_module.events, "after", after)
    tell(record)
    wait_until(lambda: len(heard) == 1)
    assert len(failures) == 2


class Wire:
    """Where messages go, and whether they get through."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.woken = 0
        self.away = False
        self.open = threading.Event()
        self.open.set()

    def operation(self, operation_id: str, type_: str) -> None:
        self.open.wait(5)
        if self.away:
            raise redis.ConnectionError("refused")
        self.sent.append((operation_id, type_))

    def wake(self, ends: bool = True) -> None:
        self.woken += ends


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def courier(wire: Wire) -> Iterator[Courier]:
    made = Courier(Outbox(wire), wire)  # type: ignore[arg-type]
    yield made
    wire.open.set()
    made.close()


def test_operations_go_out_in_order_and_readers_are_woken_behind_them(courier: Courier, wire: Wire) -> None:
    for number in range(50):
        courier.operation(str(number), "group.start")
    wait_until(lambda: len(wire.sent) == 50 and wire.woken >= 1)
    assert [each[0] for each in wire.sent] == [str(number) for number in range(50)]


def test_a_wake_up_behind_an_operation_waits_a_moment_and_then_comes(
    courier: Courier, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    courier.wake()
    wait_until(lambda: wire.woken == 1)  # nobody waits for a claim: at once
    monkeypatch.setattr(courier_module, "_CLAIM_FIRST_S", 3600.0)
    courier.operation("1", "group.start")
    courier.wake()
    wait_until(lambda: wire.sent == [("1", "group.start")] and courier._due.empty())
    assert wire.woken == 1
    courier.close()
    assert wire.woken == 2


def test_many_wake_ups_are_few(courier: Courier, wire: Wire) -> None:
    wire.open.clear()
    courier.operation("1", "x.y")
    for _ in range(100):
        courier.wake()
    wire.open.set()
    courier.close()
    assert 1 <= wire.woken <= 3


def test_what_does_not_get_through_is_left_to_the_watchdog(courier: Courier, wire: Wire) -> None:
    wire.away = True
    courier.operation("1", "x.y")
    wait_until(lambda: wire.woken >= 1)
    wire.away = False
    courier.operation("2", "x.y")
    wait_until(lambda: wire.sent == [("2", "x.y")])


def test_a_full_courier_keeps_nobody_waiting(courier: Courier, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    assert courier_module._MAX_WAITING >= 1000
    courier._due = queue.Queue(2)
    wire.open.clear()
    for number in range(10):
        courier.operation(str(number), "x.y")
    courier.close(0.1)  # full: what waits is left
    wire.open.set()
    wait_until(lambda: len(wire.sent) >= 2)
    assert len(wire.sent) <= 3


def test_closing_sends_what_waits_and_one_that_never_began_has_nothing(wire: Wire) -> None:
    Courier(Outbox(wire), wire).close()  # type: ignore[arg-type]
    made = Courier(Outbox(wire), wire)  # type: ignore[arg-type]
    made.operation("1", "x.y")
    made.close()
    assert wire.sent == [("1", "x.y")]

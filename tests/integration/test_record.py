import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select, text

from domain.errors import DatabaseBusy
from domain.events import EventType
from models import events
from models.base import Base
from models.events import Event
from models.record import Record
from tests.integration.databases import postgres_database
from tests.waiting import wait_until

WRITERS = 8
WRITES = 100
_LIMIT_S = 60.0
_PROCESSES = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _database(kind: str, folder) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/registry.db"
        return
    with postgres_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    with _database(request.param, tmp_path) as found:
        record = Record(found)
        with record.engine.connect() as connection:
            Base.metadata.create_all(connection)
            connection.execute(text("CREATE TABLE counter (n INTEGER NOT NULL)"))
            connection.execute(text("INSERT INTO counter VALUES (0)"))
            connection.commit()
        record.close()
        yield found


def _count(url: str, _number: int, ready, done) -> None:
    record = Record(url, pool=1)
    ready.wait(_LIMIT_S)
    for _ in range(WRITES):
        with record.write() as session:
            seen = session.scalar(text("SELECT n FROM counter"))
            session.execute(text("UPDATE counter SET n = :n"), {"n": seen + 1})
    done.release()
    record.close()


def _append(url: str, number: int, ready, done) -> None:
    record = Record(url, pool=1)
    ready.wait(_LIMIT_S)
    for made in range(WRITES):
        with record.write() as session:
            events.append(session, EventType.ALERT_FIRED, {"writer": number, "made": made})
    done.release()
    record.close()


@contextlib.contextmanager
def _race(target, url: str) -> Iterator[Callable[[], bool]]:
    """Writers that begin together; what is given says whether all have written."""
    ready, done = _PROCESSES.Barrier(WRITERS), _PROCESSES.Semaphore(0)
    racers = [_PROCESSES.Process(target=target, args=(url, number, ready, done)) for number in range(WRITERS)]
    for racer in racers:
        racer.start()
    yield lambda: done.get_value() == WRITERS or any(racer.exitcode for racer in racers)
    for racer in racers:
        racer.join(_LIMIT_S)
    assert [racer.exitcode for racer in racers] == [0] * len(racers)


def test_no_update_is_lost_between_many_writers(url):
    with _race(_count, url) as over:
        wait_until(over, _LIMIT_S, "the race's end")

    record = Record(url)
    with record.read() as session:
        assert session.scalar(text("SELECT n FROM counter")) == WRITERS * WRITES
    record.close()


def test_the_order_of_commits_is_the_order_of_event_ids(url):
    record = Record(url)
    seen: list[int] = []

    def look() -> None:
        with record.read() as session:
            seen.extend(each.id for each in events.after(session, seen[-1] if seen else 0))

    def look_until(over: Callable[[], bool]) -> bool:
        look()
        return over()

    # A reader who asks for what is after its last id must never find that an older one came later.
    with _race(_append, url) as over:
        wait_until(lambda: look_until(over), _LIMIT_S, "the race's end")
    for _page in range(WRITERS * WRITES):
        known = len(seen)
        look()
        if len(seen) == known:
            break
    with record.read() as session:
        kept = list(session.scalars(select(Event.id).order_by(Event.id)))
    record.close()
    assert len(kept) == WRITERS * WRITES
    assert seen == kept


def _hold(url: str, held, release) -> None:
    record = Record(url, pool=1)
    with record.write():
        held.set()
        release.wait(30)
    record.close()


def test_a_lock_that_another_process_holds_is_an_error_in_time_and_reads_go_on(url):
    held, release = _PROCESSES.Event(), _PROCESSES.Event()
    holder = _PROCESSES.Process(target=_hold, args=(url, held, release))
    holder.start()
    assert held.wait(20)
    record = Record(url, timeout_s=1.0)
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseBusy), record.write():
            pass
        assert 0.5 < time.monotonic() - began < 5
        with record.read() as session:
            assert session.scalar(text("SELECT n FROM counter")) == 0
        release.set()
        wait_until(lambda: not holder.is_alive(), 20)
        with record.write() as session:
            session.execute(text("UPDATE counter SET n = 1"))
    finally:
        release.set()
        holder.join(20)
        record.close()

import contextlib
import multiprocessing
import time
from collections.abc import Iterator

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
RACE_S = 2.0
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


def _count(url: str, until: float, commits) -> None:
    record = Record(url, pool=1)
    made = 0
    while time.time() < until:
        with record.write() as session:
            seen = session.scalar(text("SELECT n FROM counter"))
            session.execute(text("UPDATE counter SET n = :n"), {"n": seen + 1})
        made += 1
    commits.put(made)
    record.close()


def _append(url: str, number: int, until: float, commits) -> None:
    record = Record(url, pool=1)
    made = 0
    while time.time() < until:
        with record.write() as session:
            events.append(session, EventType.ALERT_FIRED, {"writer": number, "made": made})
        made += 1
    commits.put(made)
    record.close()


def _race(target, arguments) -> int:
    commits = _PROCESSES.Queue()
    racers = [_PROCESSES.Process(target=target, args=(*each, commits)) for each in arguments]
    for racer in racers:
        racer.start()
    made = sum(commits.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(20)
    assert [racer.exitcode for racer in racers] == [0] * len(racers)
    return made


def test_no_update_is_lost_between_many_writers(url):
    until = time.time() + RACE_S + 2
    made = _race(_count, [(url, until)] * WRITERS)

    record = Record(url)
    with record.read() as session:
        assert session.scalar(text("SELECT n FROM counter")) == made
    record.close()
    assert made > WRITERS


def test_the_order_of_commits_is_the_order_of_event_ids(url):
    until = time.time() + RACE_S + 4
    record = Record(url)
    commits = _PROCESSES.Queue()
    racers = [_PROCESSES.Process(target=_append, args=(url, number, until, commits)) for number in range(WRITERS)]
    for racer in racers:
        racer.start()
    seen: list[int] = []
    # A reader who asks for what is after its last id must never find that an older one came later.
    while time.time() < until + 0.5:
        with record.read() as session:
            seen += [each.id for each in events.after(session, seen[-1] if seen else 0)]
    made = sum(commits.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(20)
    with record.read() as session:
        seen += session.scalars(select(Event.id).where(Event.id > (seen[-1] if seen else 0)).order_by(Event.id)).all()
        kept = session.scalars(select(Event.id).order_by(Event.id)).all()
    record.close()
    assert len(seen) == made
    assert seen == list(kept)


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

"""The last look at the ports, as both databases keep it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, select

from domain.observation import Binding, Listener, PortFacts
from models import registry_verdicts
from models.base import Base
from models.ports import PortClaim, SeenListener
from models.record import Record
from tests.integration.api_fixture import DATABASES
from tests.integration.databases import postgres_database

AT = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
SEEN = PortFacts(
    AT,
    (
        Listener("127.0.0.1", 8000, "tcp", 7, "nginx", "nginx: \ufffd 'master'", "root", 2**40, ((1, "init"),)),
        Listener("::", 53, "udp", user="systemd-resolve"),
        Listener("0.0.0.0", 9000, "tcp", 8, "x", None, "root", 5, (), "shop-web", "c" * 64, "web-1", True),
    ),
    (
        Binding("0.0.0.0", 9000, "tcp", "c" * 64, "web-1", True, True, "shop-web"),
        Binding("127.0.0.1", 5432, "tcp", "d" * 64, "db", False),
    ),
    {},
    ((8080, 8080), (9100, 9200)),
    (40000, 50000),
)


@pytest.fixture(params=DATABASES)
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Record]:
    with contextlib.ExitStack() as stack:
        sqlite = request.param == "sqlite"
        made = Record(f"sqlite:///{tmp_path}/registry.db" if sqlite else stack.enter_context(postgres_database()))
        stack.callback(made.close)
        Base.metadata.create_all(made.engine)
        yield made


def write(record: Record, seen: PortFacts) -> None:
    with record.write() as session:
        registry_verdicts.record_facts(session, seen, {"at": 1_000.0, "ticks": 100.0})


def facts(record: Record, port: int | None = None) -> PortFacts | None:
    with record.read() as session:
        return registry_verdicts.facts(session, port)


def test_a_look_is_read_again_as_it_was(record: Record) -> None:
    assert facts(record) is None
    write(record, SEEN)
    assert facts(record) == SEEN
    one = facts(record, 9000)
    assert one is not None
    assert (one.listeners, one.bindings) == (SEEN.listeners[2:], SEEN.bindings[:1])


def test_what_has_changed_is_written_and_nothing_else(record: Record) -> None:
    write(record, SEEN)
    statements: list[str] = []
    event.listen(record.engine, "before_cursor_execute", lambda *a: statements.append(a[2].split()[0]))
    write(record, replace(SEEN, observed_at=AT.replace(minute=1)))
    assert sorted(set(statements) - {"SELECT", "BEGIN"}) == ["UPDATE"]  # when it was looked at
    with record.read() as session:
        before = {row.port: row.id for row in session.execute(select(SeenListener.port, SeenListener.id))}

    moved = replace(SEEN.listeners[0], command="nginx: worker")
    write(record, replace(SEEN, listeners=(moved, *SEEN.listeners[2:]), bindings=SEEN.bindings[1:]))

    kept = facts(record)
    assert kept is not None
    assert set(kept.listeners) == {moved, SEEN.listeners[2]}
    assert kept.bindings == SEEN.bindings[1:]
    with record.read() as session:
        after = {row.port: row.id for row in session.execute(select(SeenListener.port, SeenListener.id))}
    assert after[9000] == before[9000]
    assert after[8000] != before[8000]


def test_while_the_engine_is_silent_what_ran_is_latent_and_what_was_claimed_stays(record: Record) -> None:
    write(record, SEEN)
    with record.write() as session:
        session.add(PortClaim(port=7000, source="spec"))
    write(record, replace(SEEN, bindings=(), unseen={"containers": "it does not answer"}))
    kept = facts(record)
    assert kept is not None
    assert [(each.port, each.running) for each in kept.bindings] == [(9000, False), (5432, False)]
    assert kept.unseen == {"containers": "it does not answer"}
    write(record, SEEN)
    assert facts(record) == replace(SEEN, bindings=tuple(reversed(SEEN.bindings)))
    with record.read() as session:
        assert session.scalar(select(PortClaim.id).where(PortClaim.source == "spec")) is not None


def test_a_holder_is_told_when_its_process_began(record: Record) -> None:
    write(record, replace(SEEN, listeners=(replace(SEEN.listeners[0], start_ticks=250),)))
    with record.read() as session:
        (holder,) = registry_verdicts.verdict(session, 8000)["entries"][0]["holders"]
    assert holder["started_at"] == "1970-01-01T00:16:42.500000Z"

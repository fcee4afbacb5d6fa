"""Ports are given once, whoever asks: threads over several connections to one database, SQLite and PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from domain.errors import ClosError, PortHeld, RangeFull
from models import leases, port_ranges, port_search, registry, registry_ports
from models.base import now
from models.ports import PortHistory, PortLease, PortRange
from models.record import Record
from tests.integration.api_fixture import DATABASES
from tests.integration.registry_fixture import Asked, asked_api, migrated_record
from tests.unit.api_kit import process

LOW, HIGH = 20_000, 20_149


@pytest.fixture(params=DATABASES)
def records(request: pytest.FixtureRequest) -> Iterator[list[Record]]:
    """Two records of one database, as two processes have them."""
    with migrated_record(request.param) as first:
        with first.write() as session:
            session.add(PortRange(project="p", start_port=LOW, end_port=HIGH))
        second = Record(first.url.render_as_string(hide_password=False), pool=8)
        yield [first, second]
        second.close()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `count` threads get that begin together; a refusal is a result."""
    gate, found = threading.Barrier(count), []

    def run(number: int) -> None:
        gate.wait(20)
        try:
            found.append(work(number))
        except ClosError as refused:
            found.append(refused)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(found) == count
    return found


def test_no_port_is_leased_twice_and_none_out_of_range(records: list[Record]) -> None:
    each, threads = 20, 16

    def ask(number: int) -> list[Any]:
        got: list[Any] = []
        for count in range(each):
            protocol = ("tcp", "udp")[count % 2]
            try:
                with records[number % 2].write() as session:
                    got.append((protocol, leases.lease(session, "p", protocol=protocol).port))
            except RangeFull as full:
                got.append(full)
        return got

    answers = [answer for got in at_once(threads, ask) for answer in got]
    given = [answer for answer in answers if isinstance(answer, tuple)]
    full = [answer for answer in answers if isinstance(answer, RangeFull)]
    assert len(given) + len(full) == threads * each
    assert set(Counter(given).values()) == {1}
    assert {port for protocol, port in given if protocol == "tcp"} == set(range(LOW, HIGH + 1))
    assert {port for protocol, port in given if protocol == "udp"} == set(range(LOW, HIGH + 1))
    assert len(full) == threads * each - 2 * (HIGH - LOW + 1)
    assert all(error.facts["leased"] == HIGH - LOW + 1 and error.facts["holders"] for error in full)


def test_of_many_who_name_one_port_one_gets_it_and_the_others_are_told_who(records: list[Record]) -> None:
    with records[0].write() as session:
        session.add_all(PortRange(project=f"p{number}", start_port=7000, end_port=7000) for number in range(30))

    def ask(number: int) -> Any:
        with records[number % 2].write() as session:
            made = port_ranges.allocate(session, {"project": f"p{number}", "preferred_port": 7000}, ())
            return made.project

    answers = at_once(30, ask)
    (winner,) = [answer for answer in answers if isinstance(answer, str)]
    refused = [answer for answer in answers if isinstance(answer, PortHeld)]
    assert len(refused) == 29
    assert {(error.holder or {})["name"] for error in refused} == {f"project {winner}"}


def test_services_that_are_registered_at_once_each_get_a_port_and_get_it_again(records: list[Record]) -> None:
    with records[0].write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9029))

    def register(number: int) -> tuple[str, int | None]:
        with records[number % 2].write() as session:
            made = registry.create_service(session, process(f"s{number}", group="g", ports=[{}]))
            return made.id, made.port

    def forget(number: int) -> None:
        with records[number % 2].write() as session:
            registry.delete_service(session, f"g-s{number}")

    before = dict(at_once(30, register))
    assert sorted(before.values()) == list(range(9000, 9030))
    at_once(30, forget)
    with records[0].write() as session, pytest.raises(RangeFull) as caught:
        leases.lease(session, "development")
    assert caught.value.facts["resting"]["count"] == 30
    assert dict(at_once(30, register)) == before


def test_movers_to_one_port_leave_it_to_one_and_whoever_lost_is_where_it_was(records: list[Record]) -> None:
    for number in range(10):
        with records[0].write() as session:
            registry.create_service(session, process(f"s{number}", group="g", ports=[{"host_port": 7000 + number}]))

    def move(number: int) -> Any:
        with records[number % 2].write() as session:
            service = registry.get(session, f"g-s{number}")
            return registry_ports.move(session, service, "tcp", 7000 + number, 7100, "p", frozenset())

    answers = at_once(10, move)
    (won,) = [answer for answer in answers if isinstance(answer, dict)]
    assert sum(isinstance(answer, PortHeld) for answer in answers) == 9
    with records[1].write() as session:
        wanted = {f"g-s{n}": 7000 + n for n in range(10)}
        there = dict(session.execute(select(PortLease.service_id, PortLease.port)).all())  # type: ignore[arg-type]
        assert there == wanted | {won["service_id"]: 7100}
        registry_ports.restore(session, won)
        again = dict(session.execute(select(PortLease.service_id, PortLease.port)).all())  # type: ignore[arg-type]
        assert again == wanted


def test_a_released_port_is_given_to_others_when_it_has_rested(records: list[Record]) -> None:
    with records[0].write() as session:
        port_ranges.give_back(session, leases.lease(session, "p").id)
    with records[1].write() as session:
        assert leases.lease(session, "p").port == LOW + 1
        for row in session.scalars(select(PortHistory)):
            row.released_at = now() - timedelta(seconds=port_search.REST_S)
    with records[0].write() as session:
        assert leases.lease(session, "p").port == LOW


@pytest.fixture(params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asked_api(request.param) as made:
        yield made


def test_a_full_range_and_wrong_ports_over_http(api: Asked) -> None:
    api.post("/port-ranges", {"project": "two", "start_port": 20_000, "end_port": 20_001})
    group = {"name": "g", "project": "two", "services": [process("a", ports=[{}]), process("b", ports=[{}])]}
    api.post("/groups", group)
    problem = api.refused("POST", "/ports/allocate", {"service_id": "g-a"}, 409, "port_held")
    assert [(each["port"], each["service_id"]) for each in problem["holders"]] == [(20_000, "g-a"), (20_001, "g-b")]
    assert "g-a (20000), g-b (20001)" in problem["detail"]
    for wrong in (0, 65_536, "22:22", -1, 1.5, True):
        wish = {"project": "two", "preferred_port": wrong}
        assert list(api.refused("POST", "/ports/allocate", wish, 422, "validation_failed")["errors"]) == [
            "preferred_port"
        ]
        span = {"project": "x", "start_port": wrong, "end_port": 65_535}
        assert "start_port" in api.refused("POST", "/port-ranges", span, 422, "validation_failed")["errors"]
        service = process("c", group="g", ports=[{"host_port": wrong}])
        assert api.refused("POST", "/services", service, 422, "validation_failed")["errors"]

"""A look at the conflicts of a service with very many ports must not keep the record's one writer busy."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from domain.conflicts import ConflictKind
from domain.observation import Listener, PortFacts
from domain.specs import MOST_PORTS
from models import registry_conflicts
from models.ports import PortConflict, PortRange
from tests.unit.worker_kit import Kit, plain

AT = datetime(2026, 11, 27, tzinfo=UTC)
FIRST = 20_000


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path)
    with made.record.write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9999))
    yield made
    made.close()


def publishing(numbers: range, name: str = "media") -> dict[str, Any]:
    return plain(name, ports=[{"name": f"p{each}", "host_port": each, "protocol": "udp"} for each in numbers])


def look(kit: Kit, facts: PortFacts | None = None) -> int:
    """How many statements one look takes in its write transaction."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(kit.record.engine, "before_cursor_execute", note)
    begun = time.monotonic()
    with kit.record.write() as session:
        registry_conflicts.refresh(session, facts)
    print(f"{len(seen)} statements, {time.monotonic() - begun:.3f} s")
    event.remove(kit.record.engine, "before_cursor_execute", note)
    return len(seen)


def open_ones(kit: Kit) -> list[PortConflict]:
    with kit.record.read() as session:
        rows = list(registry_conflicts.open_ones(session))
        session.expunge_all()
        return rows


@pytest.mark.parametrize("many", [600, MOST_PORTS])
def test_a_run_of_ports_outside_of_the_range_is_one_warning_however_long_it_is(kit: Kit, many: int) -> None:
    kit.group("shop", publishing(range(FIRST, FIRST + many)))
    taken = look(kit)

    (row,) = open_ones(kit)
    assert (row.kind, row.port, row.claimants) == ("out_of_range", FIRST, ["shop-media"])
    assert row.detail is not None
    assert f"{FIRST}-{FIRST + many - 1}" in row.detail
    assert [each["service_id"] for each in kit.events("port.conflict_detected")] == ["shop-media"]
    assert taken < 40


def test_ports_with_gaps_are_one_warning_where_there_are_many(kit: Kit) -> None:
    kit.group("shop", publishing(range(FIRST, FIRST + 2 * MOST_PORTS, 2)))
    assert look(kit) < 40
    (row,) = open_ones(kit)
    assert row.detail is not None
    assert row.detail.startswith(f"each of the ports {FIRST}, {FIRST + 2}, ")
    assert f"and {MOST_PORTS - 8} more" in row.detail


def held(count: int) -> PortFacts:
    seen = [Listener("127.0.0.1", FIRST + each, "udp", pid=812, name="sip", start_ticks=77) for each in range(count)]
    return PortFacts(AT, tuple(seen), ())


def test_many_ports_that_another_has_cost_a_row_and_an_event_each_and_nothing_else(kit: Kit) -> None:
    few, many = 100, 500
    kit.group("shop", publishing(range(FIRST, FIRST + many)))
    for_few, for_more = look(kit, held(few)), look(kit, held(many))

    of_kind = [row for row in open_ones(kit) if row.kind == ConflictKind.FOREIGN_PROCESS]
    assert len(of_kind) == many
    assert all(row.options for row in of_kind)
    assert {each["group_name"] for each in kit.events("port.conflict_detected")} == {"shop"}
    assert for_more - for_few <= 2 * (many - 2 * few)
    assert look(kit, held(many)) < 400


def test_the_first_of_many_conflicts_are_offered_a_port_and_all_can_be_moved(kit: Kit) -> None:
    kit.group("shop", publishing(range(FIRST, FIRST + 100)))
    look(kit, held(100))
    offers = [
        [each["strategy"] for each in row.options or ()] for row in open_ones(kit) if row.kind == "foreign_process"
    ]
    assert "migrate_service" in offers[0]
    assert "migrate_service" not in offers[-1]
    assert "change_port" in offers[-1]

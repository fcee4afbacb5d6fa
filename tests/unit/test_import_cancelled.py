"""A new import of a file that has dropped services, cancelled while they are taken away. No engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from domain.planning import Action
from models.services import Service
from tests.unit.import_kit import Importer, kit_with_ranges
from tests.unit.takeover_kit import cancel_during
from tests.unit.worker_kit import Kit, status


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_with_ranges(tmp_path) as made:
        yield made


@pytest.fixture
def demo(kit: Kit, tmp_path: Path) -> Importer:
    """A group of two that runs; its file has dropped `b`."""
    found = Importer(kit, tmp_path / "demo")
    kit.memory._prepared |= {"demo-a", "demo-b"}
    found.imports("name: demo\nservices: {a: {image: 'x:1'}, b: {image: 'x:1'}}\n")
    assert kit.does("start", "demo").status == "completed"
    found.write("name: demo\nservices: {a: {image: 'x:1'}}\n")
    return found


def _services(kit: Kit) -> list[str]:
    with kit.record.read() as session:
        return list(session.scalars(select(Service.id).order_by(Service.id)))


def test_it_lists_what_it_did_and_has_forgotten_nothing(demo: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    operation_id = demo.ask()
    cancel_during(demo.kit, monkeypatch, operation_id, Action.STOP)

    ended = demo.works(operation_id)

    assert (ended.status, status(ended)) == (
        "cancelled", {"stop:demo-b": "completed", "remove:demo-b": "skipped"}
    )  # fmt: skip
    result = ended.result or {}
    assert [(each["step"], each["text"]) for each in result["left"]] == [
        ("stop:demo-b", "it was stopped and is left stopped")
    ]
    assert (result["undone"], result["diff"]["removed"]) == ([], ["b"])
    assert _services(demo.kit) == ["demo-a", "demo-b"]


def test_a_cancel_that_comes_as_the_last_one_goes_finds_it_imported(
    demo: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = demo.ask()
    cancel_during(demo.kit, monkeypatch, operation_id, Action.REMOVE)

    ended = demo.works(operation_id)

    assert (ended.status, ended.error, set(status(ended).values())) == ("completed", None, {"completed"})
    assert _services(demo.kit) == ["demo-a"]

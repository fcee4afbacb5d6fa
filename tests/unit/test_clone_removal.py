"""What a worker does about clones: they go with what was made for them, and with nothing else."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from domain.clone_storage import MARK
from domain.errors import VolumeInUse
from models import cloning
from models.base import now
from models.cloning import Wanted
from models.groups import Group
from models.ports import PortRange
from tests.unit.worker_kit import Kit, plain, status
from workers import clones


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path)
    with made.record.write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9999))
    made.group("shop", plain("db", runtime="docker", image="i", volumes=["data:/d"]), plain("web", "db"))
    yield made
    made.close()


def clone(kit: Kit, name: str, ttl_s: float | None = None) -> dict[str, str]:
    """Make it; its volumes with their marks."""
    end = None if ttl_s is None else now() + timedelta(seconds=ttl_s)
    with kit.record.write() as session:
        made = cloning.clone(session, Wanted("shop", name, expires_at=end))
        return cloning.own_volumes(made.groups[0])


def there(kit: Kit, name: str) -> bool:
    with kit.record.read() as session:
        return session.get(Group, name) is not None


def test_a_clones_removal_ends_with_its_own_volumes(kit: Kit) -> None:
    marks = clone(kit, "x")
    assert marks.keys() == {"x_data"}
    kit.memory.volumes = {**marks, "data": None, "y_data": "another"}
    assert kit.does("start", "x").status == "completed"
    ended = kit.does("remove", "x")
    assert ended.status == "completed"
    assert [step.id for step in ended.steps][-1] == "remove:volume:x_data"
    assert set(status(ended).values()) == {"completed"}
    assert kit.memory.volumes == {"data": None, "y_data": "another"}
    assert (there(kit, "x"), there(kit, "shop")) == (False, True)


def test_a_volume_of_that_name_that_was_not_made_for_it_stays(kit: Kit) -> None:
    clone(kit, "x")
    kit.memory.volumes = {"x_data": None}
    assert kit.does("remove", "x").status == "completed"
    assert kit.memory.volumes == {"x_data": None}


def test_the_originals_removal_takes_no_volume_away(kit: Kit) -> None:
    marks = clone(kit, "x")
    kit.memory.volumes = {**marks, "data": None}
    assert all("volume" not in step.id for step in kit.does("remove").steps)
    assert kit.memory.volumes == {**marks, "data": None}


def test_a_clone_whose_volume_somebody_uses_stays_registered(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    clone(kit, "x")

    def refuse(name: str, mark: str) -> None:
        raise VolumeInUse(name, ["other"])

    monkeypatch.setattr(kit.memory, "remove_volume", refuse)
    ended = kit.does("remove", "x")
    assert (ended.status, (ended.error or {})["code"]) == ("failed", "volume_in_use")
    assert there(kit, "x")


def test_a_tick_takes_away_what_has_expired(kit: Kit) -> None:
    clone(kit, "x", ttl_s=-1)
    clone(kit, "y", ttl_s=60)
    kit.does("start", "x")
    clones.collect(kit.context)
    (message,) = kit.sent()
    assert kit.run(message.args[0]).status == "completed"
    assert (there(kit, "x"), there(kit, "y")) == (False, True)
    told = kit.events("group.expiring")
    assert {each["group_name"] for each in told} == {"x", "y"}
    clones.collect(kit.context)
    assert kit.sent() == []
    assert len(kit.events("group.expiring")) == 2


def test_a_clones_mark_is_no_other_clones(kit: Kit) -> None:
    first, second = clone(kit, "x"), clone(kit, "y")
    assert set(first.values()).isdisjoint(second.values())
    with kit.record.read() as session:
        volumes = session.get_one(Group, "x").volumes or {}
    assert volumes["data"]["labels"] == {MARK: first["x_data"]}

"""What the first start of a home makes, and what later ones leave alone."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api import first_start, passwords
from api.errors import Overloaded
from api.passwords import hash_password, is_password, new_key
from models.access import ApiKey, User
from models.ports import PortRange
from models.record import Record
from tests.unit.api_kit import PORT, configured, make_record, together


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def prepared(home: Path, record: Record | None = None, **more: str) -> tuple[Record, dict[str, Any]]:
    known = configured(home, **more)
    record = record or make_record(home)
    first_start.prepare(known, record)
    return record, json.loads((home / "credentials.json").read_text())


def rows(record: Record, kind: Any) -> list[Any]:
    with record.read() as session:
        return list(session.scalars(select(kind)).all())


def test_a_new_home_gets_an_administrator_a_key_and_the_port_ranges(home: Path) -> None:
    record, known = prepared(home)
    assert known.keys() == {"url", "websocket_url", "username", "api_key"}
    assert (known["url"], known["username"]) == (f"http://127.0.0.1:{PORT}", "admin")
    assert known["websocket_url"].startswith("ws://127.0.0.1:")
    (user,) = rows(record, User)
    assert (user.username, user.role, user.disabled) == ("admin", "admin", False)
    password = (home / "initial-password").read_text().strip()
    assert is_password(user.password_hash, password)
    (key,) = rows(record, ApiKey)
    assert key.id in known["api_key"]
    assert known["api_key"] not in str(vars(key))
    expected = {(each.project, each.start, each.end) for each in configured(home).port_ranges}
    assert {(each.project, each.start_port, each.end_port) for each in rows(record, PortRange)} == expected
    for name in ("credentials.json", "initial-password"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    record.close()


def test_a_second_start_changes_nothing(home: Path) -> None:
    record, known = prepared(home)
    with record.write() as session:
        session.delete(session.scalars(select(PortRange).limit(1)).one())
    (home / "initial-password").unlink()
    before = len(rows(record, PortRange))
    _, again = prepared(home, record)
    assert again == known
    assert len(rows(record, User)) == len(rows(record, ApiKey)) == 1
    assert len(rows(record, PortRange)) == before
    assert not (home / "initial-password").exists()
    record.close()


def test_a_moved_port_is_written_down_and_the_key_stays(home: Path) -> None:
    record, known = prepared(home)
    _, moved = prepared(home, record, CLOS_API_PORT="28081")
    assert moved == known | {"url": "http://127.0.0.1:28081"}
    record.close()


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"api_key": ""}', None])
def test_lost_credentials_are_made_anew(home: Path, content: str | None) -> None:
    record, known = prepared(home)
    file = home / "credentials.json"
    file.unlink() if content is None else file.write_text(content)
    _, again = prepared(home, record)
    assert again["api_key"].startswith("clos_")
    assert again["api_key"] != known["api_key"]
    assert len(rows(record, ApiKey)) == 2
    assert len(rows(record, User)) == 1
    record.close()


def test_a_home_whose_administrator_has_another_name_is_left_alone(home: Path) -> None:
    record = make_record(home)
    with record.write() as session:
        session.add(User(username="boss", role="admin", disabled=False))
    first_start.prepare(configured(home), record)
    assert not (home / "credentials.json").exists()
    assert not (home / "initial-password").exists()
    assert [each.username for each in rows(record, User)] == ["boss"]
    record.close()


def test_several_processes_that_start_at_once_make_one_of_each(home: Path) -> None:
    record, known = make_record(home), configured(home)
    together(4, lambda: first_start.prepare(known, record))
    assert len(rows(record, User)) == 1
    assert len(rows(record, PortRange)) == len(known.port_ranges)
    password = (home / "initial-password").read_text().strip()
    assert is_password(rows(record, User)[0].password_hash, password)
    kept = json.loads((home / "credentials.json").read_text())["api_key"]
    assert any(each.id in kept for each in rows(record, ApiKey))
    record.close()


def test_a_password_that_cannot_be_written_is_not_committed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, known = make_record(home), configured(home)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_start, "write_secret", full)
    with pytest.raises(OSError, match="No space"):
        first_start.prepare(known, record)
    assert rows(record, User) == []
    record.close()


def test_a_secret_is_put_in_place_whole(home: Path) -> None:
    file = home / "secret"
    file.write_text("old")
    first_start.write_secret(file, "new\n")
    assert file.read_text() == "new\n"
    assert [each.name for each in home.iterdir()] == ["secret"]
    first_start.forget_initial_password(home)


def test_a_password_is_compared_and_never_kept() -> None:
    kept = hash_password("correct horse")
    assert "correct" not in kept
    assert kept != hash_password("correct horse")
    assert is_password(kept, "correct horse")
    assert not is_password(kept, "Correct horse")
    assert not is_password(None, "x")
    assert not is_password("no hash", "x")


def test_too_many_at_once_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_TURN_S", 0.01)
    taken = 0
    while passwords._turns.acquire(blocking=False):
        taken += 1
    try:
        assert taken == 4
        with pytest.raises(Overloaded):
            hash_password("x")
        with pytest.raises(Overloaded):
            is_password(None, "x")
    finally:
        passwords._turns.release(taken)


def test_keys_are_long_random_and_found_by_their_digest() -> None:
    one, two = new_key(), new_key()
    assert one.text != two.text
    assert len(one.text) > 50
    assert one.text.startswith(f"clos_{one.id}_")
    assert len(one.digest) == 64

"""The demonstration's story, and the check of the database, without a CLOS that runs."""

import shutil
import socket
import sqlite3
import threading

import pytest

from cli.local import verify_db
from cli.local.demo import _is_free, _squatter
from cli.local.registry import revisions
from cli.local.supervision import ROOT
from settings import load
from tests.waiting import wait_until


@pytest.fixture
def held():
    return {
        "status": "failed",
        "error": {"code": "port_held", "message": "port 9311/tcp is held by python", "holder": {"pid": 7, "name": "x"}},
    }


def test_the_demo_registers_shows_the_conflict_and_ends_well(clos, run, held):
    clos.services.clear()
    clos.groups.clear()
    clos.ends = [held]
    code, out, err = run("demo")
    assert code == 0, out + err
    told = ["Registered the group shop", "A stranger", "held by x (pid 7)", "The stranger goes", "The shop answers at",
            "apples: 12", "/docs"]  # fmt: skip
    places = [out.index(words) for words in told]
    assert places == sorted(places)
    assert err == ""
    code, out, _ = run("demo")
    assert code == 0
    assert "nothing was changed" in out
    assert len(clos.operations) == 2


def test_the_demo_fails_where_the_start_fails_for_another_reason(clos, run):
    clos.services.clear()
    clos.groups.clear()
    clos.end = {"status": "failed", "error": {"code": "start_failed", "message": "no"}}
    assert run("demo")[0] == 1
    assert len(clos.operations) == 1


def test_the_demo_waits_for_a_start_that_is_under_way(clos, run):
    for one in clos.services.values():
        one["status"] = "starting"
        one["ports"][0]["url"] = f"{clos.url}/"
    clos.held.clear()
    under_way = clos.operation("group.start", group_name="shop")
    group, services = clos.groups["shop"], {"items": list(clos.services.values()), "next_cursor": None}
    problem = {"code": "operation_in_progress", "operation_id": under_way["id"]}
    clos.next_answer = [(200, group), (200, services), (200, services), (409, problem)]
    threading.Thread(target=lambda: (wait_until(lambda: not clos.next_answer), clos.held.set()), daemon=True).start()
    assert run("demo")[0] == 0
    assert len(clos.operations) == 1


def test_the_stranger_holds_the_port_only_as_long_as_it_is_told():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with _squatter(port) as pid:
        assert pid
        assert not _is_free(port)
    assert _is_free(port)


# --- the database --------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path):
    """A registry that says it is the newest."""
    file = tmp_path / "registry.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revisions(ROOT)[1]])
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE b (a INTEGER REFERENCES a(id))")
    connection.close()
    return file


def verified(file):
    return verify_db.verify(load({"CLOS_HOME": str(file.parent), "HOME": str(file.parent)}))


def test_a_sound_registry_is_said_to_be_sound(database):
    assert verified(database) == {
        "database": str(database),
        "ok": True,
        "checks": {"integrity": "ok", "foreign_keys": "ok", "revision": "ok"},
    }


def test_a_reference_to_nothing_and_an_old_revision_are_named(database):
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO b VALUES (5)")
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    found = verified(database)
    assert not found["ok"]
    assert "b row 1 misses its a" in found["checks"]["foreign_keys"]
    assert "0000" in found["checks"]["revision"]


def test_a_damaged_page_is_found(database):
    with sqlite3.connect(database) as connection:
        connection.executemany("INSERT INTO a VALUES (?)", [(number,) for number in range(5000)])
    connection.close()
    pages = bytearray(database.read_bytes())
    pages[-4096:] = b"\xff" * 4096
    database.write_bytes(bytes(pages))
    assert not verified(database)["ok"]


def test_without_a_registry_it_says_how_to_make_one(database, run, monkeypatch):
    shutil.rmtree(database.parent / "none", ignore_errors=True)
    monkeypatch.setenv("CLOS_HOME", str(database.parent / "none"))
    code, out, err = run("config", "--verify-db")
    assert code == 1
    assert "clos init" in out
    assert "not sound" in err

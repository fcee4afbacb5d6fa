"""The demonstration's story, and the check of the database, without a CLOS that runs."""

import shutil
import socket
import sqlite3
import threading

import pytest

from cli.definitions import read_group
from cli.local import demo, verify_db
from cli.local.registry import revisions
from cli.local.stage import is_free, squatter
from cli.local.supervision import ROOT
from settings import load
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def ports_of_its_own(monkeypatch):
    """The sample's ports are taken by other demonstrations that run beside this one."""

    def read(file):
        body = read_group(file)
        for each in body["services"]:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                each["ports"][0]["host_port"] = probe.getsockname()[1]
        return body

    monkeypatch.setattr(demo, "read_group", read)


def test_the_demo_registers_shows_who_moves_takes_it_back_and_ends_well(clos, run):
    clos.services.clear()
    clos.groups.clear()
    clos.conflict()
    clos.targets.insert(0, ("migrate_port", "shop-api"))
    code, out, err = run("demo")
    assert code == 0, out + err
    told = ["Registered the group shop", "A stranger", "held by nc (pid 812", "migrate_service 9311 to 9400",
            "apples: 12", "The stranger goes", "Taking the move back: clos conflicts undo 1", "api is back at",
            "The shop answers at", "/docs"]  # fmt: skip
    places = [out.index(words) for words in told[:-2]]
    assert places == sorted(places)
    assert out.rindex("The shop answers at") > places[-1]
    assert err == ""
    assert [one["type"] for one in clos.operations.values()] == ["group.start", "conflict.scan", "conflict.undo"]
    assert clos.operations["op-0001"]["parameters"] == {"on_conflict": "migrate"}
    code, out, _ = run("demo")
    assert code == 0
    assert "nothing was changed" in out
    assert len(clos.operations) == 3


def test_the_demo_goes_on_where_the_stranger_was_in_nobodys_way(clos, run):
    clos.services.clear()
    clos.groups.clear()
    code, out, err = run("demo")
    assert code == 0, out + err
    assert "There was none" in out
    assert [one["type"] for one in clos.operations.values()] == ["group.start"]


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
    clos.next_answer = [(200, group), (200, services), (200, services), (200, services), (409, problem)]
    threading.Thread(target=lambda: (wait_until(lambda: not clos.next_answer), clos.held.set()), daemon=True).start()
    assert run("demo")[0] == 0
    assert len(clos.operations) == 1


def test_the_stranger_holds_the_port_only_as_long_as_it_is_told():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with squatter(port) as pid:
        assert pid
        assert not is_free(port)
    assert is_free(port)


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

"""Migrations: up, down and up again, an empty diff, and the rules that Alembic does not see. On both databases."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from models import events, services
from models.base import Base
from models.record import Record
from models.rules import APPEND_ONLY
from tests.integration.databases import postgres_database

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/registry.db"
    else:
        with postgres_database() as made:
            yield made


def alembic(url: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-x", f"url={url}", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def triggers(record: Record) -> set[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if record.is_sqlite
        else "SELECT DISTINCT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'public'"
    )
    with record.read() as session:
        return set(session.scalars(text(query)))


def test_up_down_and_up_again_leaves_an_empty_diff_and_every_rule_in_place(url):
    alembic(url, "upgrade", "head")
    alembic(url, "downgrade", "base")
    record = Record(url)
    assert set(inspect(record.engine).get_table_names()) <= {"alembic_version"}
    alembic(url, "upgrade", "head")

    alembic(url, "check")  # fails if autogenerate finds a difference
    assert triggers(record) == set(APPEND_ONLY)
    record.close()


def test_partial_indexes_keep_their_predicates(url):
    alembic(url, "upgrade", "head")
    record = Record(url)
    dialect = record.engine.dialect.name
    wanted = {
        index.name
        for table in Base.metadata.tables.values()
        for index in table.indexes
        if index.dialect_options[dialect].get("where") is not None
    }
    found = {
        index["name"]
        for table in Base.metadata.tables
        for index in inspect(record.engine).get_indexes(table)
        if index.get("dialect_options", {}).get(f"{dialect}_where") is not None
    }

    assert wanted
    assert found == wanted
    record.close()


def test_an_event_cannot_be_changed(url):
    alembic(url, "upgrade", "head")
    record = Record(url)
    with record.write() as session:
        event_id = events.append(session, events.EventType.OPERATION_CREATED, {})

    with pytest.raises(DatabaseError, match="append-only"), record.write() as session:
        session.execute(text("UPDATE system_events SET actor = 'me' WHERE id = :id"), {"id": event_id})
    record.close()


def test_a_v1_program_can_still_insert_a_service(url):
    alembic(url, "upgrade", "head")
    record = Record(url)
    with record.write() as session:
        session.execute(
            text(
                "INSERT INTO services (id, name, group_name, port, status, health_url, created_at, updated_at) VALUES "
                "('core-api', 'api', 'core', 5001, 'stopped', NULL, '2025-09-05 17:11:12', '2025-09-05 17:11:12')"
            )
        )

    with record.read() as session:
        spec = session.get_one(services.Service, "core-api").spec()
    assert spec.first_port() == 5001
    assert spec.stop_timeout_s == 30
    record.close()


def test_the_tables_have_their_names(url):
    alembic(url, "upgrade", "head")
    record = Record(url)
    names = set(inspect(record.engine).get_table_names())

    assert {
        "services", "service_groups", "port_ranges", "service_tags", "service_environment", "service_volumes",
        "service_networks", "service_dependencies", "service_metrics", "system_metrics", "system_events",
        "port_conflicts", "system_config", "user_sessions", "api_keys", "operations",
    } <= names  # fmt: skip
    record.close()

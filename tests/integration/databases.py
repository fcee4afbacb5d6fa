"""Databases for tests: migrated ones of both kinds, and a PostgreSQL server of the test run's own, which is started
once per process that needs it, with a fresh database per test.
"""

import argparse
import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url

from tests.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_BIN = Path("/usr/lib/postgresql/15/bin")


def migrate(url: str) -> None:
    """`alembic upgrade head` on a database in which nothing is: a new file, or an empty database of a server."""
    path = make_url(url).database
    if url.startswith("sqlite") and path is not None:
        Path(path).write_bytes(_migrated_file())
    else:
        _upgrade(url)


@functools.cache
def _migrated_file() -> bytes:
    # Made once per process: hundreds of tests begin with it.
    with tempfile.TemporaryDirectory(prefix="clos-migrated-") as folder:
        path = Path(folder) / "registry.db"
        _upgrade(f"sqlite:///{path}")
        # Whoever closes a database last writes its log into it.
        assert [each.name for each in Path(folder).iterdir()] == [path.name]
        return path.read_bytes()


def _upgrade(url: str) -> None:
    config = Config(_ROOT / "alembic.ini", cmd_opts=argparse.Namespace(x=[f"url={url}"]))
    config.set_main_option("script_location", str(_ROOT / "migrations"))
    command.upgrade(config, "head")


def _binary(name: str) -> str:
    return str(_BIN / name) if (_BIN / name).exists() else str(shutil.which(name))


def _as_postgres() -> list[str]:
    # The server refuses to run as root.
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@functools.cache
def _server() -> str:
    """Start it; the URL of its maintenance database."""
    from tests.integration.rig import free_port

    folder = Path(tempfile.mkdtemp(prefix="clos-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    user = [*_as_postgres()]
    subprocess.run(
        [*user, _binary("initdb"), "-D", str(data), "-A", "trust", "-U", "clos", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    server = subprocess.Popen(
        [*user, _binary("postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1",
         "-c", "fsync=off", "-c", "max_connections=300"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )  # fmt: skip
    url = f"postgresql+psycopg://clos@127.0.0.1:{port}/postgres"

    def stop() -> None:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    wait_until(lambda: _answers(url), 30, "PostgreSQL's start")
    return url


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url.replace("+psycopg", ""), connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a fresh database, dropped afterwards."""
    maintenance = _server()
    name = f"clos_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(maintenance.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield maintenance.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with psycopg.connect(maintenance.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

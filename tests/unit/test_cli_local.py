import contextlib
import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher

import pytest
from click.testing import CliRunner

import settings
from bus.process_identity import identity, is_alive, read_identity, register, registered, send, start_ticks
from cli.errors import ApiError, CliError
from cli.invocation import Invocation
from cli.local import checks, embedded_redis, process_manager, readiness, registry, running, supervision
from cli.local.doctor import doctor
from cli.local.down import _finish, _still_running, _stop_services
from cli.local.init import init
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


# --- identities -----------------------------------------------------------------------------------------------


def test_a_process_is_itself_and_nobody_else() -> None:
    own = identity()
    assert is_alive(own)
    assert not is_alive(own | {"start_ticks": own["start_ticks"] + 1})
    assert not is_alive(own | {"boot_id": "another boot"})
    for pid in (None, True, "1", 1, -1, 2**22 + 1):
        assert not is_alive(own | {"pid": pid})


def test_a_corpse_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    wait_until(lambda: start_ticks(child.pid) is None, 5, "it became a zombie")
    with pytest.raises(ProcessLookupError):
        identity(child.pid)
    child.wait(5)


def test_a_registered_process_is_found_until_it_is_gone(tmp_path: Path) -> None:
    file = register(tmp_path, "worker")
    (found,) = registered(tmp_path)
    assert (found["role"], found["pid"], found["file"]) == ("worker", os.getpid(), str(file))
    file.write_text(json.dumps(identity() | {"start_ticks": 1}))
    (file.parent / "broken.json").write_text("{")
    (file.parent / "list.json").write_text("[]")
    assert registered(tmp_path) == []
    assert read_identity(file) is None


def test_only_the_process_that_is_meant_is_signalled() -> None:
    child = subprocess.Popen(["sleep", "60"])
    its = identity(child.pid)
    assert not send(its | {"start_ticks": 1}, signal.SIGKILL)
    assert child.poll() is None
    assert send(its, signal.SIGKILL)
    child.wait(5)
    assert not send(its, signal.SIGKILL)


def test_what_ignores_term_is_killed() -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    threading.Thread(target=child.wait, daemon=True).start()
    running.end([identity(child.pid)], term_s=0.2)
    assert wait_until(lambda: child.returncode, 5) == -signal.SIGKILL


# --- the home's lock --------------------------------------------------------------------------------------------


def test_one_home_is_started_by_one_command_at_a_time(tmp_path: Path) -> None:
    settings.prepare_home(tmp_path)
    with running.starting(tmp_path):
        with pytest.raises(CliError, match=f"pid {os.getpid()}"), running.starting(tmp_path):
            pass
        running.record_supervisor(tmp_path, os.getpid())
    with pytest.raises(CliError, match="already"), running.starting(tmp_path):
        pass


def test_leftovers_are_told_and_ended(tmp_path: Path) -> None:
    settings.prepare_home(tmp_path)
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    for child, role in zip(children, ("worker", "redis"), strict=True):
        file = tmp_path / "run" / "pids" / f"{role}.{child.pid}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(identity(child.pid) | {"role": role}))
    said: list[str] = []
    running.end_leftovers(tmp_path, said.append)
    assert [child.wait(5) for child in children] == [-signal.SIGTERM] * 2
    assert f"worker (pid {children[0].pid})" in said[0]
    assert registered(tmp_path) == []


# --- supervisord --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["api", "two words: x", "redis: x", "api: x\napi: y", "api: "])
def test_a_wrong_procfile_is_refused_by_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "Procfile"
    file.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(CliError, match=r"Procfile:[34]"):
        process_manager.read_procfile(file)


def test_a_missing_procfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        process_manager.read_procfile(tmp_path / "Procfile")


def test_the_procfile_of_this_repository_names_the_four_processes() -> None:
    assert list(process_manager.read_procfile(ROOT / "Procfile")) == ["api", "websocket", "worker", "scheduler"]


def test_supervisord_understands_what_is_written_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.options import ServerOptions

    home = tmp_path / 'a "home" #1 ;x'
    settings.prepare_home(home)
    programs = {"api": ["python", "-m", "api.main"], "worker": ["python", "w x.py", 'a"b']}
    file = process_manager.write_configuration(home, programs, 2, redis=True)
    for name, value in process_manager.environment(home, ROOT, "/py thon", {}).items():
        monkeypatch.setenv(name, value)
    options = ServerOptions()
    options.realize(["-n", "-c", str(file)])
    found = {p.name: p for group in options.process_group_configs for p in group.process_configs}
    assert set(found) == {"redis", "api", "worker_0", "worker_1"}
    assert shlex.split(found["worker_1"].command) == ["/py thon", "w x.py", 'a"b']
    assert found["worker_1"].stdout_logfile == str(home / "logs" / "worker_1.log")
    assert [found["api"].startsecs, found["api"].autorestart.__name__] == [0, "RestartUnconditionally"]
    assert found["redis"].priority < found["api"].priority
    assert file.stat().st_mode & 0o077 == 0


def test_a_long_home_gets_its_socket_in_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    short, long = Path("/x"), tmp_path / ("y" * 120)
    assert process_manager.socket_path(short) == Path("/x/run/supervisor.sock")
    moved = process_manager.socket_path(long)
    try:
        assert len(str(moved)) < 90
        assert process_manager.socket_path(long) == moved
        moved.parent.chmod(0o755)
        with pytest.raises(CliError, match="somebody else"):
            process_manager.socket_path(long)
    finally:
        moved.parent.rmdir()


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[tuple[process_manager.Control, dict[str, int]]]:
    """supervisord's side of the socket: programs with a state, which `stopProcess` stops."""
    states = {"redis": 20, "api": 20, "worker": 0}

    def info() -> list[dict[str, Any]]:
        return [
            {"name": n, "group": n, "state": s, "statename": "X", "pid": 1, "start": next(lives), "stop": 0}
            for n, s in states.items()
        ]

    def stop(name: str, _wait: bool) -> bool:
        states[name.partition(":")[0]] = 0
        return True

    lives = iter(range(1, 10_000))
    dispatcher = SimpleXMLRPCDispatcher(allow_none=True)
    dispatcher.register_multicall_functions()
    dispatcher.register_function(info, "supervisor.getAllProcessInfo")
    dispatcher.register_function(stop, "supervisor.stopProcess")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = dispatcher._marshaled_dispatch(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)  # type: ignore[arg-type]

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_UNIX

        def server_bind(self) -> None:
            self.socket.bind(self.server_address)

    path = tmp_path / "s.sock"
    with Server(str(path), Handler) as server:  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield process_manager.Control(path), states
        server.shutdown()


def test_programs_are_stopped_together(supervisord: tuple[process_manager.Control, dict[str, int]]) -> None:
    control, states = supervisord
    assert list(control.running()) == ["redis:redis", "api:api"]
    running._stop_and_wait(control, ["redis:redis", "api:api"], 1e12)
    assert states == {"redis": 0, "api": 0, "worker": 0}


def test_a_supervisor_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        process_manager.Control(tmp_path / "none.sock").programs()


# --- readiness ------------------------------------------------------------------------------------------------------


@pytest.fixture
def http_api() -> Iterator[tuple[str, dict[str, Any]]]:
    """An API whose `/health` says what the test puts into the mapping."""
    answer: dict[str, Any] = {"checks": {n: {"status": "ok"} for n in ("database", "redis", "workers", "scheduler")}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answer
        server.shutdown()


PROGRAMS = ["api", "websocket", "worker", "scheduler"]


def _wait(tmp_path: Path, control: process_manager.Control, url: str, limit_s: float = 0.3, alive: bool = True) -> None:
    gateway = ("127.0.0.1", int(url.rpartition(":")[2]))
    readiness.wait(tmp_path, control, url, gateway, PROGRAMS, limit_s, lambda: alive)


def test_ready_is_when_everything_that_was_started_works(
    tmp_path: Path, http_api: tuple[str, dict[str, Any]], supervisord: Any
) -> None:
    url, answer = http_api
    _wait(tmp_path, supervisord[0], url)
    answer["checks"]["workers"] = {"status": "failed", "detail": "no worker was heard"}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker.log").write_text("it broke\n")
    with pytest.raises(readiness.NotReady, match="no worker was heard") as late:
        _wait(tmp_path, supervisord[0], url)
    assert "  it broke" in late.value.lines
    assert readiness.failing(answer, ["api"]) == {}
    assert set(readiness.failing(None, PROGRAMS)) == {"database", "redis", "workers", "scheduler"}


def test_what_dies_again_and_again_and_a_dead_supervisor_end_the_wait_early(tmp_path: Path, supervisord: Any) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("supervisord.log", "supervisord.out"):
        (tmp_path / "logs" / name).write_text("last words\n")
    with pytest.raises(readiness.NotReady, match="cannot start") as dying:
        _wait(tmp_path, supervisord[0], "http://127.0.0.1:1", limit_s=20)
    assert "  last words" in dying.value.lines
    with pytest.raises(readiness.NotReady, match="supervisor ended"):
        _wait(tmp_path, supervisord[0], "http://127.0.0.1:1", limit_s=20, alive=False)


# --- the registry ----------------------------------------------------------------------------------------------------


def _registry(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as made:
        for statement in statements:
            made.execute(statement)
        made.commit()
    return path


def test_a_registry_tells_its_revision_and_none_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    assert registry.revision_of(empty) is None
    empty.touch()
    assert registry.revision_of(empty) is None
    ours = _registry(
        tmp_path / "a ?#b.db", "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('7')"
    )
    assert registry.revision_of(ours) == "7"
    assert registry.revision_of(_registry(tmp_path / "bare.db", "PRAGMA user_version = 3")) is None


def test_a_registry_of_v1_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(registry.V1RegistryFound, match="v1_registry_found"):
        registry.revision_of(_registry(tmp_path / "v1.db", "CREATE TABLE services (id TEXT)"))
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"nonsense" * 999)
    with pytest.raises(CliError, match="no SQLite"):
        registry.revision_of(damaged)


def test_the_newest_revision_is_read_without_alembic(tmp_path: Path) -> None:
    known, head = registry.revisions(ROOT)
    assert head in known
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "a.py").write_text('revision: str = "a"\ndown_revision = None\n')
    (versions / "b.py").write_text("revision = 'b'\ndown_revision: str | None = 'a'\n")
    assert registry.revisions(tmp_path) == ({"a", "b"}, "b")


def test_an_old_registry_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    old = _registry(
        tmp_path / "r.db", "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('a')"
    )
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "a.py").write_text('revision = "a"\n')
    said: list[str] = []
    registry.bring_up_to_date(tmp_path, "/bin/false", old, {}, said.append)
    assert said == []
    (versions / "b.py").write_text('revision = "b"\ndown_revision = "a"\n')
    with pytest.raises(CliError, match="could not be migrated"):
        registry.bring_up_to_date(tmp_path, "/bin/false", old, {}, said.append)
    (copy,) = (tmp_path / "backups").iterdir()
    assert registry.revision_of(copy) == "a"
    registry.bring_up_to_date(tmp_path, "/bin/true", old, {}, said.append)
    (versions / "a.py").write_text('revision = "c"\n')
    with pytest.raises(CliError, match="does not know"):
        registry.bring_up_to_date(tmp_path, "/bin/true", old, {}, said.append)


# --- commands ---------------------------------------------------------------------------------------------------------


def _invoke(command: Any, home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command, list(arguments), obj=Invocation(options={"home": str(home)}))


def test_init_and_doctor_agree_on_a_fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("CLOS_", "DATABASE_", "REDIS_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    assert _invoke(init, home).exit_code == 0
    loaded = settings.load({"CLOS_HOME": str(home)})
    assert loaded.port_ranges == settings.load({"CLOS_HOME": str(tmp_path / "other")}).port_ranges
    looked = _invoke(doctor, home)
    assert "revision" in looked.output
    found = {check.name: check for check in checks.every(loaded, os.environ)}
    assert found["home"].state == checks.OK
    assert found["processes"].detail == "CLOS does not run"


def test_doctor_says_what_is_wrong_with_a_home(tmp_path: Path) -> None:
    (absent,) = checks._home(tmp_path / "none")
    assert (absent.state, absent.remedy) == ("warn", "`clos init` makes it")
    tmp_path.chmod(0o755)
    (loose,) = checks._home(tmp_path)
    assert "chmod 700" in loose.remedy


def test_doctor_tells_docker_engines_apart(tmp_path: Path) -> None:
    assert "no engine" in next(checks._docker(f"unix://{tmp_path}/none")).detail
    assert "cannot be looked at" in next(checks._docker("ssh://host")).detail
    with socket.create_server(("127.0.0.1", 0)) as odd:
        threading.Thread(target=_answer_nonsense, args=(odd,), daemon=True).start()
        assert "no Docker engine" in next(checks._docker(f"tcp://127.0.0.1:{odd.getsockname()[1]}")).detail


def _answer_nonsense(server: socket.socket) -> None:
    with contextlib.closing(server.accept()[0]) as connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")


def test_a_port_is_free_until_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not embedded_redis.is_free("127.0.0.1", port)
        assert f"pid {os.getpid()}" in supervision.holders_of(port)
        assert readiness.listens("127.0.0.1", port)
    assert embedded_redis.is_free("127.0.0.1", port)
    assert not readiness.listens("127.0.0.1", port)


def test_a_wrong_configuration_ends_with_usage() -> None:
    with pytest.raises(CliError) as wrong:
        supervision.read_settings({"CLOS_API_PORT": "x", "HOME": "/nowhere"})
    assert wrong.value.exit_code == 2
    assert wrong.value.lines == ("env CLOS_API_PORT: api.port: Not a valid integer.",)


class Api:
    """The few calls that `down --services` makes."""

    def __init__(self, ends: str = "completed") -> None:
        self.ends = ends
        self.stopped: list[str] = []

    def pages(self, _path: str) -> list[dict[str, Any]]:
        return [
            {"name": "web", "dependencies": ["data"], "status": "running"},
            {"name": "data", "dependencies": [], "status": "running"},
            {"name": "idle", "dependencies": [], "status": "stopped"},
        ]

    def post(self, path: str, _body: Any) -> dict[str, Any]:
        self.stopped.append(path)
        return {"id": "1", "status": "pending"}

    def answered(self, _path: str, **_: Any) -> tuple[dict[str, Any], float]:
        return {"id": "1", "status": self.ends, "error": {"message": "it would not"}}, 0.0

    def get(self, _path: str, **_: Any) -> Any:
        raise CliError("gone")


def test_groups_are_stopped_before_those_that_they_need() -> None:
    api = Api()
    _stop_services(api)  # type: ignore[arg-type]
    assert api.stopped == ["/groups/web/stop", "/groups/data/stop"]
    with pytest.raises(CliError, match="it would not"):
        _finish(Api("failed"), "web", {"id": "1", "status": "pending"})  # type: ignore[arg-type]
    assert _still_running(api) == []  # type: ignore[arg-type]


class BusyApi(Api):
    """Another operation is at work on the group when its stop is first asked for."""

    def post(self, path: str, body: Any) -> dict[str, Any]:
        assert "wait_for" not in body
        if not self.stopped:
            self.stopped.append("refused")
            raise ApiError(409, {"code": "operation_in_progress", "operation_id": "7", "detail": "held"})
        return super().post(path, body)


def test_down_waits_for_an_operation_that_is_at_work_on_a_group() -> None:
    api = BusyApi()
    _stop_services(api)  # type: ignore[arg-type]
    assert api.stopped == ["refused", "/groups/web/stop", "/groups/data/stop"]

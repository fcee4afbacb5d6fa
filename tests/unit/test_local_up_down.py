"""`up`, `down` and `doctor` on homes of their own; the programs are small ones, the supervisor is the real one."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import settings
from bus.process_identity import identity, start_ticks, write_identity
from cli.errors import CliError
from cli.invocation import Invocation
from cli.local import checks, readiness, registry, running, supervision
from cli.local.doctor import doctor
from cli.local.down import down
from cli.local.up import _stay, up
from tests.contract.kit import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
API = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
sys.path.insert(0, os.environ["CLOS_ROOT"])
from bus.process_identity import register

ANSWERS = {
    "/health": {"version": "1.9", "checks": {n: {"status": "ok"} for n in ("database", "redis")}},
    "/api/v2/services": {"items": [{"id": "shop-web"}], "next_cursor": None},
    "/api/v2/groups": {"items": [], "next_cursor": None},
}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(ANSWERS[self.path.partition("?")[0]]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

register(Path(os.environ["CLOS_HOME"]), "api")
HTTPServer(("127.0.0.1", int(os.environ["CLOS_API_PORT"])), Handler).serve_forever()
"""


class Home:
    """A home whose registry is new already, and a Procfile with one small program."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "h"
        self.port = free_port()
        (folder / "api.py").write_text(API)
        self.procfile = folder / "Procfile"
        self.procfile.write_text(f"api: python {folder / 'api.py'}\n")
        settings.prepare_home(self.folder)
        _, head = registry.revisions(ROOT)
        with closing(sqlite3.connect(self.folder / "registry.db")) as made:
            made.execute("CREATE TABLE alembic_version (version_num TEXT)")
            made.execute("INSERT INTO alembic_version VALUES (?)", (head,))
            made.commit()
        url = f"http://127.0.0.1:{self.port}"
        (self.folder / "credentials.json").write_text(
            json.dumps({"url": url, "websocket_url": "ws://127.0.0.1:1", "username": "admin", "api_key": "k"})
        )
        for name in [n for n in os.environ if n.startswith(("CLOS_", "DATABASE_", "REDIS_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("CLOS_HOME", str(self.folder))
        monkeypatch.setenv("CLOS_PROCFILE", str(self.procfile))
        monkeypatch.setenv("CLOS_API_PORT", str(self.port))
        monkeypatch.setenv("CLOS_WS_PORT", str(free_port()))

    def invoke(self, command: Any, *arguments: str) -> Any:
        return CliRunner().invoke(command, list(arguments), obj=Invocation(options={"home": str(self.folder)}))

    def environ(self) -> dict[str, str]:
        return supervision.environ_of(self.folder)

    def close(self) -> None:
        supervision.stop(self.folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    made = Home(tmp_path, monkeypatch)
    yield made
    made.close()
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_up_in_the_background_says_where_everything_is_and_down_leaves_nothing(home: Home) -> None:
    came_up = home.invoke(up, "-d")
    assert came_up.exit_code == 0, came_up.output
    assert f"http://127.0.0.1:{home.port}/api/v2" in came_up.output
    assert "`clos down` stops it" in came_up.output
    seen = {check.name: check for check in checks.every(settings.load(home.environ()), os.environ)}
    assert seen["processes"].state == checks.OK
    assert seen["API port"].detail.endswith("CLOS's own")
    assert "embedded" in seen["redis"].detail
    assert seen["version"].detail.startswith("1.9 runs")
    again = home.invoke(up, "-d")
    assert isinstance(again.exception, CliError)
    assert "already" in again.exception.message
    supervision.ensure_up(home.folder)
    supervisor = running.supervisor(home.folder)
    went = home.invoke(down, "--services")
    assert (went.exit_code, went.output.splitlines()) == (
        0, ["CLOS is stopped", "these services go on running:", "  shop-web"],
    )  # fmt: skip
    assert supervisor
    assert not running.supervisor(home.folder)
    assert checks.registered(home.folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_foreground_and_all_of_clos(home: Home, number: signal.Signals) -> None:
    def ask() -> None:
        wait_until(lambda: readiness.health(f"http://127.0.0.1:{home.port}"), 20, "the API answers")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=ask)
    thread.start()
    ended = home.invoke(up)
    thread.join(20)
    assert ended.exit_code in (0, 1), ended.output
    assert "stopping CLOS" in ended.output
    assert running.supervisor(home.folder) is None


def test_the_foreground_ends_when_somebody_takes_it_down_or_kills_its_supervisor(home: Home) -> None:
    for number, message in ((signal.SIGTERM, "was stopped"), (signal.SIGKILL, "ended with -9")):
        started = supervision.start(home.environ(), {}, print)
        there = running.supervisor(home.folder)
        assert there
        os.kill(there["pid"], number)
        if number is signal.SIGKILL:
            with pytest.raises(CliError, match=message):
                _stay(started)
        else:
            _stay(started)
        assert checks.registered(home.folder) == []


def _silent(home: Home) -> tuple[int, supervision.Started]:
    """The pid of a program that never says who it is, of a CLOS that is up."""
    silent = home.folder / "silent.pid"
    script = f"import os, time; open({str(silent)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    home.procfile.write_text(home.procfile.read_text() + f'silent: python -c "{script}"\n')
    started = supervision.start(home.environ(), {}, print)
    return int(wait_until(lambda: silent.exists() and silent.read_text())), started


def test_what_a_killed_supervisor_had_only_just_started_is_ended_with_the_rest(home: Home) -> None:
    pid, started = _silent(home)
    started.process.kill()
    with pytest.raises(CliError, match="ended with -9"):
        _stay(started)
    assert start_ticks(pid) is None


def test_a_command_that_needs_clos_brings_it_up_and_says_so(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    supervision.ensure_up(home.folder)
    assert "starting it in the background" in capsys.readouterr().err
    (dead,) = [c for c in checks._processes(settings.load(home.environ())) if c.name == "processes"]
    assert dead.state == checks.OK
    there = running.supervisor(home.folder)
    assert there
    os.kill(there["pid"], signal.SIGKILL)
    wait_until(lambda: running.supervisor(home.folder) is None)
    (left,) = checks._processes(settings.load(home.environ()))
    assert left.detail.startswith("left by a supervisor that died")


def test_a_supervisor_that_does_not_answer_is_ended_all_the_same(home: Home) -> None:
    started = supervision.start(home.environ(), {}, print)
    (home.folder / "run" / "supervisor.sock").unlink()
    (silent,) = checks._processes(settings.load(home.environ()))
    assert (silent.state, silent.remedy) == (checks.FAIL, "`clos down`")
    there = running.supervisor(home.folder)
    assert there
    running.stop(home.folder, there, limit_s=0.1)
    assert started.process.wait(5)
    assert checks.registered(home.folder) == []


def test_a_program_that_cannot_start_ends_up_with_its_last_words(home: Home) -> None:
    home.procfile.write_text(f"api: {sys.executable} -c 'raise SystemExit(\"it broke\")'\n")
    began = time.monotonic()
    with pytest.raises(CliError, match="cannot start") as failed:
        supervision.start(home.environ(), {}, print)
    assert any("it broke" in line for line in failed.value.lines)
    assert time.monotonic() - began < 20
    assert running.supervisor(home.folder) is None


def test_a_taken_port_is_named_with_its_holder_before_anything_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", home.port)):
        refused = home.invoke(up, "-d")
        assert isinstance(refused.exception, CliError)
        assert f"pid {os.getpid()}" in refused.exception.message
        assert "--port" in (refused.exception.hint or "")
        found = {check.name: check for check in checks._ports(settings.load(home.environ()))}
        assert found["API port"].state == checks.FAIL
    assert running.supervisor(home.folder) is None


def test_a_home_that_cannot_be_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="percent sign"):
        supervision.start({"CLOS_HOME": str(tmp_path / "50%")}, {}, print)
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="file") as refused:
        supervision.start({"CLOS_HOME": str(tmp_path / "file" / "h")}, {}, print)
    assert "another CLOS_HOME" in (refused.value.hint or "")


def test_flags_and_the_configuration_file_reach_every_process(home: Home) -> None:
    given = supervision._passed_on({"CLOS_CONFIG": "c.yaml"}, {"api.port": 1, "websocket.port": None})
    assert given == {"CLOS_API__PORT": "1", "CLOS_CONFIG": str(Path("c.yaml").absolute())}
    assert supervision.environ_of(home.folder, "~/x.yaml")["CLOS_CONFIG"] == str(Path("~/x.yaml").expanduser())
    loaded = settings.load(home.environ() | {"CLOS_API_HOST": "::1"})
    assert supervision._api_url(loaded) == f"http://[::1]:{home.port}"


def test_down_where_nothing_runs_says_so(home: Home) -> None:
    assert "does not run" in home.invoke(down).output
    refused = home.invoke(down, "--services")
    assert isinstance(refused.exception, CliError)
    assert "cannot stop services" in refused.exception.message


def test_doctor_speaks_json_and_ends_with_one_where_something_must_be_mended(home: Home) -> None:
    home.folder.chmod(0o755)
    (home.folder / "registry.db").write_bytes(b"no database at all" * 100)
    options = {"home": str(home.folder), "output": "json"}
    looked = CliRunner().invoke(doctor, [], obj=Invocation(options=options))
    assert looked.exit_code == 1
    found = {check["name"]: check for check in json.loads(looked.stdout)}
    assert (found["registry"]["state"], found["home"]["state"]) == ("fail", "warn")
    assert "→" in home.invoke(doctor).output


def test_a_supervisor_that_hangs_is_ended_with_all_that_it_had_started(home: Home) -> None:
    pid, started = _silent(home)
    started.process.send_signal(signal.SIGSTOP)
    supervision.stop(home.folder)
    assert start_ticks(pid) is None
    assert started.process.wait(5) == -signal.SIGKILL


def test_nothing_is_ended_by_a_number_that_is_another_ones_by_now(home: Home) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True, env=os.environ | home.environ())
    try:
        gone = identity(stranger.pid) | {"role": "supervisor", "start_ticks": 1}
        write_identity(home.folder / "run" / "supervisor.json", gone)
        assert running._unregistered(home.folder, set()) == []
    finally:
        stranger.kill()
        stranger.wait()


ITS_SESSION = """
import os, sys, time
from pathlib import Path
from bus.process_identity import identity, write_identity
from cli.local import running

home = Path(sys.argv[1])
write_identity(home / "run" / "supervisor.json", identity() | {"role": "supervisor", "start_ticks": 1})
leader = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == leader:
    time.sleep(0.01)
print(running._unregistered(home, set()))
"""


def test_a_command_does_not_end_itself_where_its_session_bears_the_dead_ones_number(home: Home) -> None:
    command = [sys.executable, "-c", ITS_SESSION, str(home.folder)]
    environ = os.environ | home.environ() | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, start_new_session=True, env=environ, capture_output=True, text=True, timeout=30)
    assert (said.stdout, said.stderr) == ("[]\n", "")

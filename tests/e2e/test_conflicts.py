"""A taken port against the real CLOS: asked about at a terminal, resolved in scripts, taken back."""

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.clos_home import ROOT, Home, home
from tests.ports import free_run
from tests.unit.test_cli_live import on_terminal
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)
SERVER = (
    "import http.server, os; "
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), "
    "http.server.SimpleHTTPRequestHandler).serve_forever()"
)


@pytest.fixture(scope="module")
def clos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("home"), DOCKER_HOST="unix:///nonexistent/docker.sock") as made:
        assert made.run("up", "-d").returncode == 0
        yield made


@contextlib.contextmanager
def stranger(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of somebody else's that holds a port."""
    squatter = ROOT / "examples" / "shop" / "squatter.py"
    process = subprocess.Popen([sys.executable, str(squatter), str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait(10)


def lone(clos: Home, room: int) -> tuple[str, int]:
    """A group of one web server in a project of `room` ports: its service's id and its port."""
    name, port = f"l{uuid.uuid4().hex[:8]}", free_run(2)[0]
    added = clos.run("ports", "ranges", "add", name, f"{port}-{port + room - 1}")
    assert added.returncode == 0, added.stderr
    service = {"name": "web", "runtime": "process", "command": ["python3", "-c", SERVER], "working_dir": "/tmp",
               "ports": [{"host_port": port}]}  # fmt: skip
    body = json.dumps({"name": name, "project": name, "services": [service]})
    assert clos.run("groups", "add", "-f", "-", text=body).returncode == 0
    return f"{name}-web", port


def port_of(clos: Home, service_id: str) -> int:
    shown: dict[str, int] = clos.json("services", "show", service_id)  # type: ignore[assignment]
    return shown["port"]


def at_terminal(clos: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str, typed: dict[str, str]) -> tuple[int, str]:
    """Run at a terminal; each answer is typed when its prompt is seen. Gives the exit code and what was seen."""
    for name, value in (clos.environ | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "150"}).items():
        monkeypatch.setenv(name, value)
    process, ours, see = on_terminal(*arguments)
    try:
        for prompt, text in typed.items():
            wait_until(lambda prompt=prompt: prompt in see(), 30, f"the prompt {prompt!r}")  # type: ignore[misc]
            os.write(ours, f"{text}\n".encode())
        wait_until(lambda: (see(), process.poll())[1] is not None, 60, "its end")
        return process.returncode, see()
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)


def test_at_a_terminal_a_start_asks_about_a_taken_port_and_the_answer_can_be_taken_back(clos, monkeypatch):
    service_id, port = lone(clos, 2)
    with stranger(port) as process:
        typed = {"Your choice": "1"}
        code, seen = at_terminal(clos, monkeypatch, "start", service_id, typed=typed)
        assert code == 0, seen
        assert f"(pid {process.pid})" in seen
        assert "(low risk)" in seen
        assert "(high risk)" in seen
        assert port_of(clos, service_id) == port + 1
        assert process.poll() is None
    ids = clos.run("conflicts", "list", "--status", "resolved", "-o", "name").stdout.split()
    undone = clos.run("conflicts", "undo", ids[-1])
    assert undone.returncode == 0, undone.stderr
    assert f"{service_id} is back on port {port}" in undone.stderr
    assert port_of(clos, service_id) == port
    assert clos.run("stop", service_id).returncode == 0


def test_in_a_pipe_the_start_fails_with_3_and_a_script_resolves_what_it_may(clos):
    service_id, port = lone(clos, 2)
    with stranger(port) as process:
        failed = clos.run("start", service_id)
        assert failed.returncode == 3
        assert f"(pid {process.pid})" in failed.stderr
        assert "clos resolve" in failed.stderr
        planned = clos.run("resolve", "--auto")
        assert planned.returncode == 3
        assert "migrate_port" in planned.stdout
        assert port_of(clos, service_id) == port
        done = clos.run("resolve", "--auto", "--max-risk", "low", "--yes")
        assert done.returncode == 0, done.stderr
        assert port_of(clos, service_id) == port + 1
        assert process.poll() is None
    assert clos.run("stop", service_id).returncode == 0


def test_a_process_is_ended_by_nobody_but_who_types_its_name(clos, monkeypatch):
    _, port = lone(clos, 1)
    with stranger(port) as process:
        assert clos.run("conflicts", "scan").returncode == 0
        left = clos.run("resolve", "--auto", "--max-risk", "high", "--yes")
        assert left.returncode == 3, left.stderr
        assert f"{port}/tcp" in left.stderr
        assert process.poll() is None
        (found,) = [one for one in clos.json("conflicts") if one["port"] == port]
        conflict_id = str(found["id"])
        wrong = clos.run("resolve", conflict_id, "--strategy", "kill_process", "--confirm", "1")
        assert wrong.returncode == 2
        assert process.poll() is None
        typed = {"Your choice": "1", "To end it, type": str(process.pid)}
        code, seen = at_terminal(clos, monkeypatch, "resolve", conflict_id, typed=typed)
        assert code == 0, seen
        assert "kill the process" in seen
        assert process.wait(10) != 0
    assert clos.run("resolve", conflict_id, "--strategy", "ignore").returncode == 1
    assert "No active conflicts" in clos.run("conflicts", "scan").stdout

"""The command line against the real CLOS: every command once, every exit code that can be had."""

import json
import resource
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.clos_home import ROOT, home
from tests.integration.rig import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)
SERVER = "import http.server, os; print('up', flush=True); " \
         "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), " \
         "http.server.SimpleHTTPRequestHandler).serve_forever()"  # fmt: skip


@pytest.fixture(scope="module")
def clos(tmp_path_factory):
    with home(tmp_path_factory.mktemp("home")) as made:
        assert made.run("up", "-d").returncode == 0
        yield made


@pytest.fixture
def pair(clos, request, tmp_path):
    """A group of two web servers, `front` after `back`, removed at the end."""
    name = f"pair{abs(hash(request.node.name)) % 10_000}"
    ports = [free_port(), free_port()]
    services = [
        {"name": each, "runtime": "process", "command": ["python3", "-c", SERVER], "working_dir": ".",
         "ports": [{"host_port": port}], "health_check": {"type": "http", "url": "/", "interval": 1, "timeout": 1}}
        for each, port in zip(("back", "front"), ports, strict=True)
    ]  # fmt: skip
    services[1]["depends_on"] = [{"service": "back", "condition": "healthy"}]
    file = tmp_path / "pair.json"
    file.write_text(json.dumps({"name": name, "services": services}))
    added = clos.run("groups", "add", "-f", str(file))
    assert added.returncode == 0, added.stderr
    yield name, ports
    clos.run("stop", name)
    clos.run("groups", "rm", name, "--yes", "--force")


def test_a_group_starts_in_order_answers_and_stops(clos, pair):
    name, ports = pair
    started = clos.run("start", name)
    assert started.returncode == 0, started.stderr
    assert started.stderr.index(f"✔ wait    {name}-back") < started.stderr.index(f"▸ start   {name}-front")
    assert f"http://127.0.0.1:{ports[1]}" in started.stdout
    again = clos.run("start", name)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert "running" in clos.run("status", name).stdout
    assert f"{name}-front needs {name}-back (healthy)" in clos.run("groups", "graph", name).stdout
    before = {one["name"]: one["observed"]["pid"] for one in clos.json("status", name)}
    assert clos.run("restart", f"{name}/front").returncode == 0
    after = {one["name"]: one["observed"]["pid"] for one in clos.json("status", name)}
    assert after["front"] != before["front"]
    assert after["back"] == before["back"]
    assert clos.run("stop", name).returncode == 0
    assert [one["status"] for one in clos.json("status", name)] == ["stopped", "stopped"]


def test_a_taken_port_names_its_holder_and_is_exit_code_3(clos, pair):
    name, ports = pair
    with socket.create_server(("127.0.0.1", ports[1])):
        failed = clos.run("start", name)
        checked = clos.run("check", str(ports[1]))
    assert failed.returncode == 3
    assert f"port {ports[1]}/tcp is held by" in failed.stderr
    assert "Hint:" in failed.stderr
    assert checked.returncode == 0
    assert f"Port {ports[1]} is held (tcp)" in checked.stdout
    operation = clos.json("ops", "list", "--group", name, "-n", "1")[0]
    assert operation["error"]["holder"]["pid"]
    assert clos.run("ops", "retry", operation["id"]).returncode == 0


def test_a_service_that_dies_is_told_with_its_exit_code_and_last_words(clos):
    text = "name: dies\nservices:\n  - {name: a, runtime: process, restart_policy: no, ports: [],\n" \
           "     command: [sh, -c, 'echo last words; exit 7'],\n" \
           "     health_check: {type: exec, test: ['false'], start_period: 20}}\n"  # fmt: skip
    assert clos.run("groups", "add", "-f", "-", text=text).returncode == 0
    started = clos.run("start", "dies")
    assert started.returncode == 1
    assert "exit code 7" in started.stderr
    assert "| last words" in started.stderr
    found = clos.run("logs", "dies", "--no-follow")
    assert "last words" in found.stdout
    assert clos.run("groups", "rm", "dies", "-y", "--force").returncode == 0


def test_logs_follow_a_service_from_its_last_lines_on(clos, pair):
    name, ports = pair
    clos.run("start", f"{name}/back")
    process = subprocess.Popen(
        [str(ROOT / "clos"), "logs", f"{name}/back"],
        env=clos.environ, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[str] = []
    threading.Thread(target=lambda: [lines.append(line) for line in process.stdout], daemon=True).start()
    try:
        wait_until(lambda: any(line.endswith("  up\n") for line in lines))
        for number in range(5):
            with socket.create_connection(("127.0.0.1", ports[0])) as asking:
                asking.sendall(f"GET /word{number} HTTP/1.0\r\n\r\n".encode())
                asking.recv(10)
        wait_until(lambda: any("/word4" in line and "404 -" in line for line in lines))
        for number in range(5):
            assert sum(f'"GET /word{number} HTTP/1.0" 404' in line for line in lines) == 1
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_events_name_every_operation_and_can_be_read_on_from_an_id(clos, pair):
    name, _ = pair
    clos.run("start", name)
    events = clos.json("events", "--group", name, "-n", "200")
    assert events == sorted(events, key=lambda event: event["id"])
    kinds = {event["type"] for event in events}
    assert {"operation.created", "operation.progress", "operation.completed"} <= kinds
    later = clos.json("events", "--after", str(events[0]["id"]), "-n", "200")
    assert later[0]["id"] > events[0]["id"]


def test_a_service_is_added_shown_changed_and_removed(clos):
    added = clos.run("services", "add", "solo", "-g", "alone", "--runtime", "process", "--command", "sleep 300",
                     "-e", "A=1")  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert "A=1" in clos.run("services", "show", "solo").stdout
    assert clos.run("services", "edit", "solo", "-f", "-", text="environment: {A: 2}\n").returncode == 0
    assert clos.json("services", "show", "solo")["environment"] == {"A": "2"}
    assert clos.run("start", "solo").returncode == 0
    assert clos.run("services", "rm", "solo", "-y").returncode == 1
    assert clos.run("services", "rm", "solo", "-y", "--force").returncode == 0
    assert clos.run("services", "show", "solo").returncode == 4
    assert clos.run("groups", "rm", "alone", "-y").returncode == 0


def test_a_port_is_leased_listed_and_released(clos):
    port = clos.run("ports", "allocate", "development").stdout.strip()
    assert 9000 <= int(port) <= 9999
    assert port in clos.run("ports", "list").stdout
    assert clos.run("ports", "release", port).returncode == 0
    assert port not in clos.run("ports", "list", "-o", "name").stdout.split()


def test_exit_codes_are_the_contracts(clos, tmp_path):
    assert clos.run("start").returncode == 2
    assert clos.run("start", "nobody").returncode == 4
    assert clos.run("groups", "add", "-f", "-", text="name: [\n").returncode == 2
    wrong = clos.run("groups", "add", "-f", "-", text="name: x\nservces: []\n")
    assert wrong.returncode == 2
    assert "services" in wrong.stderr
    assert clos.run("--url", f"http://127.0.0.1:{free_port()}", "status").returncode == 6
    assert clos.run("--url", f"http://localhost.:{clos.environ['CLOS_API_PORT']}", "status").returncode in (5, 6, 2)
    assert clos.run("--home", str(tmp_path / "none"), "--no-up", "status").returncode == 6
    cycle = "name: ring\nservices:\n  - {name: a, runtime: process, command: [x], depends_on: [b]}\n" \
            "  - {name: b, runtime: process, command: [x], depends_on: [a]}\n"  # fmt: skip
    refused = clos.run("groups", "add", "-f", "-", text=cycle)
    assert refused.returncode == 2
    assert "ring-a" in refused.stderr


def test_a_start_that_is_not_waited_for_gives_an_id_that_can_be_watched(clos, pair):
    name, _ = pair
    number = clos.run("start", name, "--no-wait").stdout.strip()
    assert clos.run("ops", "watch", number).returncode == 0
    assert clos.json("ops", "show", number)["status"] == "completed"


def test_a_start_that_does_not_become_healthy_in_time_is_exit_code_7(clos):
    text = "name: late\nservices:\n  - {name: a, runtime: process, command: [sleep, 300],\n" \
           f"     ports: [{{host_port: {free_port()}}}], health_check: {{type: tcp, start_period: 60}}}}\n"  # fmt: skip
    assert clos.run("groups", "add", "-f", "-", text=text).returncode == 0
    assert clos.run("start", "late", "--timeout", "1").returncode == 7
    assert clos.run("groups", "rm", "late", "-y", "--force").returncode == 0


def test_the_configuration_is_shown_and_the_database_is_sound(clos):
    assert clos.environ["CLOS_API_PORT"] in clos.run("config").stdout
    assert "embedded" in clos.run("config").stdout
    sound = clos.run("config", "--verify-db")
    assert sound.returncode == 0, sound.stdout
    assert "ok" in sound.stdout


def test_no_secret_of_the_home_is_printed_by_any_command(clos):
    key = json.loads((clos.folder / "credentials.json").read_text())["api_key"]
    for arguments in (["-v", "status"], ["config", "-o", "json"], ["-v", "ops", "list", "-o", "json"], ["doctor"]):
        ran = clos.run(*arguments)
        assert key not in ran.stdout + ran.stderr


def test_a_command_on_an_empty_home_brings_clos_up_and_says_so(tmp_path):
    with home(tmp_path) as clos:
        ran = clos.run("status")
        assert ran.returncode == 0, ran.stderr
        assert "No services are registered" in ran.stdout
        assert "background" in ran.stderr
        assert clos.run("--no-up", "status").stderr.count("background") == 0


def test_status_of_fifty_services_and_help_are_quick(clos):
    services = [{"name": f"s{number}", "runtime": "process", "command": ["true"]} for number in range(50)]
    text = json.dumps({"name": "many", "services": services})
    assert clos.run("groups", "add", "-f", "-", text=text).returncode == 0

    def least_cpu_s(*arguments):
        """CPU time, which a busy machine stretches less than the time that passes."""
        took = []
        for _ in range(8):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert clos.run(*arguments).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(took)

    # performance.md, CLI.
    assert least_cpu_s("status") < 0.15
    assert least_cpu_s("--help") < 0.08
    assert clos.run("groups", "rm", "many", "-y").returncode == 0


def test_the_launcher_works_from_any_folder_and_over_a_link(clos, tmp_path):
    link = tmp_path / "clos"
    link.symlink_to(Path(ROOT) / "clos")
    ran = subprocess.run(
        [str(link), "--version"], cwd="/", env=clos.environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "clos 2.0.0\n")

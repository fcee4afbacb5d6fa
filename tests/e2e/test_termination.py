"""A whole CLOS: none of its own processes is ever ended by the means for others' processes."""

import json
import os
import sys
from pathlib import Path

import psutil

from tests.e2e.clos_home import home
from tests.integration.rig import free_port
from tests.waiting import wait_until
from workers.runtimes import termination

SERVER = "import http.server, os; http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler).serve_forever()"  # noqa: E501


def test_api_gateway_workers_scheduler_redis_supervisor_and_services_are_refused(tmp_path: Path) -> None:
    with home(tmp_path) as clos:
        assert clos.run("up", "-d").returncode == 0
        body = {
            "name": "deny",
            "services": [
                {"name": "web", "runtime": "process", "command": [sys.executable, "-c", SERVER],
                 "ports": [{"host_port": free_port()}]}
            ],
        }  # fmt: skip
        file = tmp_path / "deny.json"
        file.write_text(json.dumps(body))
        assert clos.run("groups", "add", "-f", str(file)).returncode == 0
        assert clos.run("start", "deny").returncode == 0
        manager = json.loads((clos.folder / "run" / "supervisor.json").read_text())["pid"]
        own = [psutil.Process(manager), *psutil.Process(manager).children(recursive=True)]
        managed = psutil.Process(clos.json("status", "deny")[0]["observed"]["pid"])  # type: ignore[index]
        roles = {json.loads(path.read_text())["role"] for path in (clos.folder / "run" / "pids").glob("*.json")}
        assert roles >= {"api", "websocket", "worker", "scheduler", "redis"}

        services = {managed.pid, *(child.pid for child in managed.children(recursive=True))}
        reasons = {process.pid: termination.refusal(process.pid, allow_foreign=True) for process in own}

        assert {reasons[pid] for pid in reasons.keys() - services} == {
            "it is one of CLOS's own processes (`clos down` stops them)"
        }
        for pid in services:
            assert (
                termination.refusal(pid, allow_foreign=True) == "it belongs to the service deny-web: stop the service"
            )
        assert all(process.is_running() for process in own)
        assert wait_until(lambda: clos.run("status", "deny").returncode == 0)
        assert os.getpid() not in reasons

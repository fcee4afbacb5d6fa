"""Ports given to many at once, by two APIs; and what everybody has after a restart. Done when 2 of the ports part."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from bus.process_identity import registered
from models.port_search import REST_S
from tests.e2e.clos_home import ROOT, Home, home
from tests.integration.rig import free_port
from tests.waiting import wait_until

PROJECT, GROUP = "campaign", "kept"
# Below the ports of outgoing connections, and room for the 32,000 leases of a full run, half of them of each protocol.
LOW, HIGH = 1100, 31_999
GIVEN_BACK = 0.03
_VICTIMS = {"api", "redis"}
_CLIENTS = Path(__file__).with_name("allocation_clients.py")
_SERVE = ["sh", "-c", "exec busybox httpd -f -p $HOST:$PORT -h /var/empty"]


class Clos:
    """A whole CLOS, brought up by its command line, with a second API beside it."""

    def __init__(self, made: Home) -> None:
        self.home = made
        self.api_ports = [int(made.environ["CLOS_API_PORT"]), free_port()]
        self.second: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        made = self.home.run("up", "-d", timeout_s=120)
        assert made.returncode == 0, made.stderr
        self.key = json.loads((self.home.folder / "credentials.json").read_text())["api_key"]
        self.start_second()

    def start_second(self) -> None:
        environ = self.home.environ | {"CLOS_API_PORT": str(self.api_ports[1])}
        with (self.home.folder / "logs" / "second-api.log").open("ab") as log:
            self.second = subprocess.Popen(
                [sys.executable, "-m", "api.main"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        wait_until(lambda: all(self.answers(port) for port in self.api_ports), 60, "both APIs' answers")

    def stop_second(self, how: int = signal.SIGTERM) -> None:
        if self.second is not None:
            self.second.send_signal(how)
            self.second.wait(20)
            self.second = None

    def answers(self, port: int) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).ok
        return False

    def call(self, method: str, path: str, body: Any = None, port: int | None = None) -> Any:
        url = f"http://127.0.0.1:{port or self.api_ports[0]}/api/v2{path}"
        answer = requests.request(method, url, json=body, headers={"X-API-Key": self.key}, timeout=70)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def finished(self, verb: str) -> None:
        """Start or stop the group, to the end."""
        operation = self.call("POST", f"/groups/{GROUP}/{verb}", {})
        deadline = time.monotonic() + 120
        while operation["status"] not in ("completed", "failed", "cancelled") and time.monotonic() < deadline:
            operation = self.call("GET", f"/operations/{operation['id']}?wait=20")
        assert operation["status"] == "completed", operation

    def kill_all(self) -> None:
        """KILL both APIs and Redis at once; who brought them up brings them up again."""
        victims = [each["pid"] for each in registered(self.home.folder) if each["role"] in _VICTIMS]
        for pid in [pid for each in victims for pid in (each, *_children(each))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop_second(signal.SIGKILL)
        wait_until(lambda: self._back(victims), 60, "the return of what was killed")
        self.start_second()

    def _back(self, victims: list[int]) -> bool:
        now = [each for each in registered(self.home.folder) if each["role"] in _VICTIMS]
        return {each["role"] for each in now} == _VICTIMS and all(each["pid"] not in victims for each in now)

    def leases(self) -> dict[tuple[str, int], tuple[int, str | None]]:
        """Every live lease, straight from the record."""
        from sqlalchemy import select

        from models import ports
        from models.ports import PortLease
        from models.record import Record

        record = Record(f"sqlite:///{self.home.folder}/registry.db", pool=1)
        with contextlib.closing(record), record.read() as session:
            rows = session.execute(
                select(PortLease.protocol, PortLease.port, PortLease.id, PortLease.service_id).where(ports.live())
            ).all()
        found = {(row.protocol, row.port): (row.id, row.service_id) for row in rows}
        assert len(found) == len(rows), "a port is leased twice"
        return found

    def served(self) -> dict[str, int]:
        """The ports on which the group's services answer, each under its id."""
        found = {}
        for service in self.call("GET", f"/services?group={GROUP}&limit=200")["items"]:
            port = service["ports"][0]["host_port"]
            with contextlib.suppress(requests.RequestException):
                requests.get(f"http://127.0.0.1:{port}/", timeout=5)
                found[service["id"]] = port
        return found


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def _clos() -> Iterator[Clos]:
    unlimited = {"CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE": "0"}
    with tempfile.TemporaryDirectory(prefix="clos-alloc-") as folder, home(Path(folder), **unlimited) as made:
        clos = Clos(made)
        try:
            clos.up()
            yield clos
        finally:
            made.end()  # through the second API: the command line asks the one that was started last
            clos.stop_second()


def campaign(clients: int, each: int, seed: int, services: int = 12) -> dict[str, Any]:
    """`clients` processes ask for `each` ports, tcp and udp in turn; then everything is restarted, twice."""
    with _clos() as clos:
        _prepare(clos, services)
        before = clos.served()
        began = time.monotonic()
        seen = _asked(clos, clients, each, seed)
        took_s = time.monotonic() - began
        kept = clos.leases()
        wrong = _contradictions(seen, kept)
        clos.kill_all()
        wrong += _changed("after both APIs and Redis were killed", clos, kept, before)
        clos.stop_second()
        assert clos.home.run("down", timeout_s=60).returncode == 0
        clos.up()
        wrong += _changed("after down and up", clos, kept, before)
        clos.finished("stop")
        clos.finished("start")
        wrong += _changed("after the services were started again", clos, kept, before)
    return {
        "clients": clients,
        "asked": clients * each,
        "granted": sum(len(one["granted"]) for one in seen),
        "given_back": sum(len(one["given_back"]) for one in seen),
        "full": sum(len(one["full"]) for one in seen),
        "busy": sum(one["busy"] for one in seen),
        "per_s": round(clients * each / took_s),
        "leases": len(kept),
        "services": len(before),
        "wrong": wrong[:20],
    }


def _prepare(clos: Clos, services: int) -> None:
    for each in clos.call("GET", "/port-ranges?limit=200")["items"]:
        clos.call("DELETE", f"/port-ranges/{each['id']}")
    clos.call("POST", "/port-ranges", {"project": PROJECT, "start_port": LOW, "end_port": HIGH})
    Path("/var/empty").mkdir(exist_ok=True)
    wanted = [
        {"name": f"s{number:02}", "runtime": "process", "command": _SERVE, "ports": [{}], "stop_timeout": 2}
        for number in range(services)
    ]
    clos.call("POST", "/groups", {"name": GROUP, "project": PROJECT, "services": wanted})
    clos.finished("start")
    assert len(clos.served()) == services


def _asked(clos: Clos, clients: int, each: int, seed: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="clos-clients-") as folder:
        order = {
            "clients": clients,
            "each": each,
            "seed": seed,
            "api_ports": clos.api_ports,
            "key": clos.key,
            "project": PROJECT,
            "give_back": GIVEN_BACK,
            "folder": folder,
        }
        subprocess.run(
            [sys.executable, "-I", "-S", str(_CLIENTS)], input=json.dumps(order), text=True, check=True, timeout=3600
        )
        return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]


def _contradictions(seen: list[dict[str, Any]], kept: dict[tuple[str, int], tuple[int, str | None]]) -> list[str]:
    """What speaks against "no port twice, none out of range, nothing but leases and full ranges"."""
    wrong = [text for one in seen for text in one["strange"]]
    back = {lease_id: at for one in seen for _, _, lease_id, at in one["given_back"]}
    grants = sorted((at, protocol, port, lease_id) for one in seen for protocol, port, lease_id, at in one["granted"])
    last: dict[tuple[str, int], int] = {}
    for at, protocol, port, lease_id in grants:
        if not LOW <= port <= HIGH:
            wrong.append(f"{protocol}/{port} lies outside of the range")
        before = last.get((protocol, port))
        if before is not None and before not in back:
            wrong.append(f"{protocol}/{port} was given twice")
        elif before is not None and at < back[before] + REST_S:
            wrong.append(f"{protocol}/{port} was given again after {at - back[before]:.1f} s")
        last[protocol, port] = lease_id
    alive = {(protocol, port): lease_id for _, protocol, port, lease_id in grants if lease_id not in back}
    recorded = {key: lease_id for key, (lease_id, service_id) in kept.items() if service_id is None}
    if alive != recorded:
        wrong.append(f"{len(alive)} leases were answered and {len(recorded)} are recorded")
    return wrong


def _changed(
    when: str, clos: Clos, kept: dict[tuple[str, int], tuple[int, str | None]], before: dict[str, int]
) -> list[str]:
    wrong = []
    if clos.leases() != kept:
        wrong.append(f"{when} the leases are others")
    if (now := clos.served()) != before:
        wrong.append(f"{when} the services' ports are others: {before} -> {now}")
    return wrong

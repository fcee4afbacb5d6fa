"""Many small client processes that ask two APIs for ports at once: `python -I -S allocation_clients.py`.

Standard library only, and forked from a process that has nothing but this: each costs a few MB. What it is to do comes
as JSON on stdin, what each client was answered goes to a file of its own.
"""

import http.client
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

_PATIENCE_S = 120.0


class Client:
    """One client on one of the APIs: it leases, gives some back, and writes down every answer."""

    def __init__(self, order: dict[str, Any], number: int) -> None:
        self._order = order
        self._dice = random.Random(order["seed"] + number)
        self._port = order["api_ports"][number % len(order["api_ports"])]
        self._link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        self.granted: list[list[Any]] = []
        self.given_back: list[list[Any]] = []
        self.full: list[Any] = []
        self.strange: list[str] = []
        self.busy = 0

    def run(self) -> None:
        for count in range(self._order["each"]):
            protocol = ("tcp", "udp")[count % 2]
            status, lease = self._ask(
                "POST", "/ports/allocate", {"project": self._order["project"], "protocol": protocol}
            )
            if status == 201:
                self.granted.append([protocol, lease["port"], lease["id"], time.time()])
                if self._dice.random() < self._order["give_back"]:
                    self._give_back(protocol, lease)
            elif status == 409 and lease.get("code") == "port_held" and lease.get("holders"):
                self.full.append(lease["detail"])
            else:
                self.strange.append(f"{status} {str(lease)[:300]}")

    def _give_back(self, protocol: str, lease: dict[str, Any]) -> None:
        before = time.time()
        status, body = self._ask("DELETE", f"/ports/leases/{lease['id']}", None)
        if status != 204:
            self.strange.append(f"DELETE {status} {str(body)[:300]}")
        self.given_back.append([protocol, lease["port"], lease["id"], before])

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """One request; 503 is asked again, as `Retry-After` says, and counted."""
        headers = {"X-API-Key": self._order["key"], "Content-Type": "application/json"}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            text = None if body is None else json.dumps(body)
            try:
                self._link.request(method, f"/api/v2{path}", text, headers)
                answer = self._link.getresponse()
                content = answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # An idle connection that the server closed: nothing was done on it.
                self._link.close()
                if time.monotonic() > deadline:
                    return 0, {"detail": "no answer"}
                continue
            if answer.status == 503 and time.monotonic() < deadline:
                self.busy += 1
                time.sleep(0.2)
                continue
            return answer.status, json.loads(content) if content else {}


def _child(order: dict[str, Any], number: int) -> int:
    client = Client(order, number)
    try:
        client.run()
    except Exception as wrong:
        client.strange.append(f"{type(wrong).__name__}: {wrong}")
    seen = {name: getattr(client, name) for name in ("granted", "given_back", "full", "strange", "busy")}
    Path(order["folder"], f"{number}.json").write_text(json.dumps(seen))
    return 0


def main() -> int:
    """Fork the clients, wait for all. The exit status is 1 if one of them ended badly."""
    order = json.loads(sys.stdin.read())
    pids = []
    for number in range(order["clients"]):
        pid = os.fork()
        if pid == 0:
            os._exit(_child(order, number))
        pids.append(pid)
    return int(any(os.waitpid(pid, 0)[1] for pid in pids))


if __name__ == "__main__":
    sys.exit(main())

"""Watches a group at work closely enough to strike at one step: its record, and what effects leave on the machine.

A process service of these groups writes a line into a file when it begins and when it ends on TERM, so the files say
how often each was really started and stopped. For containers the engine's own event log says it.
"""

import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from domain.states import FINAL
from tests.images import client
from tests.integration.rig import Rig

_TIGHT_S = 0.0005
_PROGRAM = """
import http.server, os, signal, sys
def note(what):
    with open(os.environ["NOTES"] + what, "a") as file: file.write("%d\\n" % os.getpid())
def end(*_):
    note(".stops"); os._exit(143)
signal.signal(signal.SIGTERM, end)
note(".starts")
if os.environ.get("DEAF"):
    while True: signal.pause()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def noting_service(python: str, notes: Path, name: str, port: int, needs: Sequence[str] = ()) -> dict[str, Any]:
    """A process service with a health check that keeps these notes."""
    return {
        "name": name,
        "runtime": "process",
        "command": [python, "-S", "-c", _PROGRAM],
        "environment": {"NOTES": str(notes / name)},
        "ports": [{"host_port": port}],
        "health_check": {"type": "http", "url": "/", "interval": 1.0, "timeout": 2.0, "start_period": 20.0},
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
        "stop_timeout": 5,
    }


class Notes:
    """What processes wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def count(self, what: str) -> Counter[str]:
        """How often each service noted `starts` or `stops`."""
        return Counter({path.stem: len(path.read_text().split()) for path in self.folder.glob(f"*.{what}")})

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


class EngineLog:
    """The engine's events of one installation's containers, from now on."""

    def __init__(self, instance_id: str) -> None:
        self._client = client()
        self._stream: Any = self._client.api.events(
            decode=True, filters={"label": f"clos.instance={instance_id}", "type": "container"}
        )
        # When by the engine's clock, which is the host's, what, and of which service.
        self._seen: list[tuple[int, str, str]] = []
        self._since_ns = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(Exception):  # its end is the connection's
            for event in self._stream:
                service = event["Actor"]["Attributes"].get("clos.service", "")
                self._seen.append((int(event["timeNano"]), event["Action"], service.partition("-")[2]))

    def count(self, action: str) -> Counter[str]:
        """How often each service's container was created, started, …: the engine's word."""
        return Counter(
            service for at_ns, what, service in list(self._seen) if what == action and at_ns >= self._since_ns
        )

    def clear(self) -> None:
        """Forget what has happened until now, also what of it is still on its way here."""
        self._since_ns = time.time_ns()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()
        self._client.close()


class Watch:
    """One operation's steps, read as often as can be."""

    def __init__(self, clos: Rig, operation_id: str) -> None:
        self._id = operation_id
        self._database = sqlite3.connect(f"file:{clos.home / 'registry.db'}?mode=ro", uri=True, isolation_level=None)

    def close(self) -> None:
        self._database.close()

    def step(self, index: int) -> tuple[str, str] | None:
        """The id and status of the step with that place in the list, once there is a list."""
        found = self._database.execute(
            "SELECT id, status FROM operation_steps WHERE operation_id = ? AND position = ?", (self._id, index)
        ).fetchone()
        return None if found is None else (str(found[0]), str(found[1]))

    def ended(self) -> bool:
        found = self._database.execute("SELECT status FROM operations WHERE id = ?", (self._id,)).fetchone()
        return found is not None and found[0] in FINAL

    def until(self, happened: Callable[[], bool], limit_s: float = 60.0) -> bool:
        """Wait for it in the shortest steps; False if the operation ended first."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if happened():
                return True
            if self.ended():
                return False
            time.sleep(_TIGHT_S)
        raise AssertionError(f"operation {self._id} neither came there nor ended within {limit_s:g} s")


@contextlib.contextmanager
def watching(clos: Rig, operation_id: str) -> Iterator[Watch]:
    """A watch, closed afterwards."""
    made = Watch(clos, operation_id)
    try:
        yield made
    finally:
        made.close()

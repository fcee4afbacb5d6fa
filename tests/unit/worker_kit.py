"""What a worker has, in the test's own process: a database file, the in-memory runtime, and no Redis at all."""

import functools
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import select

from bus.broker import QUEUES
from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from bus.replies import Replies
from models import operation_requests, registry_graph, registry_groups
from models.base import Base
from models.events import Event
from models.operations import Operation, OperationLock
from models.record import Record
from models.rules import create_triggers
from models.services import Service
from workers import runner
from workers.claims import Claims
from workers.context import Context, Limits
from workers.observer import Observer
from workers.runtimes.in_memory import InMemory

# Nobody listens on the discard port of loopback: refused at once.
NO_REDIS = "redis://127.0.0.1:9/0"


@functools.cache
def _template() -> bytes:
    """An empty registry, made once per test process: copying it costs a fraction of making it."""
    with tempfile.TemporaryDirectory(prefix="clos-kit-") as folder:
        path = Path(folder) / "empty.db"
        record = Record(f"sqlite:///{path}")
        with record.engine.connect() as connection:
            Base.metadata.create_all(connection)
            create_triggers(connection)
            connection.commit()
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        record.close()
        return path.read_bytes()


class Kit:
    """One worker's parts, and what a test asks of them."""

    def __init__(self, folder: Path, timeout_s: float = 10.0, parallel: int = 8, record: Record | None = None) -> None:
        self.path = folder / "registry.db"
        self.path.write_bytes(_template())
        # Who plays thousands brings one record: its compiled statements are worth more than its file.
        self.record = record or Record(f"sqlite:///{self.path}", timeout_s=timeout_s)
        self.broker = StubBroker(middleware=[])
        for queue in QUEUES:
            self.broker.declare_queue(queue)
        self.memory = InMemory()
        self.runtimes = {"docker": self.memory, "process": self.memory}
        self.stopping = threading.Event()
        self.context = self.make_context("here", parallel)
        self.record.deliver = self.context.outbox.operation

    def make_context(self, name: str, parallel: int = 8) -> Context:
        """The parts of a worker; one of another name is a rival on the same record and machine."""
        sender = Sender(self.broker)
        return Context(
            record=self.record,
            feed=Feed(NO_REDIS),
            sender=sender,
            outbox=Outbox(sender),
            replies=Replies(NO_REDIS),
            runtimes=self.runtimes,
            observer=Observer(self.runtimes),
            claims=Claims(self.record, {"host": name, "pid": 1}, self.stopping),
            limits=Limits(parallel_steps=parallel, operation_timeout_s=20.0),
            stopping=self.stopping,
        )

    def group(self, name: str, *services: Mapping[str, Any], **fields: Any) -> None:
        with self.record.write() as session:
            registry_groups.create_group(session, {"name": name, "services": list(services), **fields})

    def ask(self, verb: str, group: str = "shop", only: Sequence[str] | None = None, **parameters: Any) -> str:
        """Write `group.<verb>` as the API does, unsent; of `only` some of its services. Its id."""
        with self.record.write() as session:
            targets = registry_graph.targets_for(session, verb, group=group, only=only)
            made = operation_requests.ask(
                session, f"group.{verb}", parameters, targets, group_name=group, initiated_by="test"
            )
            return made.id

    def ask_all(self, verb: str, *groups: str, **parameters: Any) -> str:
        """Write `batch.<verb>` over several groups in one plan, unsent. Its id."""
        with self.record.write() as session:
            targets = registry_graph.targets_for(session, verb, groups=groups)
            asked = {"groups": list(groups), **parameters}
            return operation_requests.ask(session, f"batch.{verb}", asked, targets, initiated_by="test").id

    def run(self, operation_id: str) -> Operation:
        """Work on it as the actor does; how it stands then."""
        runner.run(self.context, operation_id)
        return self.operation(operation_id)

    def does(self, verb: str, group: str = "shop", **parameters: Any) -> Operation:
        return self.run(self.ask(verb, group, **parameters))

    def operation(self, operation_id: str) -> Operation:
        with self.record.read() as session:
            found = session.get(Operation, operation_id)
            assert found is not None
            _ = list(found.steps)
            session.expunge_all()
            return found

    def service(self, name: str, group: str = "shop") -> Service:
        with self.record.read() as session:
            found = session.get(Service, f"{group}-{name}")
            assert found is not None
            session.expunge_all()
            return found

    def seen(self, name: str, group: str = "shop", **columns: Any) -> None:
        """Write columns of a service."""
        with self.record.write() as session:
            found = session.get(Service, f"{group}-{name}")
            assert found is not None
            for column, value in columns.items():
                setattr(found, column, value)

    def change(self, operation_id: str, **columns: Any) -> None:
        """Write columns of an operation."""
        with self.record.write() as session:
            found = session.get(Operation, operation_id)
            assert found is not None
            for column, value in columns.items():
                setattr(found, column, value)

    def events(self, *types: str) -> list[dict[str, Any]]:
        with self.record.read() as session:
            rows = session.scalars(select(Event).order_by(Event.id)).all()
            return [row.as_dict() for row in rows if not types or row.type in types]

    def locks(self) -> Sequence[str]:
        with self.record.read() as session:
            return session.scalars(select(OperationLock.target)).all()

    def sent(self, queue: str = "operations") -> list[dramatiq.Message[Any]]:
        """What went to a queue since the last question."""
        found = []
        while not self.broker.queues[queue].empty():
            found.append(dramatiq.Message.decode(self.broker.queues[queue].get_nowait()))
        return found

    def close(self) -> None:
        self.context.claims.close()
        self.context.feed.close()
        self.context.replies.close()
        self.record.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)


def plain(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A service without a health check that waits for its needs to be started."""
    return {
        "name": name,
        "runtime": "process",
        "command": ["x"],
        "depends_on": [{"service": need, "condition": "started"} for need in needs],
        **more,
    }


def checked(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A service with a health check that waits for its needs to be healthy."""
    return {
        "name": name,
        "runtime": "process",
        "command": ["x"],
        "health_check": every(0.02),
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
        **more,
    }


def inside(name: str, of: str, **more: Any) -> dict[str, Any]:
    """A container with a health check that has the network of another one's, and waits for that to be healthy."""
    needs = [{"service": of, "condition": "healthy", "restart": True}]
    container = {"runtime": "docker", "image": f"{name}:1", "network_mode": f"service:{of}", "command": None}
    return checked(name) | {"depends_on": needs, **container, **more}


def every(interval_s: float, **more: Any) -> dict[str, Any]:
    """A health check at that interval."""
    return {"type": "exec", "test": ["true"], "interval": interval_s, "timeout": 0.5, "retries": 2, "start_period": 0.0,
            **more}  # fmt: skip


def status(operation: Operation) -> dict[str, str]:
    """How each step stands."""
    return {step.id: step.status for step in operation.steps}

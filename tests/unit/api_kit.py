"""The API in the test's own process: a SQLite file, Flask's client, and stand-ins for Redis and the workers."""

import contextlib
import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

import settings
from api.app import create_app
from api.courier import Courier
from api.feed import FeedReader
from api.parts import Parts
from api.passwords import hash_password, new_key
from bus.broker import QUEUES
from bus.messages import Sender
from bus.outbox import Outbox
from domain.configuration import Settings
from domain.states import OperationStatus
from models import operations, rules
from models.access import ApiKey, User
from models.base import Base, now
from models.ports import PortRange
from models.record import Record
from models.services import Service

# Nobody listens there, so it is refused at once.
NO_REDIS = "redis://127.0.0.1:1/0"
PORT, WS_PORT, DASHBOARD_PORT = 18081, 18082, 3500
PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


class LocalFeed:
    """`bus.feed.Feed` within one process."""

    def __init__(self) -> None:
        self.followed: set[str] = set()
        self.away: Exception | None = None
        self._readers: list[tuple[Callable[[bool], None], Callable[[dict[str, Any]], None]]] = []

    def wake(self, ends: bool = True) -> None:
        for on_wake, _ in list(self._readers):
            on_wake(ends)

    def publish(self, event: dict[str, Any]) -> None:
        for _, on_event in list(self._readers):
            on_event(event)

    def subscribe(self, on_wake: Callable[[bool], None], on_event: Callable[[dict[str, Any]], None]) -> "LocalFeed":
        self._readers.append((on_wake, on_event))
        on_wake(True)
        return self

    def renew_follow(self, service_id: str) -> bool:
        if self.away is not None:
            raise self.away
        new = service_id not in self.followed
        self.followed.add(service_id)
        return new

    def close(self) -> None:
        self._readers.clear()


class LocalTickets:
    """`bus.tickets.Tickets` within one process."""

    def __init__(self) -> None:
        self.issued: dict[str, dict[str, Any]] = {}
        self.away: Exception | None = None

    def issue(self, payload: dict[str, Any], ttl_s: int = 30) -> str:
        if self.away is not None:
            raise self.away
        ticket = secrets.token_urlsafe(24)
        self.issued[ticket] = payload
        return ticket

    def take(self, ticket: str) -> dict[str, Any] | None:
        if self.away is not None:
            raise self.away
        return self.issued.pop(ticket, None)


class LocalReplies:
    """The worker's end of the one arrow back: it gives `reply` to whoever asks."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] | None = None
        self.asked: list[str] = []

    def wait(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        self.asked.append(request_id)
        return self.reply


def make_record(folder: Path) -> Record:
    """An empty record with the tables, indexes and triggers that migrations make."""
    record = Record(f"sqlite:///{folder}/registry.db", timeout_s=5.0, pool=4)
    Base.metadata.create_all(record.engine)
    with record.engine.begin() as connection:
        rules.create_triggers(connection)
    return record


def configured(home: Path, **more: str) -> Settings:
    """Settings of a home; `more` are environment variables."""
    environment = {
        "CLOS_HOME": str(home),
        "REDIS_URL": NO_REDIS,
        "CLOS_API_PORT": str(PORT),
        "CLOS_WS_PORT": str(WS_PORT),
        "CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE": "0",
        "CLOS_SECURITY__RATE_LIMIT__LOGINS_PER_MINUTE": "0",
        "CLOS_SECURITY__CONTAINERS__BIND_ROOTS": "/srv",
    }
    settings.prepare_home(home)
    return settings.load(environment | more)


class Kit:
    """An API and who calls it. `api` is an administrator's."""

    def __init__(self, home: Path, *, redis: bool = True, **more: str) -> None:
        self.settings = configured(home, **more)
        self.record = make_record(home)
        self.app: Flask = create_app(self.settings, record=self.record)
        self.broker = StubBroker()
        for queue in QUEUES:
            self.broker.declare_queue(queue)
        self.feed, self.tickets, self.replies = LocalFeed(), LocalTickets(), LocalReplies()
        if redis:
            self._stand_in()
        self.client: FlaskClient = self.app.test_client()
        self._numbers = iter(range(1, 1_000_000))
        with self.record.write() as session:
            session.add(PortRange(project="development", start_port=9000, end_port=9999))
        self.key = self.user("admin")["key"]

    def _stand_in(self) -> None:
        sender: Any = Sender(self.broker)
        outbox, feed = Outbox(sender), self.feed
        self.app.extensions["clos"] = dataclasses.replace(
            self.shared,
            sender=sender,
            outbox=outbox,
            feed=feed,  # type: ignore[arg-type]
            replies=self.replies,  # type: ignore[arg-type]
            tickets=self.tickets,  # type: ignore[arg-type]
            reader=FeedReader(self.record, feed),  # type: ignore[arg-type]
            courier=Courier(outbox, feed),  # type: ignore[arg-type]
        )

    @property
    def shared(self) -> Parts:
        found: Parts = self.app.extensions["clos"]
        return found

    def sent(self, queue: str) -> list[dramatiq.Message[Any]]:
        """The messages that went out on a queue since the last time."""
        waiting = self.broker.queues[queue]
        found = []
        while not waiting.empty():
            found.append(dramatiq.Message.decode(waiting.get()))
            waiting.task_done()
        return found

    def name(self, prefix: str = "g") -> str:
        """A name that nothing has yet."""
        return f"{prefix}{next(self._numbers)}"

    def user(self, role: str, password: str | None = None, scopes: list[str] | None = None) -> dict[str, Any]:
        """A user of that role with an API key, and a password where one is given."""
        made, name = new_key(), self.name(f"{role}-")
        kept = hash_password(password) if password else None
        with self.record.write() as session:
            user = User(username=name, role=role, disabled=False, password_hash=kept)
            session.add(user)
            session.flush()
            session.add(ApiKey(id=made.id, user_id=user.id, name="k", key_hash=made.digest, scopes=scopes))
            return {"id": user.id, "username": name, "key": made.text, "key_id": made.id}

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str) -> TestResponse:
        """Call `/api/v2` + path with a key, the administrator's if none is given. `_` in a header's name is `-`."""
        named = {"X-API-Key": self.key if key is None else key}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.bare(method, f"/api/v2{path}", json=body, headers=named)

    def bare(self, method: str, path: str, headers: dict[str, str] | None = None, **kwargs: Any) -> TestResponse:
        """Call any path, with nothing added but the Host."""
        return self.client.open(path, method=method, headers={"Host": f"127.0.0.1:{PORT}"} | (headers or {}), **kwargs)

    def get(self, path: str, **how: Any) -> Any:
        """The body of a GET that must succeed."""
        answer = self.call("GET", path, **how)
        assert answer.status_code == 200, answer.text
        return answer.json

    def post(self, path: str, body: Any = None, status: int = 201, **how: Any) -> Any:
        """The body of a POST that must give `status`."""
        answer = self.call("POST", path, body, **how)
        assert answer.status_code == status, answer.text
        return answer.json

    def refused(self, method: str, path: str, body: Any, status: int, code: str, **how: Any) -> Any:
        """The problem that a call must give."""
        return problem(self.call(method, path, body, **how), status, code)

    def group(self, *services: str, **more: Any) -> str:
        """A new group of process services."""
        name = self.name()
        wanted = [process(each) for each in services or ("one",)]
        self.post("/groups", {"name": name, "services": wanted, **more})
        return name

    def operation(self, group: str | None = None) -> Any:
        """A group's start that nobody works on."""
        return self.post(f"/groups/{group or self.group()}/start", status=202)

    def seen(self, service_id: str, **columns: Any) -> None:
        """Write what a worker would have seen of a service."""
        with self.record.write() as session:
            service = session.get(Service, service_id)
            for name, value in columns.items():
                setattr(service, name, value)

    def finish(self, operation_id: str, status: OperationStatus = OperationStatus.COMPLETED, **how: Any) -> None:
        """Work on an operation and end it."""
        with self.record.write() as session:
            operations.claim(session, operation_id, {"pid": 1}, now())
            operations.finish(session, operations.get(session, operation_id), status, **how)
        self.shared.feed.wake()

    def ask(self, look: Callable[[Session], Any]) -> Any:
        """What `look` finds in the record."""
        with self.record.read() as session:
            return look(session)

    def close(self) -> None:
        self.shared.reader.close()
        self.shared.courier.close()
        self.record.close()


def process(name: str, **more: Any) -> dict[str, Any]:
    """A service of the process runtime."""
    return {"name": name, "runtime": "process", "command": ["sleep", "9"], **more}


def problem(answer: TestResponse, status: int, code: str) -> Any:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body = answer.json
    assert body is not None
    assert body.keys() >= PROBLEM
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:clos:error:{code}")
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


@contextlib.contextmanager
def kit(home: Path, **how: Any) -> Iterator[Kit]:
    """A kit that is closed afterwards."""
    made = Kit(home, **how)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """One API for a module's tests; each names its own groups."""
    with kit(tmp_path_factory.mktemp("home")) as made:
        yield made


def together(count: int, work: Callable[[], Any]) -> list[Any]:
    """What `count` threads get that do the same at once."""
    gate, found = threading.Barrier(count), []

    def run() -> None:
        gate.wait(10)
        found.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    return found

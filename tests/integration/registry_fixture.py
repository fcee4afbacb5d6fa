"""The API inside the test's own process, on a migrated database: fast enough to ask it hundreds of questions."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import settings
from api import first_start
from api.app import create_app
from models.record import Record
from models.services import Service
from tests.integration.api_fixture import postgres_server
from tests.integration.databases import migrate
from tests.integration.rig import Rig, rig

API_PORT = 18081


class Asked:
    """An API that is called with the administrator's key."""

    def __init__(self, made: Rig) -> None:
        self.rig = made
        environment = made.environment() | {
            "CLOS_API_PORT": str(API_PORT),
            "CLOS_WS_PORT": str(API_PORT + 1),
            "CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE": "0",
        }
        configured = settings.load(environment)
        self.app: Flask = create_app(configured)
        first_start.prepare(configured, self.record)
        key = json.loads((made.home / "credentials.json").read_text())["api_key"]
        self.client: FlaskClient = self.app.test_client()
        self._headers = {"X-API-Key": key, "Host": f"127.0.0.1:{API_PORT}"}

    @property
    def record(self) -> Record:
        found: Record = self.app.extensions["clos"].record
        return found

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """Call `/api/v2` + path. A header's name is written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(f"/api/v2{path}", method=method, json=body, headers=self._headers | named)

    def get(self, path: str) -> Any:
        """The body of a GET that must succeed."""
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json

    def post(self, path: str, body: Any = None, status: int = 201) -> Any:
        """The body of a POST that must give `status`."""
        answer = self.call("POST", path, body if body is not None else {})
        assert answer.status_code == status, answer.text
        return answer.json

    def refused(self, method: str, path: str, body: Any, status: int, code: str) -> Any:
        """The problem that a call must give."""
        answer = self.call(method, path, body)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "application/problem+json"
        assert answer.json is not None
        assert answer.json["code"] == code, answer.text
        return answer.json

    def seen(self, service_id: str, **columns: Any) -> None:
        """Write what a worker would have seen of a service."""
        with self.record.write() as session:
            service = session.get(Service, service_id)
            for name, value in columns.items():
                setattr(service, name, value)

    def close(self) -> None:
        shared = self.app.extensions["clos"]
        shared.reader.close()
        shared.courier.close()
        shared.record.close()


@contextlib.contextmanager
def asked_api(database: str) -> Iterator[Asked]:
    """An API on `sqlite` or `postgres`, of the test's own."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres_server()) if database == "postgres" else None
        asked = Asked(stack.enter_context(rig(url)))
        stack.callback(asked.close)
        yield asked


@contextlib.contextmanager
def migrated_record(database: str) -> Iterator[Record]:
    """An empty record on `sqlite` or `postgres`, through `alembic upgrade head`."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clos-record-"))
        url = stack.enter_context(postgres_server()) if database == "postgres" else f"sqlite:///{folder}/registry.db"
        migrate(url)
        record = Record(url, pool=2)
        stack.callback(record.close)
        yield record

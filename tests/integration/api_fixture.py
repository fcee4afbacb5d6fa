"""The API as its clients meet it: `python -m api.main` and the gateway as processes, on a rig of their own."""

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.integration.databases import postgres_database as postgres_server
from tests.integration.rig import Rig, free_port, rig
from tests.waiting import wait_until


class Api:
    """A running API, and a session that knows its key."""

    def __init__(self, made: Rig, **environment: str) -> None:
        self.rig = made
        self.port, self.ws_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.ws_port}/api/v2/ws"
        self._environment = {"CLOS_API_PORT": str(self.port), "CLOS_WS_PORT": str(self.ws_port), **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.gateway_process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the API and wait until it answers."""
        self.process = self.rig.start("api.main", **self._environment)
        wait_until(lambda: self._answers(self.url, self.process, "api.main"), 30, "the API's start")
        wait_until((self.rig.home / "credentials.json").exists, 5)
        self.key = json.loads((self.rig.home / "credentials.json").read_text())["api_key"]
        self.session = self.as_key(self.key)

    def start_gateway(self) -> None:
        """Start the gateway and wait until it answers."""
        self.gateway_process = self.rig.start("api.gateway", **self._environment)
        url = f"http://127.0.0.1:{self.ws_port}"
        wait_until(lambda: self._answers(url, self.gateway_process, "api.gateway"), 30, "the gateway's start")

    def _answers(self, url: str, process: "subprocess.Popen[bytes] | None", module: str) -> bool:
        assert process is not None
        assert process.poll() is None, self.rig.log(module)[-3000:]
        try:
            return requests.get(f"{url}/health/live", timeout=2).ok
        except requests.RequestException:
            return False

    @staticmethod
    def as_key(key: str) -> requests.Session:
        """A session that sends this API key."""
        session = requests.Session()
        session.headers["X-API-Key"] = key
        return session

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Call `/api/v2` + path with the administrator's key."""
        kwargs.setdefault("timeout", 70)
        return self.session.request(method, f"{self.url}/api/v2{path}", **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        """GET with the administrator's key."""
        return self.call("GET", path, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        """POST with the administrator's key."""
        return self.call("POST", path, **(kwargs if body is None else kwargs | {"json": body}))

    def login(self, username: str, password: str) -> requests.Response:
        """Log in."""
        body = {"username": username, "password": password}
        return requests.post(f"{self.url}/api/v2/auth/login", json=body, timeout=10)

    def user(self, role: str) -> dict[str, Any]:
        """A new user of that role, with `password` and a logged-in `session`."""
        name, password = f"{role}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        made = self.post("/users", {"username": name, "password": password, "role": role})
        assert made.status_code == 201, made.text
        tokens = self.login(name, password).json()
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        return made.json() | {"password": password, "session": session, "tokens": tokens}

    def group(self, *services: str) -> str:
        """A new group of services that nobody runs."""
        name = f"g{uuid.uuid4().hex[:8]}"
        named = [{"name": each, "runtime": "process", "command": ["true"]} for each in services or ("one",)]
        body = {"name": name, "services": named}
        made = self.post("/groups", body)
        assert made.status_code == 201, made.text
        return name


@contextlib.contextmanager
def running_api(database_url: str | None = None, **environment: str) -> Iterator[Api]:
    """An API on a rig of its own; nothing works on its operations."""
    with rig(database_url) as made:
        yield Api(made, **environment)


@contextlib.contextmanager
def api_on(database: str, **environment: str) -> Iterator[Api]:
    """An API on `sqlite` or `postgres`."""
    if database == "sqlite":
        with running_api(**environment) as api:
            yield api
    else:
        with postgres_server() as url, running_api(url, **environment) as api:
            yield api


__all__ = ["DATABASES", "Api", "api_on", "postgres_server", "running_api"]
DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]

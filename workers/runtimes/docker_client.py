"""The connection to Docker's engine: made late, one per process, every request with a limit."""

import os
import threading
from typing import Any

import docker
import requests
import structlog
from docker.errors import create_api_error_from_http_exception

from domain.engine_api import OLDEST, choose
from workers.runtimes.docker_errors import translated

log = structlog.get_logger()
SHORT_TIMEOUT_S = 3.0


class EngineClient:
    """Gives the low-level client (the high-level one inspects whatever it lists).

    `from_env` is never used: it follows the Docker CLI's context, which may be another machine.
    """

    def __init__(self, base_url: str, timeout_s: float, max_pool: int, pinned: str | None = None) -> None:
        self.base_url = base_url
        self._pinned = pinned
        # What is to be said about the engine's version; known once it was connected to.
        self.warning: str | None = None
        self.timeout_s = timeout_s
        self._max_pool = max_pool
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def api(self, timeout_s: float | None = None) -> Any:
        """This process's `APIClient`, untyped: half of its stubs are missing, and times are whole numbers there.

        Connecting negotiates the API's version, within `timeout_s`.

        Raises:
            EngineUnsupported: there is none that the engine and CLOS both know.
        """
        made = self._made
        if made and made[0] == os.getpid():
            return made[1]
        # Connected outside the lock: behind a hanging engine the callers must fail together, not in a row.
        fresh = self._connect(min(timeout_s or self.timeout_s, self.timeout_s))
        with self._lock:
            if self._made and self._made[0] == os.getpid():
                fresh.close()
                return self._made[1]
            self._made = (os.getpid(), fresh)
        return fresh

    def _connect(self, timeout_s: float) -> Any:
        # `version="auto"` would take whatever the engine has newest, tested or not.
        asking = self._client(OLDEST, timeout_s)
        try:
            told = asking.version(api_version=False)
        finally:
            asking.close()
        spoken = choose(
            str(told.get("ApiVersion") or ""), told.get("MinAPIVersion") or None, told.get("Version"), self._pinned
        )
        if spoken.warning is not None and spoken.warning != self.warning:
            log.warning("engine.not_tested", warning=spoken.warning)
        self.warning = spoken.warning
        return self._client(spoken.version, self.timeout_s)

    def _client(self, version: str, timeout_s: float) -> Any:
        made = docker.DockerClient(
            base_url=self.base_url,
            version=version,
            timeout=timeout_s,  # type: ignore[arg-type]  # the stubs say int, requests takes fractions
            max_pool_size=self._max_pool,
        ).api
        if self.base_url.startswith("unix:"):
            # There is no proxy on the way to a socket; looking for one in the environment was a third of a request.
            made.trust_env = False
        return made

    def request(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
        stream: bool = False,
        **kwargs: Any,
    ) -> requests.Response:
        """One request whose limits are ours: `timeout_s` to connect, `idle_s` between two pieces of an answer.

        Raises:
            docker.errors.APIError: the engine refused.
        """
        connect_s = timeout_s or self.timeout_s
        api = self.api(connect_s)
        response: requests.Response = api.request(
            method,
            f"{api.base_url}/v{api.api_version}{path}",
            timeout=(connect_s, idle_s or connect_s),
            stream=stream,
            **kwargs,
        )
        try:
            response.raise_for_status()
        except requests.HTTPError as refusal:
            create_api_error_from_http_exception(refusal)
        return response

    def info(self) -> dict[str, Any]:
        """Who the engine is: `{id, name, version, api_version, warning}`, within three seconds.

        Raises:
            EngineUnreachable: it does not answer.
            EngineUnsupported: it is older or newer than what CLOS speaks.
        """
        limit_s = min(SHORT_TIMEOUT_S, self.timeout_s)
        with translated("ask Docker who it is", base_url=self.base_url, looking=True):
            told = self.request("GET", "/info", timeout_s=limit_s).json()
            version = self.api(limit_s).api_version
        return {
            "id": told.get("ID"),
            "name": told.get("Name"),
            "version": told.get("ServerVersion"),
            "api_version": version,
            "warning": self.warning,
        }

    def close(self) -> None:
        """Drop the connections; the next call makes new ones."""
        with self._lock:
            made, self._made = self._made, None
        if made and made[0] == os.getpid():
            made[1].close()

"""Since when the engine runs, asked over a connection of its own."""

import socket
import struct
from datetime import datetime
from typing import Any

import docker
from docker.errors import APIError

from domain.observation import Sighting
from workers.runtimes import process_identity
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_errors import status, translated
from workers.runtimes.docker_observation import parse_time

_LIMIT_S = 5.0
# The default bridge is made anew at every start of the engine, after it has dealt with what ran before.
_BRIDGE = "bridge"


class EngineSighting:
    """Asks the engine who it is. Its id is asked for once per start."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._known: tuple[datetime, str] | None = None

    def ask(self) -> Sighting:
        """A fresh connection: an engine that ends closes its door first, and still answers whom it has let in.

        Raises:
            EngineUnreachable: it does not answer, or not to newcomers.
        """
        with translated("ask Docker since when it runs", base_url=self._client.base_url, looking=True):
            version = self._client.api().api_version
            fresh: Any = docker.APIClient(base_url=self._client.base_url, version=version, timeout=int(_LIMIT_S))
            try:
                since = self._since(fresh)
                return Sighting(self._id(fresh, since), since, local=self._path is not None)
            finally:
                fresh.close()

    def _since(self, api: Any) -> datetime | None:
        try:
            return parse_time(api.inspect_network(_BRIDGE).get("Created"))
        except APIError as error:
            if status(error) != 404:
                raise
            return self._process_start()

    def _id(self, api: Any, since: datetime | None) -> str:
        if self._known is None or since is None or self._known[0] != since:
            found = str(api.info().get("ID") or "")
            if since is None:
                return found
            self._known = (since, found)
        return self._known[1]

    @property
    def _path(self) -> str | None:
        scheme, _, path = self._client.base_url.partition("://")
        return f"/{path.lstrip('/')}" if scheme in ("unix", "http+unix") else None

    def _process_start(self) -> datetime | None:
        """When the process that listens on the engine's socket began, to about a second; None if it cannot be seen."""
        if self._path is None or not hasattr(socket, "SO_PEERCRED"):
            return None
        with socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(_LIMIT_S)
            opened.connect(self._path)
            pid: int = struct.unpack("3i", opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        # An init that hands the socket on is not the engine; 0 is a process of another namespace.
        stat = process_identity.read_stat(pid) if pid > 1 else None
        return process_identity.started_at(stat.start_ticks) if stat is not None else None

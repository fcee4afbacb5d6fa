"""Every socket of a process: who comes, who goes, who is stuck, and the one reading of the event log for all."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from api.auth import Principal
from api.parts import Parts
from api.v2.line import CLOSE_FULL, CLOSE_RESTART, STUCK_AFTER_S, Farewell
from api.v2.stream import Client, Event

_log = structlog.get_logger()


class Hub:
    """Every socket of this process."""

    def __init__(self, shared: Parts, max_clients: int) -> None:
        self._shared = shared
        self._slots = threading.BoundedSemaphore(max_clients)
        self._clients: set[Client] = set()
        self._lock = threading.Lock()
        # Held by who comes and who leaves; never by the reader of the log, which asks for `_lock`.
        self._door = threading.Lock()
        self._listening: int | None = None
        self._closing = threading.Event()

    def start(self) -> None:
        """Be ready for the first socket, and watch over all."""
        self._shared.reader.start()
        threading.Thread(target=self._watch, name="clos-stuck-sockets", daemon=True).start()

    def serve(self, ws: Any, renew: Callable[[], Principal]) -> None:
        """Serve one socket on the calling thread.

        Raises:
            Farewell: there is no room, or CLOS is about to end.
            NotAuthenticated: nobody known.
        """
        if self._closing.is_set():
            raise Farewell(CLOSE_RESTART, "CLOS restarts")
        if not self._slots.acquire(blocking=False):
            raise Farewell(CLOSE_FULL, "no room for another client")
        try:
            client = Client(ws, self._shared, renew)
            try:
                self._come(client)
                if self._closing.is_set():
                    client.end(CLOSE_RESTART, "CLOS restarts")
                client.run(self._shared.reader)
            finally:
                self._go(client)
        finally:
            self._slots.release()

    def _come(self, client: Client) -> None:
        with self._door:
            with self._lock:
                self._clients.add(client)
            if self._listening is None:
                self._listening, _ = self._shared.reader.listen(self._offer)

    def _go(self, client: Client) -> None:
        """The last one out ends the listening: nothing is read that nobody gets."""
        with self._door:
            with self._lock:
                self._clients.discard(client)
                empty = not self._clients
            if empty and self._listening is not None:
                self._shared.reader.leave(self._listening)
                self._listening = None

    def close(self) -> None:
        """Close every socket with 1012."""
        self._closing.set()
        for client in self.clients():
            client.end(CLOSE_RESTART, "CLOS restarts")

    def clients(self) -> list[Client]:
        """Those that are connected now."""
        with self._lock:
            return list(self._clients)

    def _offer(self, event: Event) -> None:
        frame = json.dumps(event, separators=(",", ":"))
        for client in self.clients():
            client.offer(event, frame)

    def _watch(self) -> None:
        while not self._closing.wait(1.0):
            now = time.monotonic()
            for client in self.clients():
                since = client.line.sending_since
                if since is not None and now - since > STUCK_AFTER_S:
                    _log.warning("socket.stuck")
                    client.line.cut()

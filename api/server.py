"""gunicorn, run from within: what API and gateway have in common."""

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from api.deadlines import DEADLINES, SERVED
from settings import Settings

_log = structlog.get_logger()
HEADERS_TIMEOUT_S = 10.0
LINGER_S = 0.3
_MAX_BACKLOG = 256
_MORE_TO_COME = ("CONTENT-LENGTH", "TRANSFER-ENCODING", "UPGRADE")
SWITCH_S = 0.0005
THREADS = 32


class ClosWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, with a limit on how long a request's head may take, and problems instead of HTML."""

    def init_process(self) -> None:
        """The worker begins."""
        # The thread that sends an operation must not wait five milliseconds for the one that writes its answer.
        sys.setswitchinterval(SWITCH_S)
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Serve one connection's next request."""
        conn.clos_deadline = DEADLINES.begin(conn.sock, HEADERS_TIMEOUT_S)
        conn.clos_unread = True
        try:
            result = super().handle(conn)
        finally:
            DEADLINES.end(conn.clos_deadline)
        if result is False:
            _hang_up(conn)
        return result

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Its head is here."""
        DEADLINES.end(conn.clos_deadline)
        conn.clos_unread = any(name in _MORE_TO_COME and value != "0" for name, value in req.headers)
        SERVED.request = req
        try:
            return super().handle_request(req, conn)
        finally:
            SERVED.request = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: tell the app, on a thread since a signal's handler may take no lock."""
        if self.alive:
            threading.Thread(target=self.app.stopping, name="clos-stopping", daemon=True).start()
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        """At the end, take in who has connected already and refuse the rest: nobody may be left unheard."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                for _ in range(_MAX_BACKLOG):
                    before = self.nr_conns
                    self.accept(listener)
                    if self.nr_conns == before:
                        break
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        # Two seconds of waiting for nobody would be most of what `clos down` may take.
        super()._cap_keepalive(min(deadline, time.monotonic() + LINGER_S))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Its answer is out."""
        super().finish_request(conn, fs)
        if not self.alive:
            self._cap_keepalive(time.monotonic() + LINGER_S)

    def handle_error(self, _req: Any, client: Any, _addr: Any, exc: BaseException) -> None:
        """Answer what is not even HTTP."""
        status, text, code = 400, "Bad Request", "bad_request"
        if not type(exc).__module__.startswith("gunicorn.http"):
            _log.error("request.failed", exc_info=exc)
            status, text, code = 500, "Internal Server Error", "internal_error"
        problem = {"type": f"urn:clos:error:{code}", "title": text, "status": status, "detail": text, "code": code}
        body = json.dumps(problem | {"request_id": None}).encode()
        head = (
            f"HTTP/1.1 {status} {text}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError as gone:
            _log.debug("client.gone", error=str(gone))


def _hang_up(conn: Any) -> None:
    """End a connection here: gunicorn would wait for its client for two seconds on the thread that serves everybody.

    Only where a body or frames may still be on their way is the client given a moment: it would see a reset, and not
    the answer.
    """
    if conn.clos_unread:
        util.close_graceful(conn.sock, timeout=LINGER_S)
    else:
        util.close(conn.sock)
    conn.close = lambda graceful=False: None  # noqa: ARG005 - called by gunicorn, which has nothing left to do


class Server(BaseApplication):  # type: ignore[misc]
    """One worker with many threads; the app is made in the worker, so that nothing of it crosses the fork."""

    def __init__(
        self, make: Callable[[], Flask], stop: Callable[[Flask], None], options: dict[str, Any], settings: Settings
    ) -> None:
        self._make = make
        self._stop = stop
        self._made: Flask | None = None
        tls = {"certfile": settings.security.tls_cert, "keyfile": settings.security.tls_key}
        self._options = _OPTIONS | {name: value for name, value in tls.items() if value} | options
        super().__init__()

    def run(self) -> None:
        """Serve until the end."""
        # What is imported by now is left alone by the collector, so that the fork's two processes go on sharing it.
        gc.collect()
        gc.freeze()
        super().run()

    def load_config(self) -> None:
        """Everything is set here; neither files nor the command line are read."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the app; gunicorn calls it in the worker."""
        self._made = self._make()
        return self._made

    def stopping(self) -> None:
        """The worker is asked to end: let go of whatever waits."""
        if self._made is not None:
            self._stop(self._made)


_OPTIONS: dict[str, Any] = {
    "worker_class": "api.server.ClosWorker",
    "workers": 1,
    "worker_tmp_dir": "/dev/shm",  # noqa: S108 - gunicorn touches a file there once a second
    "control_socket_disable": True,
    "forwarded_allow_ips": "",
    "accesslog": None,
    "loglevel": "warning",
    "keepalive": 15,
    "timeout": 60,
    "limit_request_line": 8190,
}


def address(host: str, port: int) -> str:
    """What gunicorn binds."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

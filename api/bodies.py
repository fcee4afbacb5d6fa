"""Reading a request's body: within a size, within a time, once."""

import contextlib
import heapq
import itertools
import socket
import threading
import time
from typing import Any

from flask import current_app, g, request

from api.errors import BodyTooLarge, Overloaded, RequestTimeout, WrongContentType
from api.json_provider import loads

MAX_BYTES = 1024 * 1024
_DRAIN_S = 1.0
_DRAIN_PIECES = 128
_ABSENT = object()


class Deadlines:
    """Cuts the reading side of sockets whose body has not arrived in time.

    gunicorn reads until it has what was announced, however slowly that comes: a timeout per read would not end it.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, socket.socket]] = []
        self._open: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, sock: socket.socket, timeout_s: float) -> int:
        """Cut `sock` in `timeout_s`, unless `end` is called before."""
        with self._changed:
            number = next(self._numbers)
            self._open.add(number)
            heapq.heappush(self._due, (time.monotonic() + timeout_s, number, sock))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clos-deadlines", daemon=True)
                self._thread.start()
            if self._due[0][1] == number:
                # Only then must it wake earlier than it meant to; a wake-up for each request would cost.
                self._changed.notify()
            return number

    def end(self, number: int) -> None:
        """The body is here."""
        with self._changed:
            self._open.discard(number)

    def _run(self) -> None:
        with self._changed:
            while True:
                while self._due and (self._due[0][1] not in self._open or self._due[0][0] <= time.monotonic()):
                    _, number, sock = heapq.heappop(self._due)
                    if number in self._open:
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_RD)
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)


DEADLINES = Deadlines()
# gunicorn's request that the current thread serves: only it can say that the connection ends after the answer.
SERVED = threading.local()


def close_after_answer() -> None:
    """The rest of the body is left unread, so the connection cannot be used again."""
    served = getattr(SERVED, "request", None)
    if served is not None:
        served.force_close()


def body_bytes() -> bytes:
    """The body as it came.

    Raises:
        BodyTooLarge: over `MAX_BYTES`.
        RequestTimeout: it was not here within `api.read_timeout`.
        Overloaded: too many bodies are still under way.
    """
    known = g.get("clos_body")
    if known is None:
        known = g.clos_body = _read()
    return bytes(known)


def _read() -> bytes:
    length = request.content_length
    chunked = "chunked" in request.headers.get("Transfer-Encoding", "")
    if not length and not chunked:
        return b""
    if length is not None and length > MAX_BYTES:
        raise _too_large()
    shared = current_app.extensions["clos"]
    if not shared.body_slots.acquire(timeout=0.5):
        close_after_answer()
        raise Overloaded("too many bodies are still under way")
    try:
        return _read_in_time(shared.settings.api.read_timeout_s, length)
    finally:
        shared.body_slots.release()


def _read_in_time(timeout_s: float, length: int | None) -> bytes:
    sock = request.environ.get("gunicorn.socket")
    number = DEADLINES.begin(sock, timeout_s) if sock is not None else None
    try:
        raw = request.environ["wsgi.input"].read(MAX_BYTES + 1 if length is None else length)
    except OSError as gone:
        close_after_answer()
        raise RequestTimeout("the body did not arrive") from gone
    finally:
        if number is not None:
            DEADLINES.end(number)
    if len(raw) > MAX_BYTES:
        raise _too_large()
    if length is not None and len(raw) < length:
        close_after_answer()
        raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s")
    return bytes(raw)


def _too_large() -> BodyTooLarge:
    """Read on for a moment: who is still sending would see a reset connection instead of the answer."""
    close_after_answer()
    until = time.monotonic() + _DRAIN_S
    sock = request.environ.get("gunicorn.socket")
    number = DEADLINES.begin(sock, _DRAIN_S) if sock is not None else None
    try:
        for _ in range(_DRAIN_PIECES):
            if not request.environ["wsgi.input"].read(65536) or time.monotonic() > until:
                break
    except OSError:
        pass
    finally:
        if number is not None:
            DEADLINES.end(number)
    return BodyTooLarge(f"a body may have at most {MAX_BYTES} bytes")


def json_body() -> Any:
    """The body's JSON value; `{}` where there is no body.

    Raises:
        WrongContentType: it is not declared to be JSON.
        MalformedJson: see `json_provider.loads`.
    """
    value = g.get("clos_json", _ABSENT)
    if value is _ABSENT:
        raw = body_bytes()
        if not raw:
            value = {}
        else:
            if request.mimetype != "application/json":
                raise WrongContentType("send JSON, and say so: Content-Type: application/json")
            value = loads(raw)
        g.clos_json = value
    return value

"""Reading a request's body: within a size, within a time, once."""

import time
from typing import Any

from flask import current_app, g, request

from api.deadlines import DEADLINES, SERVED
from api.errors import BodyTooLarge, Overloaded, RequestTimeout, WrongContentType
from api.json_provider import loads

MAX_BYTES = 1024 * 1024
_DRAIN_S = 1.0
_DRAIN_PIECES = 128
_ABSENT = object()


def close_after_answer() -> None:
    """The rest of the body is left unread, so the connection cannot be used again."""
    served = getattr(SERVED, "request", None)
    if served is not None:
        served.force_close()


def leave_unread() -> None:
    """Called when the answer is made. A body that nobody asked for (the request was refused before) is not waited for:
    gunicorn would read it to its end on a thread, however slowly it comes, to keep the connection."""
    declared = bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "")
    if declared and g.get("clos_body") is None:
        close_after_answer()


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

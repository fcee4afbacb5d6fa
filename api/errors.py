"""Where facts become HTTP: every error of the API is `application/problem+json` (RFC 9457), without exception."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, g, json
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from domain.errors import ClosError, ValidationFailed

_log = structlog.get_logger()

# A fact's code -> status. `<noun>_not_found` is 404; what is missing here is our own mistake: 500.
STATUS: dict[str, int] = {
    "malformed_json": 400,
    "bad_request": 400,
    "wrong_host": 400,
    "invalid_cursor": 400,
    "idempotency_key_not_allowed": 400,
    "not_authenticated": 401,
    "forbidden": 403,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "operation_in_progress": 409,
    "operation_final": 409,
    "queue_full": 409,
    "operation_not_waiting": 409,
    "service_exists": 409,
    "not_an_orphan": 409,
    "orphan_not_adoptable": 409,
    "group_exists": 409,
    "group_not_imported": 409,
    "user_exists": 409,
    "service_running": 409,
    "group_running": 409,
    "group_not_empty": 409,
    "service_required": 409,
    "lease_in_use": 409,
    "volume_in_use": 409,
    "port_held": 409,
    "conflict_closed": 409,
    "undo_impossible": 409,
    "termination_refused": 409,
    "holder_changed": 409,
    "illegal_transition": 409,
    "last_admin": 409,
    "range_overlaps": 409,
    "range_in_use": 409,
    "stale_version": 412,
    "body_too_large": 413,
    "wrong_content_type": 415,
    "validation_failed": 422,
    "policy_denied": 422,
    "dependency_cycle": 422,
    "unknown_dependency": 422,
    "unreachable_reference": 422,
    "idempotency_key_reused": 422,
    "rate_limited": 429,
    "internal_error": 500,
    "database_busy": 503,
    "database_unavailable": 503,
    "overloaded": 503,
    "engine_unreachable": 503,
    "engine_unsupported": 503,
    "logs_timeout": 504,
}
_HTTP_CODES = {
    400: "bad_request",
    401: "not_authenticated",
    403: "forbidden",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "wrong_content_type",
    422: "validation_failed",
    429: "rate_limited",
    503: "overloaded",
}


class MalformedJson(ClosError):
    """The body is not the JSON that we accept."""

    code = "malformed_json"


class WrongContentType(ClosError):
    """A body that is not declared to be JSON."""

    code = "wrong_content_type"


class BodyTooLarge(ClosError):
    """The body is over the limit."""

    code = "body_too_large"


class RequestTimeout(ClosError):
    """The body did not arrive in time."""

    code = "request_timeout"


class InvalidCursor(ClosError):
    """A cursor that this API did not give, or not for this list."""

    code = "invalid_cursor"


class WrongHost(ClosError):
    """The Host header names somebody else."""

    code = "wrong_host"


class NotAuthenticated(ClosError):
    """Nobody known asks."""

    code = "not_authenticated"


class Forbidden(ClosError):
    """Whoever asks may not do that."""

    code = "forbidden"


class RateLimited(ClosError):
    """Too many requests; again in `retry_after_s`."""

    code = "rate_limited"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many requests", hint=f"wait {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Overloaded(ClosError):
    """No thread is free for that now."""

    code = "overloaded"


def status_of(error: ClosError) -> int:
    """The HTTP status of a fact."""
    return 404 if error.code.endswith("_not_found") else STATUS.get(error.code, 500)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Response:
    """The answer that tells of an error. `facts` stand beside the standard members."""
    body: dict[str, Any] = dict(facts or {})
    body |= {
        "type": f"urn:clos:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id"),
    }
    if errors:
        body["errors"] = dict(errors)
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    response.headers.extend(dict(headers or {}))
    return response


def flatten(messages: Any, path: str = "") -> dict[str, list[str]]:
    """marshmallow's nested messages as `field.0.inner` -> list of messages."""
    if isinstance(messages, Mapping):
        flat: dict[str, list[str]] = {}
        for name, inner in messages.items():
            # "_schema" and a list's own messages belong to what holds them.
            here = path if name in ("_schema", "value") and path else f"{path}.{name}" if path else str(name)
            for key, texts in flatten(inner, here).items():
                flat.setdefault(key, []).extend(texts)
        return flat
    return {path or "_schema": [str(text) for text in (messages if isinstance(messages, list) else [messages])]}


def _from_fact(error: ClosError) -> Response:
    status = status_of(error)
    if status == 500:
        return _unexpected(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", 1))
    facts = error.facts | ({"hint": error.hint} if error.hint else {})
    errors = flatten(error.errors) if isinstance(error, ValidationFailed) else None
    return problem(status, error.code, error.message, errors=errors, headers=headers, facts=facts)


def _from_http(error: HTTPException) -> Response:
    status = error.code or 500
    if status >= 500 and status != 503:
        return _unexpected(error)
    data = getattr(error, "data", None) or {}
    code = _HTTP_CODES.get(status, "bad_request")
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Location")}
    messages = data.get("messages")
    # webargs puts the location (json, query, headers) around the fields.
    errors = flatten({k: v for part in messages.values() for k, v in _fields(part).items()}) if messages else None
    detail = "the request is not valid" if errors else (error.description or HTTPStatus(status).phrase)
    return problem(status, code, detail, errors=errors, headers=headers)


def _fields(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {"_schema": part}


def _from_database(error: DBAPIError | PoolTimeout) -> Response:
    words = str(error).lower()
    if isinstance(error, PoolTimeout) or any(word in words for word in ("locked", "busy", "lock timeout")):
        return problem(503, "database_busy", "the database is busy", headers={"Retry-After": "1"})
    if isinstance(error, OperationalError):
        _log.error("database.unavailable", error=type(error.orig).__name__)
        return problem(503, "database_unavailable", "the database does not answer", headers={"Retry-After": "1"})
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    _log.error("request.failed", request_id=g.get("request_id"), exc_info=error)
    return problem(500, "internal_error", "CLOS made a mistake; its log says more under this request_id")


def register(app: Flask) -> None:
    """Make every error of this app a problem."""
    app.register_error_handler(ClosError, _from_fact)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(DBAPIError, _from_database)
    app.register_error_handler(PoolTimeout, _from_database)
    app.register_error_handler(Exception, _unexpected)

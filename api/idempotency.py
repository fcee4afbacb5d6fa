"""Units of work: one write transaction that does the work, keeps the answer, and only then lets messages go.

A view that writes does all of it, its answer included, inside the block:

    with unit_of_work() as session:
        operation = operations.create(session, "group.start", …)
        return accepted(operation)                      # 202 (api/v2/operation_answer.py)

    with unit_of_work() as session:
        service = registry.add(session, …)
        return answer(ServiceSchema().dump(service), 201, {"ETag": etag(1)})

- `answer` makes the response *before* the commit. So for a request with an `Idempotency-Key` the response is stored
  in the same transaction: there is never work without its stored answer, nor an answer without the work. A rival with
  the same key waits for the write lock and then finds the row: the transaction is the lock.
- `after_commit(f)` calls `f()` after the commit, not at all if it fails. `accepted` uses it for the outbox. The
  readers of the event log are woken after every unit of work.
- An exception inside the block undoes everything; answers other than 2xx are never stored.
- Every POST view outside `/auth`, `/users` and `/api-keys` carries `@idempotent` (a mark; the look-up happens before
  the view is called, in `replayed`). A key on any other POST is 400.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from flask import Response, g, json, request
from sqlalchemy import delete
from sqlalchemy.orm import Session

from api import audit
from api.auth import principal
from api.bodies import body_bytes
from api.parts import parts
from domain.errors import ClosError, ValidationFailed
from models.base import now
from models.installation import IdempotencyKey

HEADER = "Idempotency-Key"
KEPT_H = 24
View = TypeVar("View", bound=Callable[..., Any])


class IdempotencyKeyReused(ClosError):
    """The key was used for another request."""

    code = "idempotency_key_reused"


class IdempotencyKeyNotAllowed(ClosError):
    """This call takes no key."""

    code = "idempotency_key_not_allowed"


class Replay(Exception):
    """The request was answered before; `response` is that answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass
class _Work:
    """What the current unit of work has to give and to do."""

    response: Response | None = None
    due: list[Callable[[], Any]] = field(default_factory=list)


def idempotent(view: View) -> View:
    """Mark a POST view that takes an `Idempotency-Key`."""
    view.clos_idempotent = True  # type: ignore[attr-defined]
    return view


@contextmanager
def unit_of_work() -> Iterator[Session]:
    """A write session; see the top of this file.

    Raises:
        DatabaseBusy: the write lock was not to be had in time.
    """
    key = request.headers.get(HEADER) if request.method == "POST" else None
    work = g.clos_work = _Work()
    try:
        with parts().record.write() as session:
            if key is not None and (stored := _stored(session, key)) is not None:
                raise Replay(_again(stored))
            yield session
            if key is not None:
                _store(session, key, work.response)
            audit.write(session)
    finally:
        g.clos_work = None
    for due in work.due:
        due()
    parts().courier.wake()


def answer(body: Mapping[str, Any] | None, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The response of this unit of work. Call it once, inside the block."""
    text = "" if body is None else json.dumps(body)
    response = Response(text, status, mimetype="application/json")
    response.headers.extend(dict(headers or {}))
    _work().response = response
    return response


def after_commit(due: Callable[[], Any]) -> None:
    """Call `due` once the current unit of work is committed."""
    _work().due.append(due)


def _work() -> _Work:
    work: _Work | None = g.get("clos_work")
    if work is None:
        raise RuntimeError("outside a unit of work")
    return work


def replayed(view: Any) -> Response | None:
    """The stored answer to a repeated request, if the current one is that. Called before the view.

    Raises:
        IdempotencyKeyNotAllowed: the view takes no key.
        IdempotencyKeyReused: the key was used with another body.
        ValidationFailed: it is not a key.
    """
    if request.method != "POST" or HEADER not in request.headers:
        return None
    if not getattr(view, "clos_idempotent", False):
        raise IdempotencyKeyNotAllowed(f"{request.path} takes no {HEADER}", hint="send it without")
    key = request.headers[HEADER]
    if not re.fullmatch(r"[!-~]{1,255}", key):
        raise ValidationFailed({HEADER: ["1 to 255 printable characters without spaces."]})
    body_bytes()  # before the database is touched: it may take its time
    with parts().record.read() as session:
        stored = _stored(session, key)
        return None if stored is None else _again(stored)


def _identity(key: str) -> dict[str, str]:
    return {"principal": principal().name, "method": request.method, "path": request.path, "key": key}


def _body_hash() -> str:
    # No body counts as `{}`.
    return hashlib.sha256(request.query_string + b"\n" + (body_bytes() or b"{}")).hexdigest()


def _stored(session: Session, key: str) -> IdempotencyKey | None:
    found = session.get(IdempotencyKey, _identity(key))
    if found is None or found.created_at < now() - timedelta(hours=KEPT_H):
        return None
    if found.body_hash != _body_hash():
        raise IdempotencyKeyReused(
            "this Idempotency-Key was used for a request with another body", hint="use a new key"
        )
    return found


def _again(stored: IdempotencyKey) -> Response:
    response = Response(stored.body, stored.status_code, mimetype="application/json")
    response.headers.extend(stored.headers or {})
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _store(session: Session, key: str, response: Response | None) -> None:
    if response is None:
        raise RuntimeError(f"{request.endpoint} gave no answer inside its unit of work")
    if not 200 <= response.status_code < 300:
        return
    at = now()
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < at - timedelta(hours=KEPT_H)))
    kept = {name: value for name, value in response.headers.items() if name in ("Location", "ETag")}
    session.add(
        IdempotencyKey(
            **_identity(key),
            body_hash=_body_hash(),
            status_code=response.status_code,
            headers=kept,
            body=response.get_data(as_text=True),
            created_at=at,
        )
    )

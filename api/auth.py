"""Who asks, and what they may do. Deny by default: a view without `@requires` or `@public` is refused at start.

The marks are read by a hook that runs before the view, so neither the order of decorators nor a body that fails to
parse can put anything before the question who asks.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jwt
from flask import Flask, g, request
from flask_jwt_extended import decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import PyJWTError
from sqlalchemy.orm import Session

from api.errors import Forbidden, NotAuthenticated
from api.parts import Parts, parts
from domain.permissions import KNOWN, allows, permissions_of
from models import access
from models.access import ApiKey, User

View = TypeVar("View", bound=Callable[..., Any])
# How long a revoked key, session or role may still be believed.
REMEMBERED_S = 2.0
_MAX_REMEMBERED = 2000
_CLAIMS = {"exp", "iat", "jti", "sub", "type", "sid", "ver"}


@dataclass(frozen=True)
class Principal:
    """Somebody who was recognised. `session_id` stands for a login, `key_id` for an API key."""

    name: str
    role: str
    permissions: frozenset[str]
    user_id: int
    session_id: str | None = None
    key_id: str | None = None
    version: int = 0
    expires_at: float | None = None

    def may(self, permission: str) -> bool:
        """Whether a permission is theirs."""
        return allows(self.permissions, permission)

    def require(self, permission: str) -> None:
        """Insist on a permission.

        Raises:
            Forbidden: it is not theirs.
        """
        if not self.may(permission):
            raise Forbidden(f"this needs the permission {permission}", permission=permission)


def requires(permission: str) -> Callable[[View], View]:
    """Mark a view with the permission that it needs. `"self"` needs a login only."""
    if permission not in KNOWN and permission not in ("*", "self"):
        raise ValueError(f"{permission!r} is not in domain/permissions.py")

    def mark(view: View) -> View:
        view.clos_permission = permission  # type: ignore[attr-defined]
        return view

    return mark


def public(view: View) -> View:
    """Mark a view that everybody may call."""
    view.clos_public = True  # type: ignore[attr-defined]
    return view


def view_of(app: Flask, endpoint: str, method: str) -> Any:
    """The function behind a route and method, whether a function or a method of a class."""
    view = app.view_functions[endpoint]
    holder = getattr(view, "view_class", None)
    if holder is None:
        return view
    name = method.lower()
    return getattr(holder, name, None) or (getattr(holder, "get", None) if name == "head" else None)


def routes(app: Flask) -> Iterator[tuple[str, str, Any]]:
    """Every (path, method, view function) of an app."""
    for rule in app.url_map.iter_rules():
        for method in sorted(rule.methods or ()):
            if method != "HEAD" or "GET" not in (rule.methods or ()):
                yield rule.rule, method, view_of(app, rule.endpoint, method)


def refuse_unmarked(app: Flask) -> None:
    """Fail if a route says nothing of who may call it."""
    bare = [
        f"{method} {path}"
        for path, method, view in routes(app)
        if not hasattr(view, "clos_permission") and not hasattr(view, "clos_public")
    ]
    if bare:
        raise RuntimeError(f"routes without @requires or @public: {', '.join(bare)}")


def principal() -> Principal:
    """Who asks.

    Raises:
        NotAuthenticated: nobody known.
    """
    found: Principal | None = g.get("principal")
    if found is None:
        raise NotAuthenticated("log in, or send an API key")
    return found


def check(view: Any) -> None:
    """Let the current request through to `view`, or refuse it.

    Raises:
        NotAuthenticated, Forbidden: it may not.
    """
    if getattr(view, "clos_public", False):
        return
    wanted = getattr(view, "clos_permission", None)
    g.principal = authenticate()
    if wanted != "self":
        g.principal.require(wanted or "*")


def authenticate() -> Principal:
    """Recognise whoever sent the current request, by `X-API-Key` or `Authorization: Bearer`.

    Raises:
        NotAuthenticated: by neither.
    """
    key = request.headers.get("X-API-Key")
    if key is not None:
        return by_key(key)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        # Prometheus and the like can send a key in no other way.
        return by_key(token.strip()) if token.startswith("clos_") else by_token(token.strip())
    raise NotAuthenticated("log in, or send an API key")


def by_key(key: str) -> Principal:
    """Recognise an API key.

    Raises:
        NotAuthenticated: it is unknown, revoked or expired.
    """
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    return _good_key(f"key:{digest}", lambda session: access.by_key_hash(session, digest))


def by_key_id(key_id: str) -> Principal:
    """Recognise an API key that was recognised before.

    Raises:
        NotAuthenticated: it was revoked or has expired since.
    """
    return _good_key(f"key-id:{key_id}", lambda session: access.by_key_id(session, key_id))


def _good_key(name: str, find: Callable[[Session], tuple[ApiKey, User] | None]) -> Principal:
    found = _memory().recall(name, lambda: _load_key(find))
    if found is None or (found.expires_at is not None and found.expires_at <= time.time()):
        raise NotAuthenticated("this API key is not known, or no longer good")
    return found


def _load_key(find: Callable[[Session], tuple[ApiKey, User] | None]) -> Principal | None:
    with parts().record.read() as session:
        held = find(session)
        if held is None:
            return None
        key, user = held
        granted = permissions_of(user.role)
        if key.scopes:
            granted = frozenset(scope for scope in key.scopes if allows(granted, scope))
        expires_at = key.expires_at.timestamp() if key.expires_at else None
        return Principal(user.username, user.role, granted, user.id, key_id=key.id, expires_at=expires_at)


def claims_of(token: str, kind: str) -> dict[str, Any]:
    """What a token of ours says, its signature, issuer, audience and time checked.

    Raises:
        NotAuthenticated: it is not one of ours, not of that kind, or no longer good.
    """
    try:
        decode_token(token)
        # Read once more, since flask-jwt-extended puts defaults where a claim is missing.
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (PyJWTError, JWTExtendedException, ValueError, KeyError, TypeError) as refused:
        raise NotAuthenticated("this token is not good, or no longer") from refused
    # A signed token without `exp` would otherwise live for ever (pitfalls 7.8).
    user_id = str(claims.get("sub"))
    if not claims.keys() >= _CLAIMS or claims["type"] != kind or not re.fullmatch("[0-9]{1,18}", user_id):
        raise NotAuthenticated("this token is not good, or no longer")
    return claims


def by_token(token: str) -> Principal:
    """Recognise an access token.

    Raises:
        NotAuthenticated: it is not good, or its session, user or role has changed since.
    """
    claims = claims_of(token, "access")
    return by_session(int(claims["sub"]), str(claims["sid"]), claims["ver"], float(claims["exp"]))


def by_session(user_id: int, session_id: str, version: Any, expires_at: float) -> Principal:
    """Recognise a login that was made before.

    Raises:
        NotAuthenticated: it has ended.
    """
    found = _memory().recall(
        f"session:{user_id}:{session_id}:{version}", lambda: _load_session(user_id, session_id, version)
    )
    if found is None or expires_at <= time.time():
        raise NotAuthenticated("this login has ended")
    return replace(found, expires_at=expires_at)


def _load_session(user_id: int, session_id: str, version: Any) -> Principal | None:
    with parts().record.read() as session:
        user = access.live_session(session, user_id, session_id)
        if user is None or user.token_version != version:
            return None
        granted = permissions_of(user.role)
        return Principal(user.username, user.role, granted, user.id, session_id=session_id, version=user.token_version)


class Memory:
    """Principals that were looked up in the last moments."""

    def __init__(self, remembered_s: float = REMEMBERED_S) -> None:
        self._remembered_s = remembered_s
        self._known: dict[str, tuple[float, Principal | None]] = {}
        self._lock = threading.Lock()

    def recall(self, name: str, load: Callable[[], Principal | None]) -> Principal | None:
        """The principal of that name, from memory while it is fresh."""
        now = time.monotonic()
        known = self._known.get(name)
        if known is not None and now - known[0] < self._remembered_s:
            return known[1]
        found = load()
        with self._lock:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            # An unknown key is not remembered: guesses must not fill the memory, a new key works at once.
            if found is not None:
                self._known[name] = (now, found)
            else:
                self._known.pop(name, None)
        return found

    def forget(self) -> None:
        """Look everybody up again."""
        with self._lock:
            self._known.clear()


def _memory() -> Memory:
    shared: Parts = parts()
    return shared.principals

"""The gateway as a Flask app: who is let in, by header or ticket, and what a socket is served by."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

import redis
import structlog
from flask import Flask, Response, current_app, g, json, request
from flask_sock import Sock
from sqlalchemy.exc import SQLAlchemyError

from api import auth, guards
from api.app import bare_app, make_parts
from api.auth import Principal
from api.errors import Forbidden, NotAuthenticated, Overloaded
from api.parts import parts
from api.v2.hub import Hub
from api.v2.line import CLOSE_FULL, CLOSE_NOT_LOGGED_IN, Farewell
from domain.errors import DatabaseBusy
from settings import Settings

_log = structlog.get_logger()
PATH = "/api/v2/ws"
PROTOCOL = "clos.v2"
PING_S = 25


class _DaemonThread(threading.Thread):
    """simple-websocket's reader; one that still waits for its client must not hold up the process's end."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(daemon=True, **kwargs)


def create_gateway(configured: Settings) -> Flask:
    """The gateway's app. Its threads start with `start`."""
    app = bare_app(configured, make_parts(configured))
    app.config["SOCK_SERVER_OPTIONS"] = {
        "subprotocols": [PROTOCOL],
        "ping_interval": PING_S,
        "thread_class": _DaemonThread,
    }
    app.extensions["clos_hub"] = Hub(app.extensions["clos"], configured.websocket.max_clients)
    app.before_request(_admit)
    app.after_request(guards.finish)
    app.add_url_rule("/health/live", "live", auth.public(_live))
    Sock(app).route(PATH)(_socket)
    # Whoever comes without a login is upgraded and then closed: a browser sees nothing else.
    auth.public(app.view_functions["_socket"])
    auth.refuse_unmarked(app)
    return app


def _live() -> Response:
    return Response(json.dumps({"status": "ok"}), mimetype="application/json")


def _admit() -> None:
    g.request_id = guards.request_id() or secrets.token_hex(8)
    guards.check_host()
    origin = request.headers.get("Origin")
    if origin is not None and not guards.allowed_origin(origin, parts().settings):
        raise Forbidden("this Origin may not do that", hint="add it to api.cors")
    if not request.environ.get("wsgi.multithread"):
        # gunicorn's sync worker is killed while it serves a socket, and writes HTTP into it (pitfalls 3.7).
        raise Overloaded("the gateway must run under gthread: python -m api.gateway")
    # Compression would cost every socket 300 KB, and every event a run for each client.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


def _socket(ws: Any) -> None:
    hub: Hub = current_app.extensions["clos_hub"]
    try:
        hub.serve(ws, _login())
    except Farewell as farewell:
        ws.close(farewell.code, farewell.text)
    except NotAuthenticated:
        ws.close(CLOSE_NOT_LOGGED_IN, "not logged in")
    except (SQLAlchemyError, DatabaseBusy) as away:
        _log.warning("record.not_read", error=type(away).__name__)
        ws.close(CLOSE_FULL, "the database does not answer")
    except (redis.RedisError, OSError) as away:
        _log.warning("ticket.not_read", error=str(away))
        ws.close(CLOSE_FULL, "tickets cannot be read while Redis is away")


def _login() -> Callable[[], Principal]:
    """How to recognise whoever opened this socket, now and again later.

    Raises:
        NotAuthenticated: nobody known.
    """
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    tickets = [each.removeprefix("ticket.") for each in offered if each.startswith("ticket.")]
    if not tickets:
        # Header and time of the upgrade are what the same request would be recognised by again.
        return auth.authenticate
    found = parts().tickets.take(tickets[0])
    if found is None:
        raise NotAuthenticated("this ticket is not known, or was used")
    if found.get("key_id"):
        return lambda: auth.by_key_id(str(found["key_id"]))
    return lambda: auth.by_session(
        int(found["user_id"]), str(found["session_id"]), found["version"], float(found["expires_at"])
    )

"""The API as a Flask app. It writes intent and reads the record; it never touches the machine."""

import importlib
import secrets
import threading
from datetime import timedelta
from typing import Any

from flask import Flask, Response, current_app, g, request
from flask_jwt_extended import JWTManager
from werkzeug.exceptions import NotFound

from api import auth, errors, guards, idempotency
from api.blueprints import ClosApi, ClosBlueprint
from api.bodies import MAX_BYTES
from api.courier import Courier
from api.feed import FeedReader
from api.limits import RateLimits
from api.parts import Parts, parts
from api.server import THREADS
from bus.broker import connect, make_broker
from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from bus.replies import Replies
from bus.tickets import Tickets
from models.record import Record
from settings import Settings, load_or_create_secret

# Each module has a `blp` (or `blps`), and one that is missing is a mistake.
BLUEPRINTS = (
    "api.v2.system",
    "api.v2.docs",
    "api.v2.access",
    "api.v2.users",
    "api.v2.operations",
    "api.v2.events",
    "api.v2.services",
    "api.v2.groups",
    "api.v2.clones",
    "api.v2.imports",
    "api.v2.ports",
    "api.v2.conflicts",
    "api.v2.logs",
    "api.v2.group_logs",
    "api.v2.orphans",
)


def make_parts(settings: Settings, record: Record | None = None, redis_url: str | None = None) -> Parts:
    """Everything that one process of the API shares. Connects to nothing yet."""
    url = redis_url or settings.redis_url()
    record = record or Record(settings.database.url, settings.database.timeout_s, settings.database.pool)
    sender = Sender(make_broker(url, timeout_s=1.0))
    outbox, feed = Outbox(sender), Feed(url)
    return Parts(
        settings=settings,
        record=record,
        sender=sender,
        outbox=outbox,
        feed=feed,
        replies=Replies(url),
        tickets=Tickets(url),
        redis=connect(url, timeout_s=0.5, connections=8),
        reader=FeedReader(record, feed),
        limits=RateLimits(),
        courier=Courier(outbox, feed),
        principals=auth.Memory(),
        wait_slots=threading.BoundedSemaphore(THREADS // 2),
        body_slots=threading.BoundedSemaphore(THREADS // 4),
    )


def configure_tokens(app: Flask, settings: Settings) -> None:
    """How tokens are signed and read, the same in every process of this home."""
    app.config.update(
        JWT_SECRET_KEY=load_or_create_secret(settings.home, "jwt"),
        JWT_ALGORITHM="HS256",
        JWT_TOKEN_LOCATION=["headers"],
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.security.access_ttl_s),
        JWT_REFRESH_TOKEN_EXPIRES=timedelta(seconds=settings.security.refresh_ttl_s),
        JWT_ENCODE_ISSUER="clos",
        JWT_DECODE_ISSUER="clos",
        JWT_ENCODE_AUDIENCE=settings.instance_id or "clos",
        JWT_DECODE_AUDIENCE=settings.instance_id or "clos",
    )
    JWTManager(app)


def bare_app(settings: Settings, shared: Parts) -> Flask:
    """An app with its parts, errors and tokens, and no route: what API and gateway have in common."""
    app = Flask("clos", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BYTES,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        PROPAGATE_EXCEPTIONS=False,
        API_TITLE="CLOS",
        API_VERSION=settings.version,
        OPENAPI_VERSION="3.1.0",
    )
    # A redirect would lose the body of a POST, and is no problem+json.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["clos"] = shared
    configure_tokens(app, settings)
    errors.register(app)
    return app


def create_app(settings: Settings, *, record: Record | None = None, redis_url: str | None = None) -> Flask:
    """The whole API.

    Raises:
        RuntimeError: a route says nothing of who may call it.
    """
    shared = make_parts(settings, record, redis_url)
    app = bare_app(settings, shared)

    def deliver(operation_id: str, type_: str) -> None:
        app.extensions["clos"].courier.operation(operation_id, type_)

    # What a transaction of a request lets go on, such as a cancel, is sent like what a request asks for.
    shared.record.deliver = deliver
    app.before_request(_admit)
    app.after_request(guards.finish)
    app.register_error_handler(idempotency.Replay, lambda replay: replay.response)
    api = ClosApi(app, spec_kwargs={"components": {"securitySchemes": _SECURITY}, "security": _EITHER})
    for name in BLUEPRINTS:
        module = importlib.import_module(name)
        for blueprint in getattr(module, "blps", None) or [module.blp]:
            (api if isinstance(blueprint, ClosBlueprint) else app).register_blueprint(blueprint)
    app.extensions["clos_api"] = api
    auth.refuse_unmarked(app)
    return app


_SECURITY: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_EITHER: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]


def _admit() -> Response | None:
    """Everything that stands between a request and its view."""
    g.request_id = guards.request_id() or secrets.token_hex(8)
    guards.check_host()
    guards.check_origin()
    if request.method == "OPTIONS" and (preflight := guards.preflight()) is not None:
        return preflight
    guards.check_text()
    if request.url_rule is None:
        # An unknown path, or the wrong method for it: nothing there to be hidden.
        raise request.routing_exception or NotFound()
    view = auth.view_of(current_app, request.url_rule.endpoint, request.method)
    auth.check(view)
    asked_by = g.get("principal")
    if asked_by is not None:
        parts().limits.count(f"all:{asked_by.name}", parts().settings.security.rate_limit)
    return idempotency.replayed(view)

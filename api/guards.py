"""What every request and answer goes through: host, origin, headers, compression, CORS (pitfalls 7.6, 7.7, 7.16)."""

import gzip
import re
from urllib.parse import urlsplit

from flask import Response, g, request

from api import bodies
from api.errors import Forbidden, WrongHost
from api.parts import parts
from domain.errors import ServiceNotFound, ValidationFailed
from settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_GZIP_FROM = 1024
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CSP = "default-src 'none'; frame-ancestors 'none'"


def request_id() -> str | None:
    """The id that the client gave the request, if it is fit to be echoed."""
    given = request.headers.get("X-Request-ID", "")
    return given if re.fullmatch(r"[A-Za-z0-9._:-]{1,100}", given) else None


def host_name(host: str) -> str:
    """A Host header without its port, in lower case."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?", host.strip().lower())
    return found[1] if found else ""


def known_hosts(settings: Settings) -> frozenset[str]:
    """The names under which this installation may be called."""
    own = {host_name(urlsplit(url).netloc) for url in (settings.api.public_url, settings.websocket.public_url) if url}
    own |= {settings.api.host.lower(), settings.websocket.host.lower()} - {"0.0.0.0", "::"}  # noqa: S104 - not bound
    return _LOOPBACK | (own - {""})


def check_host() -> None:
    """A page on the internet may point its own name at 127.0.0.1: such a Host is refused.

    Raises:
        WrongHost: it is not one of ours.
    """
    host = request.headers.get("Host", "")
    if host_name(host) not in known_hosts(parts().settings):
        raise WrongHost("this Host is not one of CLOS's", hint="use 127.0.0.1, or set api.public_url")


def allowed_origin(origin: str, settings: Settings) -> bool:
    """Whether a page from there may speak to us: from this very host, the dashboard, or one that was configured."""
    if origin in settings.api.cors:
        return True
    where = urlsplit(origin)
    if where.scheme not in ("http", "https") or not where.netloc:
        return False
    if origin == f"{urlsplit(settings.api.public_url).scheme}://{urlsplit(settings.api.public_url).netloc}":
        return True
    ports = {settings.api.port, settings.websocket.port, settings.dashboard.port}
    try:
        port = where.port or (443 if where.scheme == "https" else 80)
    except ValueError:
        return False
    return host_name(where.netloc) in _LOOPBACK and port in ports


def check_origin() -> None:
    """Refuse what a foreign page makes a browser send.

    Raises:
        Forbidden: an unsafe method from a foreign origin.
    """
    origin = request.headers.get("Origin")
    if origin is None or request.method in SAFE_METHODS:
        return
    if origin != f"{request.scheme}://{request.headers.get('Host', '')}" and not allowed_origin(
        origin, parts().settings
    ):
        raise Forbidden("this Origin may not do that", hint="add it to api.cors")


def check_text() -> None:
    """Refuse NUL, which no text of ours may hold and PostgreSQL cannot.

    Raises:
        ServiceNotFound, ValidationFailed: it stands in the path, or in the query.
    """
    if "\x00" in request.path:
        raise ServiceNotFound("?")
    for name, value in request.args.items(multi=True):
        if "\x00" in name or "\x00" in value:
            raise ValidationFailed({name.replace("\x00", "?"): ["Must not contain NUL."]})


def preflight() -> Response | None:
    """The answer to a browser that asks whether it may; None where no origin was configured."""
    origin = request.headers.get("Origin")
    if origin not in parts().settings.api.cors or "Access-Control-Request-Method" not in request.headers:
        return None
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, PUT, PATCH, DELETE"
    response.headers["Access-Control-Allow-Headers"] = (
        "Authorization, Content-Type, Idempotency-Key, If-Match, X-API-Key, X-Request-ID"
    )
    response.headers["Access-Control-Max-Age"] = "600"
    return response


def finish(response: Response) -> Response:
    """Put the last headers on an answer, and compress it where that pays."""
    bodies.leave_unread()
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", _CSP)
    if g.get("request_id"):
        response.headers["X-Request-ID"] = g.request_id
    origin = request.headers.get("Origin")
    if origin and origin in parts().settings.api.cors:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "ETag, Location, Retry-After, X-Request-ID"
        response.vary.add("Origin")
    return _compress(response)


def _compress(response: Response) -> Response:
    if (
        response.direct_passthrough
        or response.is_streamed
        or "Content-Encoding" in response.headers
        or not re.search(r"^text/|json$", response.mimetype or "")
        or len(response.get_data()) <= _GZIP_FROM
    ):
        return response
    response.vary.add("Accept-Encoding")
    if request.accept_encodings.quality("gzip") > 0 and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.set_data(gzip.compress(response.get_data(), compresslevel=1, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    return response

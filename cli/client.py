"""CLOS over HTTP. `http.client` rather than `requests`: 15 ms to import instead of 80 (performance.md, CLI)."""

import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cli.errors import ApiError, CliError, Unreachable

PREFIX = "/api/v2"
_MAX_ANSWER = 64 * 1024 * 1024
_MAX_PAGES = 1000
_PAGE = 200
CONNECT_S = 3.0
READ_S = 30.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where CLOS is, and what opens it. Never printed."""

    url: str
    websocket_url: str = ""
    api_key: str = ""

    def __repr__(self) -> str:
        return f"Credentials(url={self.url!r})"


def read_credentials(home: Path) -> Credentials | None:
    """What `clos up` wrote into this home; None if it never ran.

    Raises:
        CliError: the file is there and cannot be used.
    """
    file = home / "credentials.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Credentials(str(found["url"]), str(found.get("websocket_url") or ""), str(found.get("api_key") or ""))
    except FileNotFoundError:
        return None
    except PermissionError as refused:
        raise CliError(f"{file} may not be read", 5, hint="it belongs to the user who ran `clos up`") from refused
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        raise CliError(f"{file} is damaged: {broken}", 5, hint="`clos up` writes it anew") from broken


def elsewhere(url: str, own: Credentials | None) -> Credentials:
    """Credentials for a URL that was given: this home's key goes to this home's CLOS only."""
    base = url if "://" in url else f"http://{url}"
    base = base.rstrip("/").removesuffix(PREFIX)
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise CliError(f"{url!r} is no http or https address", 2)
    if own is not None and _origin(own.url) == _origin(base):
        return Credentials(base, own.websocket_url, os.environ.get("CLOS_API_KEY") or own.api_key)
    return Credentials(base, "", os.environ.get("CLOS_API_KEY", ""))


def _origin(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return host, parts.port


class Client:
    """One connection to the API, kept open. Not for several threads."""

    def __init__(self, credentials: Credentials, *, connect_s: float = CONNECT_S) -> None:
        self.credentials = credentials
        self._parts = urlsplit(credentials.url)
        self._connect_s = connect_s
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, *, timeout_s: float = READ_S, **query: Any) -> Any:
        """The answer's body.

        Raises:
            ApiError: CLOS refused.
            Unreachable: nothing that speaks HTTP answers there.
        """
        return self._call("GET", path, query=query, timeout_s=timeout_s)[1]

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's body. A lost answer is asked for again under the same Idempotency-Key."""
        return self._call("POST", path, body=dict(body or {}))[1]

    def patch(self, path: str, body: Mapping[str, Any], version: str | None = None) -> Any:
        """The answer's body. `version` is the ETag that was read."""
        return self._call("PATCH", path, body=dict(body), extra={"If-Match": version} if version else {})[1]

    def delete(self, path: str, **query: Any) -> Any:
        """The answer's body: None, or an operation."""
        return self._call("DELETE", path, query=query)[1]

    def versioned(self, path: str) -> tuple[Any, str | None]:
        """The answer's body and its ETag."""
        headers, body = self._call("GET", path)
        return body, headers.get("ETag")

    def answered(self, path: str, timeout_s: float, **query: Any) -> tuple[Any, float]:
        """The answer's body and after how many seconds to ask again (0: at once)."""
        headers, body = self._call("GET", path, query=query, timeout_s=timeout_s)
        try:
            return body, min(max(float(headers.get("Retry-After") or 0), 0.0), 30.0)
        except ValueError:
            return body, 1.0

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, over all of its pages."""
        cursor = None
        for _ in range(_MAX_PAGES):
            page = self.get(path, **query, limit=_PAGE, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return
        raise CliError(f"{path} has more than {_MAX_PAGES} pages")

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
        timeout_s: float = READ_S,
    ) -> tuple[http.client.HTTPMessage, Any]:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        target = f"{self._parts.path}{PREFIX}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Accept": "application/json, application/problem+json", "User-Agent": "clos-cli/2", **(extra or {})}
        if self.credentials.api_key:
            headers["X-API-Key"] = self.credentials.api_key
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if method == "POST":
            headers["Idempotency-Key"] = os.urandom(16).hex()
        # DELETE and PATCH may have been carried out although the answer was lost: asked once only.
        attempts = 2 if method in ("GET", "POST") else 1
        if attempts == 1:
            self.close()  # a connection that was kept open may just be closing
        for attempt in range(1, attempts + 1):
            try:
                return self._once(method, target, data, headers, timeout_s)
            except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as cut:
                self.close()
                if attempt == attempts:
                    raise Unreachable(f"CLOS at {self.credentials.url} broke off its answer: {cut!r}") from cut
                time.sleep(0.05)
            except OSError as gone:
                self.close()
                raise self.unreachable(gone) from gone
        raise AssertionError("unreachable")

    def unreachable(self, gone: OSError) -> Unreachable:
        """What to say of it."""
        url = self.credentials.url
        if isinstance(gone, ConnectionRefusedError):
            return Unreachable(f"nothing listens at {url}", hint="start CLOS with `clos up -d`", refused=True)
        if isinstance(gone, TimeoutError):
            return Unreachable(f"CLOS at {url} does not answer in time", hint="`clos doctor` looks for the reason")
        return Unreachable(f"CLOS at {url} cannot be reached: {gone}")

    def _once(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[http.client.HTTPMessage, Any]:
        connection = self.connect()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request(method, target, data, dict(headers))
        answer = connection.getresponse()
        raw = answer.read(_MAX_ANSWER + 1)
        if len(raw) > _MAX_ANSWER:
            self.close()
            raise Unreachable(f"the answer to {target} is larger than {_MAX_ANSWER >> 20} MiB")
        if answer.length:
            # A read with a limit does not say that the connection ended early.
            raise http.client.IncompleteRead(raw, answer.length)
        body = _decode(raw)
        if answer.status >= 400:
            problem = body if isinstance(body, dict) else {}
            if answer.status == 401:
                where = self.credentials.url
                problem.setdefault("hint", f"is it this home's CLOS that answers at {where}? see `clos doctor`")
            raise ApiError(answer.status, problem)
        if body is None and raw:
            raise Unreachable(f"what answers at {self.credentials.url} is not CLOS", hint="see `clos doctor`")
        return answer.msg, body

    def connect(self) -> http.client.HTTPConnection:
        """The connection, opened if it is not.

        Raises:
            OSError: that is not possible.
        """
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._parts.hostname or "127.0.0.1", self._parts.port, timeout=self._connect_s)
            self._connection.connect()
        return self._connection


def _decode(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def segment(text: str) -> str:
    """A name as one part of a path."""
    return quote(text, safe="")

"""A stand-in for Docker's engine, on a unix socket: `EngineState` behind the calls that the runtime makes."""

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.unit.engine_state import HANG_S, Container, Cut, EngineState, Refused, frame, inspection_of, summary_of


class EngineStandIn(EngineState):
    """The engine; `url` is where it listens."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.url = f"unix://{path}"
        self._server = _Server(str(path), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end every request under way."""
        self.closed.set()
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: no news."""


def _handler_of(engine: EngineState) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"engine": engine})


class _Handler(BaseHTTPRequestHandler):
    engine: EngineState
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(re.sub(r"^/v\d+\.\d+", "", parts.path))
        body = self._body()
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            self.engine.act_on(f"{self.command} {path}")
            self._route(path, json.loads(body) if body[:1] == b"{" else {})
        except Refused as refusal:
            self._json(refusal.status, {"message": refusal.message})
        except Cut:
            self.close_connection = True

    do_POST = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str, body: dict[str, Any]) -> None:
        kinds = {"containers": self._container, "networks": self._network, "images": self._image, "exec": self._exec}
        noun, _, rest = path.strip("/").partition("/")
        if noun in kinds:
            kinds[noun](rest, body)
        elif noun == "version":
            self._json(200, self.engine.version)
        elif noun == "info":
            self._json(200, {"ID": "STAND:IN", "Name": "stand-in", "ServerVersion": "20.10.24"})
        elif noun == "events":
            self._chunks(self._events())
        elif noun == "build":
            self.engine.build_parameters = self.query
            if not any("errorDetail" in line or "error" in line for line in self.engine.build):
                self.engine.images[self.query["t"]] = {"Cmd": ["idle"]}
            self._lines(self.engine.build)
        else:
            raise Refused(404, "page not found")

    def _container(self, rest: str, body: dict[str, Any]) -> None:
        engine = self.engine
        with engine.changed:
            if rest == "json":
                listed = [c for c in engine.containers.values() if self._asked_for(c.labels)]
                everything = self.query.get("all") in ("1", "true", "True")
                self._json(200, [summary_of(c) for c in listed if everything or c.runs])
                return
            if rest == "create":
                self._json(201, {"Id": engine.create(self.query["name"], body).id, "Warnings": []})
                return
            ref, _, verb = rest.rpartition("/") if "/" in rest else (rest, "", "")
            container = engine.find(ref)
            if verb == "json":
                self._json(200, inspection_of(container))
            elif verb in ("start", "stop"):
                self._json((engine.start if verb == "start" else engine.stop)(container))
            elif verb == "exec":
                self._json(201, {"Id": engine.new_exec(container, body["Cmd"])})
            elif verb == "stats":
                self._json(200, engine.counters.get(container.id, {}))
            elif not verb and self.command == "DELETE":
                self._json(engine.remove(container))
        if verb == "logs":
            self._chunks(self._log(container))

    def _events(self) -> Iterator[bytes]:
        """What `tell` says, until `end_events` or the end of the engine."""
        told = 0
        while True:
            with self.engine.changed:
                self.engine.changed.wait_for(
                    lambda told=told: len(self.engine.events) > told or self.engine.closed.is_set(), HANG_S
                )
                fresh = self.engine.events[told:]
            for event in fresh:
                if event is None:
                    return
                yield json.dumps(event).encode() + b"\n"
            told += len(fresh)
            if self.engine.closed.is_set():
                return

    def _network(self, rest: str, body: dict[str, Any]) -> None:
        engine = self.engine
        with engine.changed:
            ref, _, verb = rest.partition("/")
            if not rest:
                named = json.loads(self.query.get("filters", "{}")).get("name")
                listed = [n for n in engine.networks.values() if self._asked_for(n["Labels"])]
                self._json(200, [n for n in listed if not named or any(part in n["Name"] for part in named)])
            elif rest == "create":
                self._json(201, {"Id": engine.create_network(body)["Id"], "Warning": ""})
            elif verb == "connect":
                engine.find(body["Container"]).networks.append(engine.network(ref)["Id"])
                self._json(200)
            elif self.command == "DELETE":
                self._json(engine.remove_network(ref))
            else:
                self._json(200, engine.network(ref))

    def _image(self, rest: str, _body: dict[str, Any]) -> None:
        if rest != "create":
            self._json(200, self.engine.image(rest.removesuffix("/json")))
            return
        if not any("error" in line for line in self.engine.pull):
            self.engine.images[f"{self.query['fromImage']}:{self.query['tag']}"] = {"Cmd": ["idle"]}
        self._lines(self.engine.pull)

    def _exec(self, rest: str, _body: dict[str, Any]) -> None:
        ref, _, verb = rest.partition("/")
        code, output = self.engine.exec_result(ref)
        if verb == "json":
            self._json(200, {"Running": code is None, "ExitCode": code})
            return
        # The engine takes the connection over: no length, and nothing after it.
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(frame(1, output) if output else b"")
        self.wfile.flush()
        if code is None:
            self.engine.closed.wait(HANG_S)

    def _asked_for(self, labels: dict[str, str]) -> bool:
        wanted = json.loads(self.query.get("filters", "{}")).get("label", [])
        return all(labels.get(one.partition("=")[0]) == one.partition("=")[2] for one in wanted)

    def _log(self, container: Container) -> Iterator[bytes]:
        since = float(self.query.get("since", 0))
        seen = 0
        if (tail := self.query.get("tail", "all")) != "all":
            seen = max(len(container.log) - int(tail), 0)
        while True:
            with self.engine.changed:
                fresh = container.log[seen:]
                if not fresh:
                    if self.query.get("follow") != "1" or not container.runs or self.engine.closed.is_set():
                        return
                    self.engine.changed.wait(HANG_S)
                    continue
                seen += len(fresh)
            for stream, at, text in fresh:
                if at.timestamp() >= since:
                    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode() if text[:1] != b"\0" else b""
                    yield stamp + text if container.config.get("Tty") else frame(stream, stamp + text)

    def _json(self, status: int, content: Any = None) -> None:
        # What follows a 304 would be taken for the next answer.
        body = b"" if content is None or status in (204, 304) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _lines(self, messages: list[dict[str, Any]]) -> None:
        self._chunks(json.dumps(message).encode() + b"\r\n" for message in messages)

    def _chunks(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

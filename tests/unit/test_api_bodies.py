"""Bodies and connections over real sockets: gunicorn's worker with ours on top, in a thread of this process."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from werkzeug.test import EnvironBuilder, run_wsgi_app

from api import server
from api.bodies import MAX_BYTES
from api.deadlines import Deadlines
from api.server import ClosWorker, Server, address
from tests.unit.api_kit import Kit, kit
from tests.waiting import wait_until


class _Worker(ClosWorker):
    """Signals are the main thread's, which here is pytest's."""

    def init_signals(self) -> None:
        pass


class Serving:
    """The API behind a real worker."""

    def __init__(self, api: Kit) -> None:
        self.api = api
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.stopped: list[Any] = []
        options = {"threads": 8, "worker_connections": 100, "graceful_timeout": 2}
        self.server = Server(lambda: api.app, self.stopped.append, options, api.settings)
        log = self.server.cfg.logger_class(self.server.cfg)
        self.worker = _Worker(1, os.getppid(), [listener], self.server, 60, self.server.cfg, log)
        self._switch = sys.getswitchinterval()
        self._thread = threading.Thread(target=self.worker.init_process, daemon=True)
        self._thread.start()
        wait_until(lambda: self.worker.booted, 5)

    def terminate(self) -> None:
        self.worker.handle_exit(signal.SIGTERM, None)

    def join(self) -> bool:
        self._thread.join(5)
        sys.setswitchinterval(self._switch)
        return not self._thread.is_alive()

    def connect(self, head: str) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        made.sendall(head.replace("\n", "\r\n").encode())
        return made


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with kit(tmp_path_factory.mktemp("serving"), CLOS_API__READ_TIMEOUT="500ms") as api:
        made = Serving(api)
        yield made
        made.terminate()
        assert made.join()


def head(serving: Serving, rest: str) -> str:
    return (
        f"POST /api/v2/groups HTTP/1.1\nHost: 127.0.0.1\nX-API-Key: {serving.api.key}\n"
        f"Content-Type: application/json\n{rest}\n\n"
    )


def answer(sock: socket.socket) -> tuple[int, dict[str, str], Any]:
    """The next answer on a connection: its status, headers and body."""
    stream = sock.makefile("rb")
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    raw = stream.read(int(headers.get("content-length", "0")))
    return status, headers, json.loads(raw) if raw else None


def call(serving: Serving, method: str, path: str, **kwargs: Any) -> requests.Response:
    headers = {"X-API-Key": serving.api.key} | kwargs.pop("headers", {})
    return requests.request(method, f"{serving.url}/api/v2{path}", headers=headers, timeout=10, **kwargs)


def test_a_request_is_answered_over_a_real_socket(serving: Serving) -> None:
    name = serving.api.name()
    made = call(serving, "POST", "/groups", json={"name": name})
    assert (made.status_code, made.json()["name"]) == (201, name)
    assert call(serving, "GET", f"/groups/{name}").json() == made.json()
    assert sys.getswitchinterval() == pytest.approx(server.SWITCH_S)


def test_a_body_in_pieces_is_a_body(serving: Serving) -> None:
    name = serving.api.name()
    pieces = iter([b'{"name": ', f'"{name}"'.encode(), b"}"])
    made = call(serving, "POST", "/groups", data=pieces, headers={"Content-Type": "application/json"})
    assert made.status_code == 201, made.text


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_a_mebibyte_is_refused(serving: Serving, announced: bool) -> None:
    raw = b'{"name": "' + b"x" * MAX_BYTES + b'"}'
    data: Any = raw if announced else iter([raw[at : at + 65536] for at in range(0, len(raw), 65536)])
    refused = call(serving, "POST", "/groups", data=data, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Connection"] == "close"


def test_a_body_of_just_a_mebibyte_is_read(serving: Serving) -> None:
    raw = b'{"name": "' + b"x" * (MAX_BYTES - 12) + b'"}'
    assert len(raw) == MAX_BYTES
    refused = call(serving, "POST", "/groups", data=raw, headers={"Content-Type": "application/json"})
    assert (refused.status_code, list(refused.json()["errors"])) == (422, ["name"])


def test_a_body_that_does_not_arrive_in_time_is_408(serving: Serving) -> None:
    for start in (b"", b'{"name"'):
        with serving.connect(head(serving, "Content-Length: 20")) as slow:
            slow.sendall(start)
            began = time.monotonic()
            status, headers, body = answer(slow)
            assert (status, body["code"], headers["connection"]) == (408, "request_timeout", "close")
            assert 0.3 < time.monotonic() - began < 3


def test_a_body_that_comes_byte_by_byte_is_cut_too(serving: Serving) -> None:
    with serving.connect(head(serving, "Content-Length: 1000")) as slow:
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.05):
                try:
                    slow.sendall(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        status, _, body = answer(slow)
        ended.set()
        thread.join(5)
        assert (status, body["code"]) == (408, "request_timeout")


def test_clients_that_do_not_hang_up_when_told_to_hold_up_nobody(serving: Serving) -> None:
    plain = "POST /api/v2/groups HTTP/1.1\nHost: 127.0.0.1\nConnection: close\nContent-Length: 0\n\n"
    silent = [serving.connect(plain) for _ in range(4)]
    assert [answer(each)[0] for each in silent] == [401] * 4
    began = time.monotonic()
    assert call(serving, "GET", "/auth/me").status_code == 200
    assert time.monotonic() - began < 1.5
    for each in silent:
        each.close()


def test_a_body_whose_sender_is_gone_costs_nobody_a_thread(serving: Serving) -> None:
    with serving.connect(head(serving, "Content-Length: 20")) as gone:
        gone.sendall(b"{")
    assert call(serving, "GET", "/auth/me").status_code == 200
    wait_until(lambda: serving.api.shared.body_slots._value == serving.api.shared.body_slots._initial_value, 5)


def test_where_too_many_bodies_are_under_way_the_answer_is_503(serving: Serving) -> None:
    slots = serving.api.shared.body_slots
    taken = 0
    while slots.acquire(blocking=False):
        taken += 1
    try:
        refused = call(serving, "POST", "/groups", json={"name": "a"})
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert (refused.headers["Retry-After"], refused.headers["Connection"]) == ("1", "close")
        assert call(serving, "GET", "/auth/me").status_code == 200
    finally:
        slots.release(taken)


def test_who_is_not_let_in_is_answered_before_the_body_is_read(serving: Serving) -> None:
    plain = "POST /api/v2/groups HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 1000\n\n"
    with serving.connect(plain) as stranger:
        began = time.monotonic()
        status, _, body = answer(stranger)
        assert (status, body["code"]) == (401, "not_authenticated")
        assert time.monotonic() - began < 0.4


@pytest.mark.parametrize("raw", ["GET / HTTP/9.9\nno colon\n\n", "rubbish\n\n", "GET /" + "x" * 9000 + " HTTP/1.1\n\n"])
def test_what_is_not_even_http_is_answered_without_html(serving: Serving, raw: str) -> None:
    with serving.connect(raw) as client:
        status, headers, body = answer(client)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert (body["code"], body["type"]) == ("bad_request", "urn:clos:error:bad_request")


def test_a_mistake_of_the_servers_own_is_a_problem_too(serving: Serving) -> None:
    near, far = socket.socketpair()
    with near, far:
        serving.worker.handle_error(None, near, None, ZeroDivisionError("secret"))
        status, _, body = answer(far)
        assert (status, body["code"]) == (500, "internal_error")
        assert "secret" not in str(body)
    serving.worker.handle_error(None, near, None, ValueError())  # its client has gone


def test_a_head_that_does_not_end_is_cut(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_TIMEOUT_S", 0.3)
    with kit(tmp_path) as api:
        made = Serving(api)
        with made.connect("GET /health HTTP/1.1\nHost: 127.0.0.1\n") as slow:
            began = time.monotonic()
            assert slow.recv(10_000) == b"" or b"400" in slow.recv(10_000)
            assert time.monotonic() - began < 5
        made.terminate()
        assert made.join()


def test_at_the_end_those_who_are_connected_are_answered_and_the_rest_refused(tmp_path: Any) -> None:
    with kit(tmp_path) as api:
        made = Serving(api)
        kept, waiting = made.connect(""), made.connect("")
        request = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        kept.sendall(request)
        assert answer(kept)[0] == 200
        waiting.sendall(request)
        made.terminate()
        assert answer(waiting)[0] == 200
        # Neither client hangs up: the end does not wait for them.
        began = time.monotonic()
        assert made.join()
        assert time.monotonic() - began < 2
        kept.close(), waiting.close()
        wait_until(lambda: made.stopped == [api.app], 5)
        made.terminate()
        assert made.stopped == [api.app]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", made.port), timeout=2)


def test_a_socket_that_breaks_while_its_body_is_read_is_408(serving: Serving) -> None:
    class Broken:
        def read(self, _size: int) -> bytes:
            raise ConnectionResetError

    for length, status in (("20", 408), (str(2 * MAX_BYTES), 413)):
        headers = {"X-API-Key": serving.api.key, "Content-Type": "application/json", "Host": "localhost"}
        environ = EnvironBuilder("/api/v2/groups", method="POST", headers=headers).get_environ()
        environ |= {"wsgi.input": Broken(), "CONTENT_LENGTH": length}
        _, answered, sent = run_wsgi_app(serving.api.app, environ)
        assert (int(answered.split()[0]), sent["Content-Type"]) == (status, "application/problem+json")


def test_what_never_began_has_nothing_to_stop(serving: Serving) -> None:
    stopped: list[Any] = []
    Server(lambda: serving.api.app, stopped.append, {}, serving.api.settings).stopping()
    assert stopped == []


def test_certificates_are_handed_on(tmp_path: Any) -> None:
    with kit(tmp_path, CLOS_SECURITY__TLS__CERT="/c.pem", CLOS_SECURITY__TLS__KEY="/k.pem") as api:
        made = Server(lambda: api.app, print, {"proc_name": "x"}, api.settings)
        assert (made.cfg.certfile, made.cfg.keyfile, made.cfg.proc_name) == ("/c.pem", "/k.pem", "x")


def test_an_address_of_ipv6_is_bracketed() -> None:
    assert (address("::1", 8081), address("127.0.0.1", 8081)) == ("[::1]:8081", "127.0.0.1:8081")


def test_deadlines_cut_the_due_ones_in_any_order_and_spare_the_others() -> None:
    deadlines = Deadlines()
    pairs = [socket.socketpair() for _ in range(4)]
    late = deadlines.begin(pairs[0][0], 60)
    deadlines.begin(pairs[1][0], 0.05)
    spared = deadlines.begin(pairs[2][0], 0.05)
    deadlines.end(spared)
    pairs[3][0].close()
    deadlines.begin(pairs[3][0], 0.01)  # is closed already: that is no mistake
    pairs[1][0].settimeout(5)
    assert pairs[1][0].recv(1) == b""
    pairs[2][0].setblocking(False)
    with pytest.raises(BlockingIOError):
        pairs[2][0].recv(1)
    deadlines.end(late)
    deadlines.end(late)
    for pair in pairs:
        for each in pair:
            each.close()

"""The gateway in this process: real sockets and real frames, no Redis."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import websocket
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from api import gateway
from api.gateway_app import create_gateway
from api.v2 import hub, stream
from api.v2 import line as wire
from api.v2.hub import Hub
from api.v2.line import Farewell, Unread
from api.v2.stream import Client
from domain.events import EventType
from models import events
from tests.unit.api_kit import PORT, Kit, kit
from tests.waiting import wait_until


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


class Gateway:
    """A gateway on a port of its own, with the parts of an API."""

    def __init__(self, api: Kit, max_clients: int = 40) -> None:
        self.api = api
        self.app = create_gateway(api.settings)
        self.app.extensions["clos"] = api.shared
        self.hub = self.app.extensions["clos_hub"] = Hub(api.shared, max_clients)
        self.hub.start()
        self.server: BaseWSGIServer = make_server("127.0.0.1", 0, self.app, threaded=True, request_handler=_Silent)
        self.server.daemon_threads = True  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"ws://127.0.0.1:{self.server.server_port}/api/v2/ws"

    def tell(self, count: int = 1, group: str = "told", wake: bool = True, **data: Any) -> list[int]:
        with self.api.record.write() as session:
            ids = [
                events.append(session, EventType.OPERATION_PROGRESS, {"n": n, **data}, group_name=group)
                for n in range(count)
            ]
        if wake:
            self.api.feed.wake()
        return ids

    def close(self) -> None:
        self.hub.close()
        wait_until(lambda: not self.hub.clients(), 5)
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)


class Socket:
    """A client of the gateway."""

    def __init__(self, gate: Gateway, **options: Any) -> None:
        options = {"timeout": 10, "suppress_origin": True, "header": {"X-API-Key": gate.api.key}} | options
        self.ws = websocket.create_connection(gate.url, **options)

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def read(self) -> Any:
        code, data = self.ws.recv_data()
        assert code == websocket.ABNF.OPCODE_TEXT, (code, data)
        return json.loads(data)

    def subscribe(self, **wanted: Any) -> Any:
        self.send(action="subscribe", **wanted)
        answer = self.read()
        return self.read() if answer["type"] == "hello" else answer

    def close_code(self) -> int:
        for _ in range(5000):
            code, data = self.ws.recv_data(control_frame=True)
            if code == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")
        raise AssertionError("the gateway did not close")

    def close(self) -> None:
        self.ws.close(timeout=1)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with kit(tmp_path_factory.mktemp("gate")) as api:
        made = Gateway(api)
        yield made
        made.close()


@pytest.fixture
def client(gate: Gateway) -> Iterator[Socket]:
    made = Socket(gate)
    yield made
    made.close()


def test_the_first_message_says_where_the_log_stands(gate: Gateway, client: Socket) -> None:
    (last,) = gate.tell()
    hello = client.read()
    assert hello.keys() == {"type", "last_id"}
    assert hello["type"] == "hello"
    assert 0 <= hello["last_id"] <= last


def test_an_event_comes_live_and_whole_to_those_who_asked_for_it(gate: Gateway, client: Socket) -> None:
    other = Socket(gate)
    answer = client.subscribe(events=["operation.*"], group="live")
    assert answer.keys() == {"type", "id", "last_id"}
    assert (answer["type"], answer["id"]) == ("subscribed", 1)
    other.subscribe(events=["service.*"])
    (event_id,) = gate.tell(group="live")
    event = client.read()
    assert event.keys() == {
        "id", "type", "severity", "actor", "service_id", "group_name", "operation_id", "data", "timestamp",
    }  # fmt: skip
    assert (event["id"], event["type"], event["group_name"]) == (event_id, "operation.progress", "live")
    gate.tell(group="elsewhere")
    client.send(action="ping"), other.send(action="ping")
    assert client.read() == other.read() == {"type": "pong"}
    other.close()


def test_after_replays_what_was_missed_once_in_order_while_more_comes(gate: Gateway, client: Socket) -> None:
    before = gate.tell(group="replay")[0]
    missed = gate.tell(700, group="replay")
    writer = threading.Thread(target=lambda: [missed.extend(gate.tell(5, group="replay")) for _ in range(20)])
    writer.start()
    client.subscribe(events=["operation.progress"], group="replay", after=before)
    writer.join(30)
    assert [client.read()["id"] for _ in range(len(missed))] == missed


def test_an_event_that_two_subscriptions_want_comes_once(gate: Gateway, client: Socket) -> None:
    before = gate.tell(group="twice")[0]
    client.subscribe(events=["operation.*"], group="twice", after=before)
    first = gate.tell(group="twice")[0]
    assert client.read()["id"] == first
    assert client.subscribe(events=["*"], group="twice", after=before)["id"] == 2
    second = gate.tell(group="twice")[0]
    assert client.read()["id"] == second
    client.send(action="unsubscribe", id=2)
    assert client.read() == {"type": "unsubscribed", "id": 2}
    third = gate.tell(group="twice")[0]
    assert client.read()["id"] == third


def test_where_the_gap_is_not_kept_the_client_is_told_to_read_again(tmp_path: Any) -> None:
    with kit(tmp_path) as api:
        gate = Gateway(api)
        gate.tell(3)
        with api.record.write() as session:
            session.execute(delete(events.Event))
        last = gate.tell()[0]
        for after, gap in ((1, True), (last + 10_000, True), (last - 1, False), (last, False)):
            client = Socket(gate)
            client.subscribe(events=["*"], after=after, group="none")
            client.send(action="ping")
            assert client.read() == ({"type": "resync"} if gap else {"type": "pong"}), after
            client.close()
        gate.close()


WRONG = {
    "{": "malformed_json",
    "[]": "malformed_json",
    '{"action": "ping", "action": "ping"}': "malformed_json",
    '{"action": "dance"}': "validation_failed",
    "{}": "validation_failed",
    '{"action": "ping", "x": 1}': "validation_failed",
    '{"action": "subscribe", "events": "operation.*"}': "validation_failed",
    '{"action": "subscribe", "events": []}': "validation_failed",
    '{"action": "subscribe", "events": ["nothing.like_it"]}': "validation_failed",
    '{"action": "subscribe", "after": -1}': "validation_failed",
    '{"action": "subscribe", "after": 9223372036854775808}': "validation_failed",
    '{"action": "subscribe", "group": "\\u0000"}': "validation_failed",
    '{"action": "subscribe", "events": ["log.line"]}': "validation_failed",
    '{"action": "unsubscribe"}': "validation_failed",
    '{"action": "unsubscribe", "id": 99}': "subscription_not_found",
}


def test_wrong_messages_get_an_error_and_the_socket_stays(client: Socket) -> None:
    client.read()
    for message, code in WRONG.items():
        client.ws.send(message)
        answer = client.read()
        assert answer.keys() == {"type", "code", "detail"}
        assert (answer["type"], answer["code"]) == ("error", code), message
        assert answer["detail"]
    client.ws.send_binary(b"\xff\xfe")
    assert client.read()["code"] == "malformed_json"
    client.send(action="ping")
    assert client.read() == {"type": "pong"}


def test_a_ticket_is_good_once(gate: Gateway) -> None:
    for how in ("key", "login"):
        user = gate.api.user("viewer", "12345678")
        if how == "key":
            ticket = gate.api.post("/auth/ws-ticket", status=200, key=user["key"])["ticket"]
        else:
            body = {"username": user["username"], "password": "12345678"}
            token = gate.api.bare("POST", "/api/v2/auth/login", json=body).json["access_token"]
            bearer = {"Authorization": f"Bearer {token}"}
            ticket = gate.api.bare("POST", "/api/v2/auth/ws-ticket", headers=bearer).json["ticket"]
        protocols = ["clos.v2", f"ticket.{ticket}"]
        first = Socket(gate, header={}, subprotocols=protocols)
        assert first.ws.subprotocol == "clos.v2"
        assert first.read()["type"] == "hello"
        assert Socket(gate, header={}, subprotocols=protocols).close_code() == 4401
        first.close()


def test_who_is_not_logged_in_is_upgraded_and_closed_with_4401(gate: Gateway) -> None:
    for header in ({}, {"X-API-Key": "clos_x_y"}, {"Authorization": "Bearer x"}):
        assert Socket(gate, header=header).close_code() == 4401


def test_who_may_not_read_events_is_closed_with_4403(gate: Gateway) -> None:
    blind = gate.api.user("viewer", scopes=["services:read"])
    assert Socket(gate, header={"X-API-Key": blind["key"]}).close_code() == 4403


def test_tickets_that_cannot_be_read_close_with_1013(gate: Gateway) -> None:
    gate.api.tickets.away = redis.ConnectionError("refused")
    try:
        assert Socket(gate, header={}, subprotocols=["clos.v2", "ticket.x"]).close_code() == 1013
    finally:
        gate.api.tickets.away = None


@pytest.mark.parametrize(
    ("options", "status"),
    [({"origin": "http://evil.example", "suppress_origin": False}, 403),
     ({"origin": "null", "suppress_origin": False}, 403), ({"host": "evil.example"}, 400)],
)  # fmt: skip
def test_a_foreign_origin_or_host_is_refused_before_the_upgrade(
    gate: Gateway, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Socket(gate, **options)
    assert refused.value.status_code == status
    body = json.loads(refused.value.resp_body)
    assert body["code"] in ("forbidden", "wrong_host")
    assert body["request_id"]
    own = Socket(gate, origin=f"http://localhost:{PORT}", suppress_origin=False)
    assert own.read()["type"] == "hello"
    own.close()


def test_without_threads_and_without_an_upgrade_there_is_no_socket(gate: Gateway) -> None:
    client = gate.app.test_client()
    assert client.get("/health/live", environ_overrides={"wsgi.multithread": True}).json == {"status": "ok"}
    refused = client.get("/api/v2/ws", environ_overrides={"wsgi.multithread": False})
    assert (refused.status_code, (refused.json or {})["code"]) == (503, "overloaded")
    assert client.get("/nowhere", environ_overrides={"wsgi.multithread": True}).status_code == 404


def test_rights_are_asked_for_each_event(gate: Gateway) -> None:
    narrow = gate.api.user("viewer", scopes=["events:read", "services:read"])
    client = Socket(gate, header={"X-API-Key": narrow["key"]})
    assert client.subscribe(events=["operation.*"])["code"] == "forbidden"
    (before,) = gate.tell(group="rights")
    assert client.subscribe(events=["*"], group="rights", after=before - 1)["type"] == "subscribed"
    gate.tell(group="rights")
    with gate.api.record.write() as session:
        seen = events.append(session, EventType.SERVICE_STATUS_CHANGED, {}, group_name="rights")
    gate.api.feed.wake()
    assert client.read()["id"] == seen
    client.close()


def test_a_login_that_ends_closes_its_sockets_with_4401(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RECHECK_S", 0.0)
    monkeypatch.setattr(stream, "_LOOK_S", 0.05)
    user = gate.api.user("viewer")
    client = Socket(gate, header={"X-API-Key": user["key"]})
    assert client.read()["type"] == "hello"
    assert gate.api.call("PATCH", f"/users/{user['id']}", {"disabled": True}).status_code == 200
    assert client.close_code() == 4401


def test_metrics_come_without_an_id_and_only_live(gate: Gateway, client: Socket) -> None:
    client.subscribe(events=["service.metrics_updated"])
    event = {
        "id": None, "type": "service.metrics_updated", "severity": "info", "actor": None, "service_id": "x",
        "group_name": None, "operation_id": None, "data": {"cpu_usage": 1}, "timestamp": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip
    gate.api.feed.publish(event)
    assert client.read() == event


def test_a_subscription_to_logs_has_a_worker_follow_them(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FOLLOW_EVERY_S", 0.0)
    client = Socket(gate)
    gate.api.sent("logs")
    client.subscribe(events=["log.line"], service="s-1")
    told = wait_until(lambda: gate.api.sent("logs"), 5)
    assert [list(each.args) for each in told] == [["s-1"]]
    event = {"id": None, "type": "log.line", "service_id": "s-1", "group_name": None, "operation_id": None, "data": {}}
    gate.api.feed.publish(event)
    assert client.read() == event
    gate.api.feed.away = redis.ConnectionError("refused")
    client.send(action="ping")
    assert client.read() == {"type": "pong"}
    gate.api.feed.away = None
    client.close()
    narrow = gate.api.user("viewer")
    blind = Socket(gate, header={"X-API-Key": narrow["key"]})
    assert blind.subscribe(events=["log.line"], service="s-2")["code"] == "forbidden"
    assert "s-2" not in gate.api.feed.followed
    blind.close()


def test_a_subscription_to_a_groups_logs_follows_all_of_it(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FOLLOW_EVERY_S", 0.0)
    name = gate.api.group("a", "b")
    client = Socket(gate)
    gate.api.sent("logs")
    client.subscribe(events=["log.line"], group=name)
    followed: set[str] = set()

    def all_are() -> bool:
        followed.update(str(each.args[0]) for each in gate.api.sent("logs"))
        return followed == {f"{name}-a", f"{name}-b"}

    wait_until(all_are, 5)
    event = {"id": None, "type": "log.line", "service_id": f"{name}-b", "group_name": name, "operation_id": None,
             "data": {}}  # fmt: skip
    gate.api.feed.publish({**event, "group_name": "other"})
    gate.api.feed.publish(event)
    assert client.read() == event
    client.close()


def test_a_message_over_64_kib_closes_with_1009(gate: Gateway) -> None:
    for text in ("y" * 70_000, "y" * 300_000):
        client = Socket(gate)
        client.read()
        client.ws.send(json.dumps({"action": "ping", "x": text}))
        assert client.close_code() == 1009


def test_too_many_messages_close_with_4429(gate: Gateway) -> None:
    client = Socket(gate)
    for _ in range(200):
        try:
            client.send(action="ping")
        except (OSError, websocket.WebSocketException):
            break
    assert client.close_code() == 4429


def test_a_client_has_at_most_fifty_subscriptions(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_SUBSCRIPTIONS", 3)
    client = Socket(gate)
    assert [client.subscribe(events=["*"], group="x")["type"] for _ in range(3)] == ["subscribed"] * 3
    assert client.subscribe(events=["*"])["code"] == "too_many_subscriptions"
    client.close()


def test_a_client_that_does_not_read_is_given_up_and_slows_nobody(
    gate: Gateway, client: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "STUCK_AFTER_S", 0.2)
    monkeypatch.setattr(hub, "STUCK_AFTER_S", 0.2)
    slow = Socket(gate, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    slow.subscribe(events=["operation.*"], group="slow")
    client.subscribe(events=["operation.*"], group="quick")
    for _ in range(40):
        gate.tell(50, group="slow", filler="x" * 4000)
    (event_id,) = gate.tell(group="quick")
    assert client.read()["id"] == event_id
    assert slow.close_code() == 4429


def test_a_full_gateway_says_so_with_1013_and_a_stopping_one_closes_with_1012(tmp_path: Any) -> None:
    with kit(tmp_path) as api:
        gate = Gateway(api, max_clients=2)
        clients = [Socket(gate) for _ in range(2)]
        assert [each.read()["type"] for each in clients] == ["hello", "hello"]
        assert Socket(gate).close_code() == 1013
        clients.pop().close()
        wait_until(lambda: len(gate.hub.clients()) == 1, 5)
        clients.append(Socket(gate))
        assert clients[-1].read()["type"] == "hello"
        gateway._stop(gate.app)
        assert {each.close_code() for each in clients} == {1012}
        assert Socket(gate).close_code() == 1012
        gate.close()


class Line:
    """What `Client` uses of simple-websocket's socket, on a real pair of sockets."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        self.connected = True
        self.input_buffer: list[Any] = []
        self.incoming_message: Any = None
        self.incoming_message_len = 0
        self.event = threading.Event()
        self.thread = threading.Thread(target=lambda: None)
        self.sent: list[Any] = []
        self.closed: list[int] = []

    def _handle_events(self) -> bool:
        return True

    def send(self, frame: str) -> None:
        self.sent.append(json.loads(frame))

    def close(self, code: int, _text: str) -> None:
        self.closed.append(code)
        self.connected = False


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    made.thread.start()
    yield made
    made.sock.close(), made.far.close()


def wanting(gate: Gateway, line: Line, **wanted: Any) -> Client:
    from api.auth import Principal

    client = Client(line, gate.api.shared, lambda: Principal("a", "admin", frozenset({"*"}), 1))
    message = {"action": "subscribe", "events": ["*"], "group": None, "service": None, "operation": None, "after": None}
    client._answer(message | wanted, gate.api.shared.reader)
    return client


def kept(number: int, type_: str = "operation.progress") -> dict[str, Any]:
    event_id = number if type_ == "operation.progress" else None
    return {"id": event_id, "type": type_, "group_name": None, "service_id": None, "operation_id": None}


def test_metrics_are_dropped_before_anything_that_is_kept(gate: Gateway, line: Line) -> None:
    client = wanting(gate, line)
    for number in range(stream.MAX_QUEUED_METRICS + 50):
        client.offer(kept(number, "service.metrics_updated"), "{}")
    assert len(client._queue) == stream.MAX_QUEUED_METRICS
    for number in range(10**9, 10**9 + stream.MAX_QUEUED):
        client.offer(kept(number), "{}")
    assert (len(client._queue), client._overflown) == (stream.MAX_QUEUED, False)
    client.offer(kept(2 * 10**9), "{}")
    with pytest.raises(Farewell) as caught:
        client._check()
    assert caught.value.code == 4429


def test_what_a_client_floods_in_is_bounded(gate: Gateway, line: Line) -> None:
    client = wanting(gate, line)
    unread = client.line.unread
    for _ in range(200):
        unread.append("{}")
    assert (len(unread), unread.overflown) == (64, True)
    with pytest.raises(Farewell) as caught:
        client._check()
    assert caught.value.code == 4429
    large = Unread()
    large.append("x" * (64 * 1024 + 1))
    assert (len(large), large.too_large) == (0, True)
    line.incoming_message_len = 10**6
    assert line._handle_events()
    assert (unread.too_large, line.incoming_message_len) == (True, 0)


def test_a_database_that_is_away_ends_a_socket_only_after_a_while(
    gate: Gateway, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = wanting(gate, line)

    def away() -> Any:
        raise OperationalError("x", {}, Exception("gone"))

    client._renew = away
    monkeypatch.setattr(stream, "RECHECK_S", -1.0)
    client._check()
    monkeypatch.setattr(stream, "UNCHECKED_LIMIT_S", -1.0)
    with pytest.raises(Farewell) as caught:
        client._check()
    assert caught.value.code == 1013


def test_a_line_that_is_full_is_left_without_waiting(
    gate: Gateway, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "STUCK_AFTER_S", 0.05)
    client = wanting(gate, line)
    line.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            line.sock.send(b"x" * 65536)
    with pytest.raises(Farewell) as caught:
        client._send({})
    assert caught.value.code == 4429
    began = time.monotonic()
    client.line.leave(4429, "too slow")
    client.line.hang_up()
    assert line.closed == []
    assert time.monotonic() - began < 1
    line.connected = False
    with pytest.raises(OSError, match="gone"):
        client._send({})


def test_a_closed_line_has_no_room(line: Line) -> None:
    line.sock.close()
    with pytest.raises(OSError, match="gone"):
        wire.has_room(line.sock, 0)


def test_a_handler_that_is_stuck_in_a_send_is_cut(gate: Gateway, line: Line) -> None:
    client = wanting(gate, line)
    client.line.sending_since = time.monotonic() - wire.STUCK_AFTER_S - 1
    with gate.hub._lock:
        gate.hub._clients.add(client)
    try:
        line.far.settimeout(5)
        assert line.far.recv(10) == b""
    finally:
        with gate.hub._lock:
            gate.hub._clients.discard(client)


def test_wrong_settings_end_the_gateway_with_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    monkeypatch.setenv("CLOS_HOME", str(tmp_path))
    monkeypatch.setenv("CLOS_WS_PORT", "many")
    assert gateway.main() == 2
    assert "CLOS_WS_PORT" in capsys.readouterr().err
    monkeypatch.delenv("CLOS_WS_PORT")
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert gateway.main() == 2
    assert "clos up" in capsys.readouterr().err


def test_the_gateways_threads_begin_with_it_and_end_with_it(tmp_path: Any) -> None:
    with kit(tmp_path, redis=False) as api:
        app = gateway._make(api.settings)
        reader = app.extensions["clos"].reader
        assert reader._thread.is_alive()
        gateway._stop(app)
        assert reader.closed
        wait_until(lambda: not reader._thread.is_alive(), 5)
        app.extensions["clos"].record.close()


def test_the_log_is_read_only_while_there_are_sockets(tmp_path: Any) -> None:
    with kit(tmp_path) as api:
        gate = Gateway(api)
        assert not api.shared.reader._listeners
        one, other = Socket(gate), Socket(gate)
        assert one.read()["type"] == other.read()["type"] == "hello"
        assert len(api.shared.reader._listeners) == 1
        one.close()
        wait_until(lambda: len(gate.hub.clients()) == 1, 5)
        assert len(api.shared.reader._listeners) == 1
        other.subscribe(events=["operation.*"])
        assert gate.tell() == [other.read()["id"]]
        other.close()
        wait_until(lambda: not api.shared.reader._listeners, 5)
        gate.close()


def test_what_comes_while_the_past_is_told_comes_after_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit(tmp_path) as api:
        gate = Gateway(api)
        client = Socket(gate)
        assert client.read()["type"] == "hello"
        before, *past = gate.tell(6)
        real, reader = api.shared.reader.paused, api.shared.reader
        live: list[int] = []

        @contextlib.contextmanager
        def paused() -> Iterator[int]:
            with real() as position:
                yield position
            # The reader hands this out before the subscriber has said anything.
            live.extend(gate.tell())
            wait_until(lambda: reader.position == live[-1])

        monkeypatch.setattr(reader, "paused", paused)
        wait_until(lambda: reader.position == past[-1])
        assert client.subscribe(events=["operation.*"], group="told", after=before)["last_id"] == past[-1]
        assert [client.read()["id"] for _ in range(6)] == past + live
        client.close()
        gate.close()


def test_a_first_socket_that_met_a_busy_database_is_told_so_and_forgotten(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kit(tmp_path) as api:
        gate = Gateway(api)
        real = api.shared.reader.listen
        busy = [OperationalError("x", {}, Exception("database is locked"))]
        monkeypatch.setattr(api.shared.reader, "listen", lambda heard: _raise(busy.pop()) if busy else real(heard))
        assert Socket(gate).close_code() == 1013
        wait_until(lambda: not gate.hub.clients(), 5)
        second = Socket(gate)
        assert second.read()["type"] == "hello"
        second.close()
        wait_until(lambda: not api.shared.reader._listeners, 5)
        gate.close()


def _raise(refusal: Exception) -> Any:
    raise refusal

"""The WebSocket gateway as its clients meet it: a process of its own, over real sockets."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websocket

from domain.events import EventType
from models import events
from tests.integration.api_fixture import DATABASES, Api, api_on, running_api
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=DATABASES)
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    with api_on(request.param) as running:
        running.start_gateway()
        yield running


class Socket:
    """A client of the gateway."""

    def __init__(self, api: Api, **options: Any) -> None:
        options = {"timeout": 10, "suppress_origin": True, "header": {"X-API-Key": api.key}} | options
        self.ws = websocket.create_connection(api.websocket_url, **options)

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def read(self) -> dict[str, Any]:
        code, data = self.ws.recv_data()
        assert code == websocket.ABNF.OPCODE_TEXT, (code, data)
        found: dict[str, Any] = json.loads(data)
        return found

    def subscribe(self, **wanted: Any) -> dict[str, Any]:
        self.send(action="subscribe", **wanted)
        answer = self.read()
        while answer["type"] == "hello":
            answer = self.read()
        return answer

    def close_code(self, timeout_s: float = 10.0) -> int:
        """The code with which the gateway closes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            code, data = self.ws.recv_data(control_frame=True)
            if code == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")
        raise AssertionError("the gateway did not close")

    def close(self) -> None:
        self.ws.close(timeout=1)


def tell(api: Api, count: int = 1, group: str = "told", wake: bool = True, **data: Any) -> list[int]:
    """Write events into the log as a worker does."""
    with api.rig.record.write() as session:
        ids = [
            events.append(session, EventType.OPERATION_PROGRESS, {"n": n, **data}, group_name=group)
            for n in range(count)
        ]
    if wake:
        api.rig.feed.wake()
    return ids


def test_an_event_comes_live_to_those_who_asked_for_it(api: Api) -> None:
    mine, other = Socket(api), Socket(api)
    assert mine.read()["type"] == "hello"
    assert mine.subscribe(events=["operation.*"], group="live")["type"] == "subscribed"
    assert other.subscribe(events=["service.*"])["type"] == "subscribed"
    (event_id,) = tell(api, group="live")
    event = mine.read()
    assert set(event) == {
        "id", "type", "severity", "actor", "service_id", "group_name", "operation_id", "data", "timestamp",
    }  # fmt: skip
    assert (event["id"], event["type"], event["group_name"]) == (event_id, "operation.progress", "live")
    tell(api, group="elsewhere")
    mine.send(action="ping"), other.send(action="ping")
    assert mine.read() == other.read() == {"type": "pong"}
    mine.close(), other.close()


def test_after_replays_what_was_missed_once_and_in_order_while_more_comes(api: Api) -> None:
    before = tell(api, group="replay")[0]
    missed = tell(api, 700, group="replay")
    client = Socket(api)
    client.read()
    writer = threading.Thread(target=lambda: [missed.extend(tell(api, 5, group="replay")) for _ in range(40)])
    writer.start()
    assert client.subscribe(events=["operation.progress"], group="replay", after=before)["type"] == "subscribed"
    writer.join(30)
    assert [client.read()["id"] for _ in range(len(missed))] == missed
    client.close()


def test_a_client_that_is_cut_fifty_times_has_exactly_the_log(api: Api) -> None:
    last = tell(api, group="cut")[0]
    written: list[int] = []
    writer = threading.Thread(target=lambda: [written.extend(tell(api, 3, group="cut")) for _ in range(150)])
    writer.start()
    seen: list[int] = []
    for _ in range(50):
        client = Socket(api)
        client.subscribe(events=["operation.*"], group="cut", after=last)
        seen.append(client.read()["id"])
        last = seen[-1]
        client.ws.sock.close()
    writer.join(30)
    client = Socket(api)
    client.subscribe(events=["operation.*"], group="cut", after=last)
    while len(seen) < len(written):
        seen.append(client.read()["id"])
    assert seen == written
    client.close()


def test_an_event_that_two_subscriptions_want_comes_once(api: Api) -> None:
    before = tell(api, group="twice")[0]
    client = Socket(api)
    client.subscribe(events=["operation.*"], group="twice", after=before)
    first = tell(api, group="twice")[0]
    assert client.read()["id"] == first
    assert client.subscribe(events=["*"], group="twice", after=before)["id"] == 2
    second = tell(api, group="twice")[0]
    assert client.read()["id"] == second
    client.send(action="unsubscribe", id=2)
    assert client.read() == {"type": "unsubscribed", "id": 2}
    third = tell(api, group="twice")[0]
    assert client.read()["id"] == third
    client.close()


def test_where_the_gap_is_not_kept_the_client_is_told_to_read_again(api: Api) -> None:
    from sqlalchemy import delete

    tell(api, 3, group="gap")
    with api.rig.record.write() as session:
        session.execute(delete(events.Event))
    last = tell(api, group="gap")[0]
    for after in (1, last + 10_000):
        client = Socket(api)
        client.subscribe(events=["*"], after=after, group="none")
        assert client.read() == {"type": "resync"}
        client.close()


def test_an_id_that_the_gateway_has_not_read_yet_is_no_gap(api: Api) -> None:
    client = Socket(api)
    client.read()
    (last,) = tell(api, group="ahead", wake=False)
    client.subscribe(events=["*"], group="ahead", after=last)
    (following,) = tell(api, group="ahead")
    assert client.read()["id"] == following
    client.close()


def test_wrong_messages_get_an_error_and_the_socket_stays(api: Api) -> None:
    client = Socket(api)
    client.read()
    wrong = {
        "{": "malformed_json",
        "[]": "malformed_json",
        '{"action": "ping", "action": "ping"}': "malformed_json",
        '{"action": "dance"}': "validation_failed",
        '{"action": "ping", "x": 1}': "validation_failed",
        '{"action": "subscribe", "events": "operation.*"}': "validation_failed",
        '{"action": "subscribe", "events": ["nothing.like_it"]}': "validation_failed",
        '{"action": "subscribe", "after": -1}': "validation_failed",
        '{"action": "subscribe", "after": 9223372036854775808}': "validation_failed",
        '{"action": "subscribe", "group": "\\u0000"}': "validation_failed",
        '{"action": "subscribe", "events": ["log.line"]}': "validation_failed",
        '{"action": "unsubscribe", "id": 99}': "subscription_not_found",
    }
    for message, code in wrong.items():
        client.ws.send(message)
        answer = client.read()
        assert (answer["type"], answer["code"]) == ("error", code), message
        assert answer["detail"]
    client.ws.send_binary(b"\xff\xfe")
    assert client.read()["code"] == "malformed_json"
    client.send(action="ping")
    assert client.read() == {"type": "pong"}
    client.close()


def test_a_ticket_is_good_once(api: Api) -> None:
    ticket = api.post("/auth/ws-ticket").json()["ticket"]
    protocols = ["clos.v2", f"ticket.{ticket}"]
    first = Socket(api, header={}, subprotocols=protocols)
    assert first.ws.subprotocol == "clos.v2"
    assert first.read()["type"] == "hello"
    assert Socket(api, header={}, subprotocols=protocols).close_code() == 4401
    first.close()


def test_who_is_not_logged_in_is_upgraded_and_closed_with_4401(api: Api) -> None:
    for header in ({}, {"X-API-Key": "clos_x_y"}, {"Authorization": "Bearer x"}):
        assert Socket(api, header=header).close_code() == 4401


def test_a_foreign_origin_or_host_is_refused_before_the_upgrade(api: Api) -> None:
    for options, status in (
        ({"origin": "http://evil.example", "suppress_origin": False}, 403),
        ({"origin": "null", "suppress_origin": False}, 403),
        ({"host": "evil.example"}, 400),
    ):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Socket(api, **options)  # type: ignore[arg-type]
        assert refused.value.status_code == status
    own = Socket(api, origin=f"http://localhost:{api.port}", suppress_origin=False)
    assert own.read()["type"] == "hello"
    own.close()


def test_rights_are_asked_for_each_event(api: Api) -> None:
    made = api.post("/api-keys", {"name": "x", "scopes": ["events:read", "services:read"]}).json()
    client = Socket(api, header={"X-API-Key": made["key"]})
    client.read()
    assert client.subscribe(events=["operation.*"])["code"] == "forbidden"
    assert client.subscribe(events=["*"], group="rights")["type"] == "subscribed"
    tell(api, group="rights")
    with api.rig.record.write() as session:
        seen = events.append(session, EventType.SERVICE_STATUS_CHANGED, {}, group_name="rights")
    api.rig.feed.wake()
    assert client.read()["id"] == seen
    blind = api.post("/api-keys", {"name": "x", "scopes": ["services:read"]}).json()
    assert Socket(api, header={"X-API-Key": blind["key"]}).close_code() == 4403
    client.close()


def test_a_login_that_ends_closes_its_sockets_with_4401(api: Api) -> None:
    user = api.user("viewer")
    sockets = [Socket(api, header={"Authorization": user["session"].headers["Authorization"]})]
    ticket = user["session"].post(f"{api.url}/api/v2/auth/ws-ticket", timeout=5).json()["ticket"]
    sockets.append(Socket(api, header={}, subprotocols=["clos.v2", f"ticket.{ticket}"]))
    assert [each.read()["type"] for each in sockets] == ["hello", "hello"]
    assert api.call("PATCH", f"/users/{user['id']}", json={"role": "operator"}).ok
    began = time.monotonic()
    assert [each.close_code() for each in sockets] == [4401, 4401]
    assert time.monotonic() - began < 8


def test_metrics_come_without_an_id_and_only_live(api: Api) -> None:
    client = Socket(api)
    client.subscribe(events=["service.metrics_updated"])
    event = {
        "id": None, "type": "service.metrics_updated", "severity": "info", "actor": None, "service_id": "x",
        "group_name": None, "operation_id": None, "data": {"cpu_usage": 1}, "timestamp": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip
    api.rig.feed.publish(event)
    assert client.read() == event
    client.close()


def test_a_message_over_64_kib_closes_with_1009(api: Api) -> None:
    client = Socket(api)
    client.read()
    client.ws.send(json.dumps({"action": "ping", "x": "y" * 70_000}))
    assert client.close_code() == 1009


def test_too_many_messages_close_with_4429(api: Api) -> None:
    client = Socket(api)
    for _ in range(200):
        try:
            client.send(action="ping")
        except (OSError, websocket.WebSocketException):
            break
    assert client.close_code() == 4429


@pytest.mark.fault
def test_a_client_that_does_not_read_is_given_up_and_slows_nobody(api: Api) -> None:
    slow = Socket(api, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    slow.subscribe(events=["operation.*"], group="slow")
    quick = Socket(api)
    quick.subscribe(events=["operation.*"], group="quick")
    began = time.monotonic()
    for _ in range(60):
        tell(api, 50, group="slow", filler="x" * 4000)
    (event_id,) = tell(api, group="quick")
    assert quick.read()["id"] == event_id
    assert time.monotonic() - began < 30
    # It has room for a while, then for a close, and can resume behind what it has read.
    assert slow.close_code(30) == 4429
    quick.close()


def test_without_redis_events_still_come() -> None:
    with running_api() as api:
        api.start_gateway()
        client = Socket(api)
        client.subscribe(events=["operation.*"])
        api.rig.redis.stop()
        (event_id,) = tell(api, wake=False)
        assert client.read()["id"] == event_id
        api.rig.redis.start()
        client.close()


def test_a_full_gateway_says_so_and_sigterm_closes_with_1012() -> None:
    with running_api(CLOS_WEBSOCKET__MAX_CLIENTS="20") as api:
        api.start_gateway()
        clients = [Socket(api) for _ in range(20)]
        for client in clients:
            client.read()
        assert Socket(api).close_code() == 1013
        clients.pop().close()
        wait_until(lambda: served(api), 5, "a free place")
        assert api.gateway_process is not None
        began = time.monotonic()
        api.gateway_process.terminate()
        assert {client.close_code() for client in clients} == {1012}
        assert api.gateway_process.wait(10) == 0
        assert time.monotonic() - began < 2.5
        assert not os.listdir(api.rig.home / "run" / "pids") or all(
            not name.startswith("websocket") for name in os.listdir(api.rig.home / "run" / "pids")
        )


def served(api: Api) -> bool:
    client = Socket(api)
    try:
        return client.ws.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_TEXT
    finally:
        client.close()

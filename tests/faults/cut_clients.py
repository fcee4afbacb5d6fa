"""A WebSocket client that is cut again and again during one group start. Done when 5 of the main job."""

import json
import random
import socket
import time
from typing import Any

import websocket

from tests.integration.api_fixture import Api, running_api
from tests.integration.rig import free_port, web_service
from tests.waiting import wait_until


class CutClient:
    """Follows every event; each cut drops the connection without a goodbye and resumes after the last id."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._socket: websocket.WebSocket | None = None
        self.last_id = 0
        self.events: list[dict[str, Any]] = []
        self.cuts = 0

    def connect(self, after: int) -> None:
        self._socket = websocket.create_connection(
            self._api.websocket_url, timeout=10, header={"X-API-Key": self._api.key}, suppress_origin=True
        )
        assert json.loads(self._socket.recv())["type"] == "hello"
        self._socket.send(json.dumps({"action": "subscribe", "events": ["*"], "after": after}))
        self.last_id = after

    def read(self, timeout_s: float) -> bool:
        """Take one message in. Whether there was one."""
        assert self._socket is not None
        self._socket.settimeout(timeout_s)
        try:
            message = json.loads(self._socket.recv())
        except websocket.WebSocketTimeoutException:
            return False
        assert message["type"] not in ("error", "resync"), message
        if message.get("id") is not None and "timestamp" in message:
            self.events.append(message)
            self.last_id = message["id"]
        return True

    def cut(self) -> None:
        assert self._socket is not None
        assert self._socket.sock is not None
        # A reset, not a close: nothing is said on the way out.
        self._socket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.sock.close()
        self.cuts += 1
        self.connect(self.last_id)


def campaign(cuts: int, seed: int) -> dict[str, Any]:
    """Cut the client `cuts` times in one start of a chain, then compare with the server's event log."""
    dice = random.Random(seed)
    with running_api() as api:
        clos = api.rig
        api.start_gateway()
        clos.worker()
        names = [f"s{number:02}" for number in range(12)]
        services = [
            web_service(name, free_port(), needs=names[:number][-1:], delay_s=0.3) for number, name in enumerate(names)
        ]
        assert api.post("/groups", {"name": "chain", "services": services}).status_code == 201
        before = api.get("/events?limit=1").json()["items"]
        first = before[0]["id"] if before else 0
        client = CutClient(api)
        client.connect(first)
        operation_id = api.post("/groups/chain/start").json()["id"]
        began = time.monotonic()
        while client.cuts < cuts:
            # Spread over the whole start, and at any point between two frames.
            until = time.monotonic() + dice.uniform(0.0, 0.16)
            while (left_s := until - time.monotonic()) > 0:
                client.read(left_s)
            client.cut()
        cut_for_s = time.monotonic() - began
        operation = clos.ended(operation_id, 60)
        log = _log(api, first)
        wait_until(lambda: client.read(0.5) and client.last_id >= log[-1]["id"], 30, "the last event")
        got = [event for event in client.events if event["id"] <= log[-1]["id"]]
        return {
            "cuts": client.cuts,
            "cut_for_s": round(cut_for_s, 1),
            "operation": operation.status,
            "events_in_log": len(log),
            "events_received": len(got),
            "identical": got == log,
        }


def _log(api: Api, after: int) -> list[dict[str, Any]]:
    """The server's log as the REST API tells it, in ascending order."""
    found: list[dict[str, Any]] = []
    while True:
        page = api.get(f"/events?after={after}&limit=200").json()["items"]
        if not page:
            return found
        found += page
        after = page[-1]["id"]

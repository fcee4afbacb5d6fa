"""Following CLOS: events over the WebSocket, resumed after a cut, and polling where there is no socket.

An operation is watched by subscribing first and reading it then, so nothing falls between. After a cut the feed
asks for what came after the last event it saw; only a `resync` makes it read again.
"""

import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cli.client import Client
from cli.errors import ApiError, CliError, Unreachable

Operation = dict[str, Any]
FINAL = frozenset({"completed", "failed", "cancelled"})
RESYNC = {"type": "resync"}
_RANK = {"pending": 0, "running": 1, "completed": 2, "failed": 2, "skipped": 2, "undone": 3}
_IDLE_S = 5.0
_POLL_WAIT_S = 1
_RECONNECTS = 8
_LOST_API_S = 15.0


def asks(operation: Mapping[str, Any]) -> bool:
    """Whether it waits for a person's answer."""
    return operation.get("status") == "waiting" and bool(operation.get("question"))


def _is_over(operation: Operation, deadline: float) -> bool:
    return operation["status"] in FINAL or asks(operation) or time.monotonic() >= deadline


class FeedLost(Exception):
    """No event socket is to be had; polling is what is left."""


class Feed:
    """One socket with one or more subscriptions. `last_id` is where it goes on after a cut."""

    def __init__(self, client: Client, subscriptions: Sequence[Mapping[str, Any]], after: int | None = None) -> None:
        self._client = client
        self._subscriptions = subscriptions
        self.last_id = after
        self.reconnected = 0
        self._socket: Any = None
        self._waiting: deque[dict[str, Any]] = deque()

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            FeedLost: that is not possible.
        """
        import websocket

        try:
            url = self._client.credentials.websocket_url or self._client.get("/system/info")["websocket_url"]
            key = self._client.credentials.api_key
            self._socket = websocket.create_connection(
                url, timeout=5, header={"X-API-Key": key} if key else {}, suppress_origin=True
            )
            self._expect("hello")
            for subscription in self._subscriptions:
                after = {} if self.last_id is None else {"after": self.last_id}
                self._socket.send(json.dumps({"action": "subscribe", **subscription, **after}))
                answer = self._expect("subscribed")
                if self.last_id is None:
                    self.last_id = answer.get("last_id")
        except (OSError, websocket.WebSocketException, ValueError, KeyError, TypeError, CliError) as refused:
            self.close()
            raise FeedLost(str(refused)) from refused

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event, `RESYNC`, or None if none came in time. A cut is mended on the way.

        Raises:
            FeedLost: the socket could not be had again.
        """
        import websocket

        if self._waiting:
            return self._new(self._waiting.popleft())
        if self._socket is None:
            raise FeedLost("it was lost before")
        try:
            self._socket.settimeout(max(timeout_s, 0.01))
            return self._new(self._read())
        except websocket.WebSocketTimeoutException:
            return None
        except (OSError, websocket.WebSocketException, ValueError) as cut:
            self._mend(cut)
            return None

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close(timeout=0.2)
            self._socket = None

    def _mend(self, cut: Exception) -> None:
        for attempt in range(_RECONNECTS):
            time.sleep(min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            self.close()
            try:
                self.open()
            except FeedLost:
                continue
            self.reconnected += 1
            return
        raise FeedLost(str(cut)) from cut

    def _read(self) -> dict[str, Any]:
        raw = self._socket.recv()
        if not raw:
            raise OSError("the gateway closed the socket")
        message = json.loads(raw)
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message

    def _expect(self, kind: str) -> dict[str, Any]:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            message = self._read()
            if message.get("type") == kind:
                return message
            if message.get("type") == "error":
                raise ValueError(f"the gateway refused: {message.get('detail') or message.get('code')}")
            self._waiting.append(message)
        raise TimeoutError(f"the gateway did not say {kind}")

    def _new(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message.get("type") == "resync":
            return RESYNC
        if "timestamp" not in message:
            return None
        number = message.get("id")
        if isinstance(number, int):
            if self.last_id is not None and number <= self.last_id:
                return None
            self.last_id = number
        return message


class Watch:
    """Follows one operation to its end. `on_change` gets it whenever something in it is new."""

    def __init__(self, client: Client, on_change: Callable[[Operation], None], note: Callable[[str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._note = note

    def until_end(self, operation_id: str, timeout_s: float) -> Operation:
        """The operation as it ended, as it asks a person, or as it stands after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        feed = Feed(self._client, [{"events": ["operation.*"], "operation": operation_id}])
        try:
            feed.open()
            return self._by_events(feed, operation_id, deadline)
        except FeedLost as lost:
            self._note(f"no live events ({lost}): asking every {_POLL_WAIT_S} s instead")
            return self._by_asking(operation_id, deadline)
        finally:
            feed.close()

    def _by_events(self, feed: Feed, operation_id: str, deadline: float) -> Operation:
        operation = self._read(operation_id)
        self._on_change(operation)
        heard_at = time.monotonic()
        while not _is_over(operation, deadline):
            event = feed.next(min(1.0, deadline - time.monotonic()))
            silent = event is None and time.monotonic() - heard_at > _IDLE_S
            if event is not None:
                heard_at = time.monotonic()
            if event is RESYNC or silent or (event and event["type"] == "operation.completed"):
                operation = self._read(operation_id)
                heard_at = time.monotonic()
            elif event and not _apply(operation, event.get("data") or {}, event["timestamp"]):
                # The plan was made after the first look.
                self._on_change(operation)
                operation = self._read(operation_id)
            self._on_change(operation)
        return operation

    def _by_asking(self, operation_id: str, deadline: float) -> Operation:
        operation, pause_s = self._asked(operation_id, 0)
        self._on_change(operation)
        while not _is_over(operation, deadline):
            time.sleep(min(pause_s, max(deadline - time.monotonic(), 0)))
            operation, pause_s = self._asked(operation_id, _POLL_WAIT_S)
            self._on_change(operation)
        return operation

    def _read(self, operation_id: str) -> Operation:
        return self._asked(operation_id, 0)[0]

    def _asked(self, operation_id: str, wait_s: int) -> tuple[Operation, float]:
        """The operation and when to ask again. A restart of the API is waited out: the operation goes on without it."""
        deadline = time.monotonic() + _LOST_API_S
        pause_s = 0.1
        while True:
            try:
                query = {"wait": wait_s} if wait_s else {}
                return self._client.answered(f"/operations/{operation_id}", 15.0 + wait_s, **query)
            except (Unreachable, ApiError) as gone:
                passing = isinstance(gone, Unreachable) or gone.status in (429, 503)
                if not passing or time.monotonic() > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)


def _apply(operation: Operation, data: Mapping[str, Any], at: str) -> bool:
    """Bring an operation up to an event. What was read later than the event happened is not set back.

    False: the event tells of a step that was not known.
    """
    if data.get("status") and data["status"] not in FINAL:
        operation["status"] = data["status"]
    operation["progress"] = max(operation.get("progress") or 0, data.get("progress") or 0)
    operation["current_step"] = data.get("current_step", operation.get("current_step"))
    operation["waiting_for"] = data.get("waiting_for") or []
    if data.get("question"):
        operation["question"] = data["question"]
    elif operation["status"] != "waiting":
        operation["question"] = None
    step = data.get("step")
    if not isinstance(step, dict):
        return True
    if "id" not in step:
        # Word of a long step, as of a pull or a build.
        operation["note"] = step.get("note")
        return True
    steps = operation.setdefault("steps", [])
    for known in steps:
        if known.get("id") == step.get("id"):
            if _RANK.get(str(step.get("status")), 0) >= _RANK.get(str(known.get("status")), 0):
                known.update(step)
                known["started_at"] = known.get("started_at") or at
                if known.get("status") not in ("pending", "running"):
                    known["ended_at"] = known.get("ended_at") or at
            return True
    steps.append({"started_at": at, **step})
    return False

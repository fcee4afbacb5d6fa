"""The wake-up of the event log's readers, and what is not kept: metrics and log lines.

Redis carries no event that is in the log, only "it has grown". So a wiped Redis loses nothing.
"""

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import redis
import structlog

from bus.broker import connect

log = structlog.get_logger()
_WAKE = "clos:feed:wake"
_UNKEPT = "clos:feed:unkept"
_STEPS = b"steps"
_FOLLOW = "follow:"
_FOLLOWING = "following:"
FOLLOW_TTL_S = 15
FOLLOWING_TTL_S = 5


class Subscription:
    """A reader's thread. It reconnects by itself, and calls `on_wake(True)` after each reconnect."""

    def __init__(self, url: str, on_wake: Callable[[bool], None], on_event: Callable[[dict[str, Any]], None]) -> None:
        self._url = url
        self._on_wake = on_wake
        self._on_event = on_event
        self._closed = threading.Event()
        self.connected = False
        self._thread = threading.Thread(target=self._run, name="clos-feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause_s = 0.1
        while not self._closed.is_set():
            try:
                self._listen()
                pause_s = 0.1
            except redis.RedisError:
                self.connected = False
                self._closed.wait(pause_s)
                pause_s = min(pause_s * 2, 2.0)

    def _listen(self) -> None:
        with (
            connect(self._url, timeout_s=5.0, connections=2) as client,
            client.pubsub(ignore_subscribe_messages=True) as channel,
        ):
            channel.subscribe(_WAKE, _UNKEPT)
            self.connected = True
            self._on_wake(True)
            while not self._closed.is_set():
                heard = channel.get_message(timeout=1.0)
                if heard is None:
                    continue
                if heard["channel"] == _WAKE.encode():
                    self._on_wake(heard["data"] != _STEPS)
                else:
                    self._on_event(json.loads(heard["data"]))

    def close(self) -> None:
        """End the thread, at the latest after its current second."""
        self._closed.set()


class Feed:
    """Both ends of the wake-up. Publishing is best effort and quick, also while Redis is away."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._client = connect(redis_url, timeout_s=1.0)

    def wake(self, ends: bool = True) -> None:
        """Say that the event log has grown; without `ends` by no operation's end, which is all that many wait for."""
        # A reader that does not hear it finds the event at its next poll.
        with contextlib.suppress(redis.RedisError, OSError):
            self._client.publish(_WAKE, b"" if ends else _STEPS)

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event that is not kept (metrics, log lines)."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._client.publish(_UNKEPT, json.dumps(event))

    def subscribe(self, on_wake: Callable[[bool], None], on_event: Callable[[dict[str, Any]], None]) -> Subscription:
        """Listen from now on. `on_wake` is told whether an operation may have ended."""
        return Subscription(self._url, on_wake, on_event)

    def renew_follow(self, service_id: str) -> bool:
        """Say that somebody follows these logs. Whether no worker does its part: then one must be told."""
        self._client.set(_FOLLOW + service_id, b"1", ex=FOLLOW_TTL_S)
        return not self._client.exists(_FOLLOWING + service_id)

    def follow_as(self, service_id: str, worker: str) -> bool:
        """Whether this worker is the one that follows these logs, for another few seconds: it died if it does not ask
        again."""
        key = _FOLLOWING + service_id
        try:
            if self._client.set(key, worker, nx=True, ex=FOLLOWING_TTL_S):
                return True
            if self._client.get(key) != worker.encode():
                return False
            return bool(self._client.expire(key, FOLLOWING_TTL_S))
        except (redis.RedisError, OSError):
            return False

    def followed(self, service_id: str) -> bool:
        """Whether somebody still follows these logs."""
        try:
            return bool(self._client.exists(_FOLLOW + service_id))
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Let go of Redis."""
        self._client.close()

"""The one arrow back: a worker's answer to a reader of logs, kept 30 s at `reply:<request_id>`."""

import json
from typing import Any

import redis

from bus.broker import connect

_KEPT_S = 30


class Replies:
    """Both ends of the answer."""

    def __init__(self, redis_url: str) -> None:
        # A blocking read must not outlast the socket's own timeout (pitfalls 1.8).
        self._client = connect(redis_url, timeout_s=10.0)

    def answer(self, request_id: str, payload: dict[str, Any]) -> None:
        """Give the answer."""
        key = f"reply:{request_id}"
        with self._client.pipeline(transaction=True) as pipe:
            pipe.rpush(key, json.dumps(payload))
            pipe.expire(key, _KEPT_S)
            pipe.execute()

    def wait(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        """The answer; None if none came within `timeout_s` (at most 8) or Redis is away."""
        try:
            heard = self._client.blpop([f"reply:{request_id}"], timeout=min(timeout_s, 8.0))
        except (redis.RedisError, OSError):
            return None
        if heard is None:
            return None
        answer: dict[str, Any] = json.loads(heard[1])
        return answer

    def close(self) -> None:
        """Let go of Redis."""
        self._client.close()

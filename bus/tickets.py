"""Tickets: a browser's one-time login to the WebSocket gateway. Redis keeps only their SHA-256."""

import hashlib
import json
import secrets
from typing import Any

from bus.broker import connect


class Tickets:
    """Issues tickets and takes them in, each once. May raise what redis-py raises."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect(redis_url, timeout_s=1.0)

    @staticmethod
    def _key(ticket: str) -> str:
        return "ticket:" + hashlib.sha256(ticket.encode()).hexdigest()

    def issue(self, payload: dict[str, Any], ttl_s: int = 30) -> str:
        """A new ticket that stands for `payload`."""
        ticket = secrets.token_urlsafe(24)
        self._client.set(self._key(ticket), json.dumps(payload), ex=ttl_s)
        return ticket

    def take(self, ticket: str) -> dict[str, Any] | None:
        """What the ticket stands for; None if it is unknown, used or too old."""
        found = self._client.getdel(self._key(ticket))
        if found is None:
            return None
        payload: dict[str, Any] = json.loads(found)
        return payload

    def close(self) -> None:
        """Let go of Redis."""
        self._client.close()

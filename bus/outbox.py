"""Sending after the commit. A failure is logged and swallowed: the row is the truth, the watchdog sends again."""

import redis
import structlog

from bus.messages import Sender

log = structlog.get_logger()


class Outbox:
    """Sends what a committed transaction has made due."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def operation(self, operation_id: str, type_: str) -> bool:
        """Tell the workers of an operation. Whether it went out."""
        try:
            self._sender.operation(operation_id, type_)
        except (redis.RedisError, OSError) as refusal:
            log.warning("outbox.send_failed", operation_id=operation_id, error=str(refusal))
            return False
        return True

"""Dramatiq's Redis broker, with a wake-up so that a message starts at once and not at the next poll.

Dramatiq's consumer polls with a back-off of up to a second (pitfalls 1.21). Here an enqueue also publishes on a
channel, one subscriber thread per process listens to it, and idle consumers wait on that. The wake-up is a hint:
losing it costs one poll.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import current_millis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

QUEUES = ("operations", "ports", "collectors", "logs", "notifications")
_CHANNEL = "clos:sent:"
# The poll that remains when a wake-up is lost.
_POLL_S = 1.0


def connect(url: str, timeout_s: float = 30.0, connections: int = 50) -> "redis.Redis":
    """A Redis client that never retries by itself: who sends decides what a failure means (pitfalls 1.7)."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(2.0, timeout_s),
        retry=Retry(NoBackoff(), 0),
        max_connections=connections,
        protocol=2,
    )


class _WakingConsumer(_RedisConsumer):
    """A consumer that, when its queue is empty, waits for the wake-up instead of sleeping."""

    def __init__(self, broker: Any, queue_name: str, prefetch: int, _timeout: int) -> None:
        # Dramatiq's own back-off is cut to a millisecond; the bell does the waiting.
        super().__init__(broker, queue_name, prefetch, 1)  # type: ignore[no-untyped-call]
        self.bell: threading.Event = broker.bell(queue_name)

    def __next__(self) -> Any:
        # Cleared before the look: what is sent after it rings, what was sent before it is found.
        self.bell.clear()
        message = super().__next__()  # type: ignore[no-untyped-call]
        if message is None:
            self.misses = 0
            self.bell.wait(_POLL_S)
        return message

    def ack(self, message: Any) -> None:
        super().ack(message)  # type: ignore[no-untyped-call]
        self.bell.set()  # there is room for another one

    def nack(self, message: Any) -> None:
        super().nack(message)  # type: ignore[no-untyped-call]
        self.bell.set()


class WakingRedisBroker(RedisBroker):
    """RedisBroker whose messages are picked up within a millisecond or two."""

    def __init__(self, url: str, timeout_s: float = 30.0, **options: Any) -> None:
        # A dead worker's messages come back on any worker's next poll (pitfalls 1.2).
        super().__init__(  # type: ignore[no-untyped-call]
            client=connect(url, timeout_s),
            heartbeat_timeout=15_000,
            maintenance_chance=1_000_000,
            middleware=[],
            **options,
        )
        self._url = url
        self._bells: dict[str, threading.Event] = {}
        self._listener: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = threading.Event()

    @property
    def consumer_class(self) -> type[_WakingConsumer]:
        return _WakingConsumer

    def bell(self, queue_name: str) -> threading.Event:
        """What is set when a message was sent to that queue."""
        with self._guard:
            return self._bells.setdefault(queue_name, threading.Event())

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
        """Consume a queue; the first consumer of the process starts the listener."""
        with self._guard:
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="clos-wake-up", daemon=True)
                self._listener.start()
        return super().consume(queue_name, prefetch, timeout)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue without its delay queue: delays are `not_before` in the record (pitfalls 1.5)."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def do_enqueue(self, queue_name: str, *message: Any) -> None:
        """Enqueue and ring, on one way to Redis: a second one would be most of what is waited for."""
        channel = _CHANNEL + queue_name
        # What Dramatiq's own `do_enqueue` sends.
        unpacked = self._max_unpack_size()  # type: ignore[no-untyped-call]
        command = (
            "enqueue", current_millis(), queue_name, self.broker_id, self.heartbeat_timeout, self.dead_message_ttl,
            self._should_do_maintenance("enqueue"), unpacked, *message,
        )  # fmt: skip
        try:
            with self.client.pipeline(transaction=False) as both:
                both.evalsha(self.scripts["dispatch"].sha, 1, self.namespace, *command)
                both.publish(channel, b"")
                both.execute()
        except NoScriptError:
            # This Redis was started anew. It has refused, so nothing is sent twice.
            self._dispatch("enqueue")(queue_name, *message)  # type: ignore[no-untyped-call]
            self.client.publish(channel, b"")

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen_once()
            except redis.RedisError:
                self._closed.wait(0.5)

    def _listen_once(self) -> None:
        client = connect(self._url, timeout_s=5.0, connections=2)
        with client, client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.psubscribe(_CHANNEL + "*")
            self._ring(list(self._bells))
            while not self._closed.is_set():
                heard = channel.get_message(timeout=1.0)
                if heard is not None:
                    self._ring([heard["channel"].decode().removeprefix(_CHANNEL)])

    def ring_all(self) -> None:
        """Let every waiting consumer look up: the process is stopping."""
        self._ring(list(self._bells))

    def _ring(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self.bell(queue).set()

    def close(self) -> None:
        """Let go of Redis."""
        self._closed.set()
        self.ring_all()
        super().close()


def make_broker(redis_url: str, timeout_s: float = 30.0) -> WakingRedisBroker:
    """A broker with every queue of CLOS declared. Connects when it is first used.

    Who only sends, and has somebody waiting, gives a short `timeout_s`.
    """
    broker = WakingRedisBroker(redis_url, timeout_s)
    # Consumers hold no more than they work on, so that a free worker finds what waits (pitfalls 1.13).
    for queue in QUEUES:
        broker.declare_queue(queue)
    dramatiq.set_broker(broker)
    return broker


def wait_for_redis(redis_url: str, timeout_s: float) -> bool:
    """Whether Redis answered within that time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with connect(redis_url, timeout_s=1.0, connections=1) as client:
                client.ping()
            return True
        except redis.RedisError:
            time.sleep(0.05)
    return False

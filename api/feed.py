"""One reader of the event log per process: woken through Redis, and by itself at least once a second.

The log is the only source. Redis away makes it slower, never wrong. While nobody listens it reads nothing, and who only
waits for an operation's end is not woken by its steps: a start of ten has sixty of them.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bus.feed import Feed, Subscription
from domain.events import EventType
from models import events
from models.record import Record

_log = structlog.get_logger()
POLL_S = 1.0
_BATCH = 500
Event = dict[str, Any]


class FeedReader:
    """Reads the log once and hands each event to everybody who listens, in the order of ids."""

    def __init__(self, record: Record, feed: Feed, poll_s: float = POLL_S) -> None:
        self._record = record
        self._feed = feed
        self._poll_s = poll_s
        # Held while an event is handed out: who listens from position N gets N + 1 next.
        self._lock = threading.RLock()
        self._grown = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._subscription: Subscription | None = None
        self._listeners: dict[int, Callable[[Event], None]] = {}
        self._numbers = 0
        self._ends: dict[str, set[threading.Event]] = defaultdict(set)
        self.position = 0

    def start(self) -> None:
        """Begin to read behind the newest event, unless that was begun already."""
        with self._lock:
            if self._thread is not None:
                return
            with self._record.read() as session:
                self.position = events.last_id(session)
            self._thread = threading.Thread(target=self._run, name="clos-event-reader", daemon=True)
            self._thread.start()
            self._subscription = self._feed.subscribe(self._woken, self._unkept)

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        self._grown.set()
        if self._subscription is not None:
            self._subscription.close()
        if self._thread is not None:
            self._thread.join(2.0)
        with self._lock:
            for waiting in list(self._ends.values()):
                for ended in waiting:
                    ended.set()

    @property
    def closed(self) -> bool:
        """Whether the process is about to end."""
        return self._closed.is_set()

    def listen(self, listener: Callable[[Event], None]) -> tuple[int, int]:
        """Hand every event from now on to `listener`, which must be quick. Returns its number and the position."""
        self.start()
        with self._lock:
            self._catch_up()
            self._numbers += 1
            self._listeners[self._numbers] = listener
            return self._numbers, self.position

    @contextmanager
    def paused(self) -> Iterator[int]:
        """Hand nothing out inside the block; gives the position."""
        with self._lock:
            yield self.position

    def leave(self, number: int) -> None:
        """Listen no longer."""
        with self._lock:
            self._listeners.pop(number, None)

    @contextmanager
    def end_of(self, operation_id: str) -> Iterator[threading.Event]:
        """What is set when that operation has ended, or this process is about to."""
        self.start()
        ended = threading.Event()
        with self._lock:
            self._catch_up()
            self._ends[operation_id].add(ended)
            if self.closed:
                ended.set()
        try:
            yield ended
        finally:
            with self._lock:
                self._ends[operation_id].discard(ended)
                if not self._ends[operation_id]:
                    del self._ends[operation_id]

    def _catch_up(self) -> None:
        """The first to come begins behind the newest event: what came while nobody listened is nobody's."""
        if not self._listeners and not self._ends:
            with self._record.read() as session:
                self.position = events.last_id(session)

    def _woken(self, ends: bool) -> None:
        if self._listeners or ends:
            self._grown.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._grown.wait(self._poll_s)
            # Cleared before the look: what is committed after it rings again.
            self._grown.clear()
            try:
                while self._is_heard() and not self._closed.is_set() and self._read() == _BATCH:
                    pass
            except SQLAlchemyError as refusal:
                _log.warning("feed.read_failed", error=type(refusal).__name__)
                self._closed.wait(self._poll_s)

    def _is_heard(self) -> bool:
        with self._lock:
            return bool(self._listeners or self._ends)

    def _read(self) -> int:
        with self._record.read() as session:
            found = [event.as_dict() for event in events.after(session, self.position, _BATCH)]
        for event in found:
            with self._lock:
                if event["id"] <= self.position:
                    continue  # somebody came meanwhile, after everybody had left
                self.position = event["id"]
                self._hand_out(event)
        return len(found)

    def _unkept(self, event: Event) -> None:
        with self._lock:
            self._hand_out(event)

    def _hand_out(self, event: Event) -> None:
        if event["type"] == EventType.OPERATION_COMPLETED:
            for ended in self._ends.get(str(event["operation_id"]), ()):
                ended.set()
        for number, listener in list(self._listeners.items()):
            try:
                listener(event)
            except Exception as mistake:
                # One listener's mistake must not end the feed of all others.
                _log.error("feed.listener_failed", exc_info=mistake)
                self._listeners.pop(number, None)

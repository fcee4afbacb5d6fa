"""Sends what a commit has made due, on a thread of its own: a request must not wait for a Redis that is away.

What is lost here (a full queue, the process's death) is sent again by the watchdog; the row is the truth.
"""

import queue
import threading
import time

import structlog

from bus.feed import Feed
from bus.outbox import Outbox

_log = structlog.get_logger()
_MAX_WAITING = 10_000
_WAKE = ("", "")
# The readers of the event log wait this long for their wake-up after an operation was sent: waking all of them at once
# takes the processor from the worker that is to claim it. The claim wakes them as well.
_CLAIM_FIRST_S = 0.005


class Courier:
    """Takes operations to the outbox and wakes the readers of the event log, in order."""

    def __init__(self, outbox: Outbox, feed: Feed) -> None:
        self._outbox = outbox
        self._feed = feed
        self._due: queue.Queue[tuple[str, str] | None] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def operation(self, operation_id: str, type_: str) -> None:
        """There is an operation for the workers."""
        self._put((operation_id, type_))

    def wake(self) -> None:
        """The event log has grown."""
        if self._due.empty():
            self._put(_WAKE)

    def _put(self, item: tuple[str, str]) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clos-courier", daemon=True)
                self._thread.start()
        try:
            self._due.put_nowait(item)
        except queue.Full:
            _log.warning("courier.full", operation_id=item[0])
            return
        # Its turn first: the request's own thread has an answer to write, which takes longer than the sending.
        time.sleep(0)

    def _run(self) -> None:
        wake_at: float | None = None
        while (item := self._next(wake_at)) is not None:
            operation_id, type_ = item
            if operation_id:
                self._outbox.operation(operation_id, type_)
            now = time.monotonic()
            if wake_at is None:
                wake_at = now + (_CLAIM_FIRST_S if operation_id else 0.0)
            if wake_at <= now:
                wake_at = None
                self._feed.wake()
        # What went out last had the end behind it in the queue.
        self._feed.wake()

    def _next(self, wake_at: float | None) -> tuple[str, str] | None:
        if wake_at is None:
            return self._due.get()
        try:
            return self._due.get(timeout=max(0.0, wake_at - time.monotonic()))
        except queue.Empty:
            return _WAKE

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits, for at most `timeout_s`."""
        if self._thread is not None:
            try:
                self._due.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(timeout_s)

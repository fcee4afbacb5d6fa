"""Cuts the reading side of sockets on which something has not arrived in time.

gunicorn reads until it has what was announced, however slowly that comes: a timeout per read would not end it.
"""

import contextlib
import heapq
import itertools
import socket
import threading
import time


class Deadlines:
    """One thread that watches over all of them; it starts with the first."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, socket.socket]] = []
        self._open: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, sock: socket.socket, timeout_s: float) -> int:
        """Cut `sock` in `timeout_s`, unless `end` is called before."""
        with self._changed:
            number = next(self._numbers)
            self._open.add(number)
            heapq.heappush(self._due, (time.monotonic() + timeout_s, number, sock))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clos-deadlines", daemon=True)
                self._thread.start()
            if self._due[0][1] == number:
                # Only then must it wake earlier than it meant to; a wake-up for each request would cost.
                self._changed.notify()
            return number

    def end(self, number: int) -> None:
        """The body is here."""
        with self._changed:
            self._open.discard(number)

    def _run(self) -> None:
        with self._changed:
            while True:
                while self._due and (self._due[0][1] not in self._open or self._due[0][0] <= time.monotonic()):
                    _, number, sock = heapq.heappop(self._due)
                    if number in self._open:
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_RD)
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)


DEADLINES = Deadlines()
# gunicorn's request that the current thread serves: only it can say that the connection ends after the answer.
SERVED = threading.local()

"""Requests per minute, counted in this process: Redis away must not open or close the door."""

import threading
import time

from api.errors import RateLimited

_WINDOW_S = 60.0
_MAX_KEYS = 10_000


class RateLimits:
    """Counts per key in windows of a minute."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def count(self, key: str, per_minute: int) -> None:
        """Count one; 0 is no limit.

        Raises:
            RateLimited: it was one too many.
        """
        if per_minute <= 0:
            return
        now = time.monotonic()
        with self._lock:
            began, seen = self._counts.get(key, (now, 0))
            if now - began >= _WINDOW_S:
                began, seen = now, 0
            if seen >= per_minute:
                raise RateLimited(max(1, int(began + _WINDOW_S - now)))
            if key not in self._counts and len(self._counts) >= _MAX_KEYS:
                self._forget(now)
            self._counts[key] = (began, seen + 1)

    def _forget(self, now: float) -> None:
        self._counts = {key: entry for key, entry in self._counts.items() if now - entry[0] < _WINDOW_S}
        while len(self._counts) >= _MAX_KEYS:
            self._counts.pop(next(iter(self._counts)))

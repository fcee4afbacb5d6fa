"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Call `condition` until it gives something true, and return that.

    Raises:
        AssertionError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s} s (last: {result!r})")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)

"""Every periodic message, once: its name, interval, jitter and grace, in seconds.

The scheduler makes APScheduler jobs of this table; a tick carries its name and slot, and the worker takes the slot
under a unique index, so that a doubled tick does nothing.
"""

import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Periodic:
    """One periodic message. A tick that comes later than `grace_s` is still sent once, never several times."""

    name: str
    queue: str
    interval_s: float
    jitter_s: float = 0.0

    def slot(self, at_s: float) -> int:
        """The number of the interval in which `at_s` (seconds since the epoch) lies."""
        return int(at_s // self.interval_s)


WATCHDOG = Periodic("watchdog", "collectors", 2.0)
STATE = Periodic("state", "collectors", 5.0)
HEALTH = Periodic("health", "collectors", 1.0)
LISTENERS = Periodic("listeners", "ports", 30.0, jitter_s=1.0)
CLONES = Periodic("clones", "collectors", 15.0, jitter_s=1.0)
LOGS = Periodic("logs", "collectors", 5.0)
RETENTION = Periodic("retention", "collectors", 3600.0, jitter_s=60.0)

TABLE: tuple[Periodic, ...] = (WATCHDOG, STATE, HEALTH, LISTENERS, CLONES, LOGS, RETENTION)


def table(state_interval_s: float | None = None) -> tuple[Periodic, ...]:
    """The table with the intervals that the settings may change."""
    if state_interval_s is None:
        return TABLE
    return tuple(replace(each, interval_s=state_interval_s) if each is STATE else each for each in TABLE)


def now_s() -> float:
    """Seconds since the epoch, as slots count them."""
    return time.time()

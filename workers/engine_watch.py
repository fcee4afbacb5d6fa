"""One thread per worker that listens to the engine: what happens to a container is looked at within a second.

Without events the periodic look does all of it, only later.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import ClosError
from models.operations import OperationLock, service_target
from models.record import Record

log = structlog.get_logger()
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
# One look when it is quiet again, and one a second later: the engine's list lags behind its events, and a look of
# somebody else's in the same second may have begun before the news.
_LOOKS = 2
_LONGEST_WAIT_S = 1.0


class Engine(Protocol):
    """What tells of changes."""

    def changes(self, stop: Callable[[], bool]) -> Iterator[str | None]:
        """Ids of services as something happens to their instances, None in between."""
        ...


class EngineWatch:
    """Listens until the worker ends. `look` looks at once, where nobody else has in this second."""

    def __init__(self, record: Record, engine: Engine, look: Callable[[], object], stopping: threading.Event) -> None:
        self._record = record
        self._engine = engine
        self._look = look
        self._stopping = stopping
        self._news: set[str] = set()
        self._news_since = 0.0
        self._looks = 0
        self._next_look_at = 0.0
        self._thread = threading.Thread(target=self._run, name="clos-engine-watch", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self, limit_s: float = 1.0) -> None:
        """Wait for its end, after the worker's `stopping` was set."""
        self._thread.join(limit_s)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            heard = self._listen()
            pause_s = _FIRST_PAUSE_S if heard else min(pause_s * 2, _LONGEST_PAUSE_S)
            if heard:
                # It has gone, which is news too: its services are unknown from now on.
                self._looks = _LOOKS
                self._look_if_due()
            self._stopping.wait(pause_s)

    def _listen(self) -> bool:
        """Listen until the engine goes. Whether it was there."""
        heard = False
        try:
            for service_id in self._engine.changes(self._stopping.is_set):
                if not heard:
                    heard, self._looks = True, _LOOKS
                self._take(service_id)
                self._look_if_due()
        except ClosError as refusal:
            log.debug("engine.not_heard", error=str(refusal))
        except Exception as defect:
            log.warning("engine.watch_broke", error=str(defect), exc_info=True)
        return heard

    def _take(self, service_id: str | None) -> None:
        if service_id is not None:
            self._news_since = self._news_since if self._news else time.monotonic()
            self._news.add(service_id)
            if time.monotonic() - self._news_since < _LONGEST_WAIT_S:
                return  # more may follow
        if self._news:
            if self._concerns_us():
                self._looks, self._next_look_at = _LOOKS, 0.0
            self._news.clear()

    def _look_if_due(self) -> None:
        if not self._looks or time.monotonic() < self._next_look_at or self._stopping.is_set():
            return
        self._looks -= 1
        self._next_look_at = time.monotonic() + 1.0
        try:
            self._look()
        except (ClosError, SQLAlchemyError) as refusal:
            log.warning("engine.look_failed", error=str(refusal))

    def _concerns_us(self) -> bool:
        """Whether something happened that no operation works on: what it does, it writes down itself."""
        try:
            with self._record.read() as session:
                targets = [service_target(each) for each in self._news]
                locked = set(session.scalars(select(OperationLock.target).where(OperationLock.target.in_(targets))))
        except (ClosError, SQLAlchemyError):
            return True
        return any(target not in locked for target in targets)

"""One thread per worker that listens to the engine: what happens to a container is looked at within a second.

Without events the periodic look does all of it, only later.
"""

import threading
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
# Somebody else's look in the same second may have begun before the news.
_TRIES = 2


class Engine(Protocol):
    """What tells of changes."""

    def changes(self, stop: Callable[[], bool]) -> Iterator[str | None]:
        """Ids of services as something happens to their instances, None in between."""
        ...


class EngineWatch:
    """Listens until the worker ends. `look` looks at once and says whether it was its turn: once a second."""

    def __init__(self, record: Record, engine: Engine, look: Callable[[], bool], stopping: threading.Event) -> None:
        self._record = record
        self._engine = engine
        self._look = look
        self._stopping = stopping
        self._news: set[str] = set()
        self._tries = 0
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
                self._tries = _TRIES
                self._look_if_news()
            self._stopping.wait(pause_s)

    def _listen(self) -> bool:
        """Listen until the engine goes. Whether it was there."""
        heard = False
        try:
            for service_id in self._engine.changes(self._stopping.is_set):
                if not heard:
                    self._tries = _TRIES
                    heard = True
                if service_id is not None:
                    self._news.add(service_id)
                self._look_if_news()
        except ClosError as refusal:
            log.debug("engine.not_heard", error=str(refusal))
        except Exception as defect:
            log.warning("engine.watch_broke", error=str(defect), exc_info=True)
        return heard

    def _look_if_news(self) -> None:
        if self._news and self._concerns_us():
            self._tries = _TRIES
        self._news.clear()
        if self._tries and not self._stopping.is_set():
            try:
                self._tries = 0 if self._look() else self._tries - 1
            except (ClosError, SQLAlchemyError) as refusal:
                log.warning("engine.look_failed", error=str(refusal))
                self._tries -= 1

    def _concerns_us(self) -> bool:
        """Whether something happened that no operation works on: what it does, it writes down itself."""
        try:
            with self._record.read() as session:
                targets = [service_target(each) for each in self._news]
                locked = set(session.scalars(select(OperationLock.target).where(OperationLock.target.in_(targets))))
        except (ClosError, SQLAlchemyError):
            return True
        return any(target not in locked for target in targets)

"""The queue `collectors`: what is done again and again. A tick's slot is taken first, so a doubled one does nothing."""

import threading
from collections.abc import Callable, Mapping

import dramatiq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from bus.messages import TICK
from bus.schedule import CLONES, HEALTH, LOGS, RETENTION, STATE, WATCHDOG, now_s
from domain.errors import ClosError
from models.base import now
from models.installation import Heartbeat, take_slot
from workers import clones, health, logs, retention, state, watchdog
from workers.context import Context

log = structlog.get_logger()


def declare(broker: dramatiq.Broker, context: Context, queue_is_empty: Callable[[], bool]) -> "Ticks":
    """Declare the queue's actors. The periodic work that they do."""
    rounds = health.Rounds(context)
    ticks = Ticks(
        context,
        {
            WATCHDOG.name: lambda: watchdog.send_overdue(context, queue_is_empty()),
            STATE.name: lambda: state.collect(context),
            HEALTH.name: rounds.collect,
            CLONES.name: lambda: clones.collect(context),
            LOGS.name: lambda: logs.keep(context),
            RETENTION.name: lambda: retention.age_out(context),
        },
    )

    @dramatiq.actor(actor_name=TICK, queue_name="collectors", broker=broker)
    def tick(name: str, slot: int) -> None:
        ticks.run(name, slot)

    return ticks


class Ticks:
    """Periodic work, once per slot, and each kind once at a time: one that hangs takes one thread, not all of them."""

    def __init__(self, context: Context, work: Mapping[str, Callable[[], object]]) -> None:
        self._context = context
        self._work = work
        self._busy = {name: threading.Lock() for name in work}

    def run(self, name: str, slot: int) -> None:
        """Do a piece of work. One that fails is logged: the next tick tries again."""
        if name not in self._work:
            log.warning("tick.unknown", tick=name)
            return
        if not self._busy[name].acquire(blocking=False):
            # Its slot stays free, for a worker whose own one has ended.
            log.debug("tick.still_busy", tick=name)
            return
        try:
            self._once(name, slot)
        except (ClosError, SQLAlchemyError, OSError) as refusal:
            log.warning("tick.failed", tick=name, error=str(refusal))
        finally:
            self._busy[name].release()

    def at_once(self, name: str) -> bool:
        """Do a piece of work now, because something happened; over all workers at most once a second.

        False if it was done in this second already, or is under way.
        """
        if not self._busy[name].acquire(blocking=False):
            return False
        try:
            with self._context.record.write() as session:
                first = take_slot(session, f"{name}.at_once", int(now_s()))
            if first:
                self._work[name]()
            return first
        finally:
            self._busy[name].release()

    def _once(self, name: str, slot: int) -> None:
        with self._context.record.write() as session:
            first = take_slot(session, name, slot)
            # A tick that arrives is the scheduler's sign of life: it has no other way to the record.
            session.merge(Heartbeat(id="scheduler", role="scheduler", at=now()))
        if first and not self._context.stopping.is_set():
            self._work[name]()

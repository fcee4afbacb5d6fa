"""The queue `collectors`: what is done again and again. A tick's slot is taken first, so a doubled one does nothing."""

from collections.abc import Callable

import dramatiq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from bus.messages import TICK
from bus.schedule import HEALTH, RETENTION, STATE, WATCHDOG
from domain.errors import ClosError
from models.base import now
from models.installation import Heartbeat, take_slot
from workers import health, retention, state, watchdog
from workers.context import Context

log = structlog.get_logger()


def declare(broker: dramatiq.Broker, context: Context, queue_is_empty: Callable[[], bool]) -> None:
    """Declare the queue's actors."""
    rounds = health.Rounds(context)
    work: dict[str, Callable[[], object]] = {
        WATCHDOG.name: lambda: watchdog.send_overdue(context, queue_is_empty()),
        STATE.name: lambda: state.collect(context),
        HEALTH.name: rounds.collect,
        RETENTION.name: lambda: retention.age_out(context),
    }

    @dramatiq.actor(actor_name=TICK, queue_name="collectors", broker=broker)
    def tick(name: str, slot: int) -> None:
        run_tick(context, work, name, slot)


def run_tick(context: Context, work: dict[str, Callable[[], object]], name: str, slot: int) -> None:
    """Do a periodic piece of work once per slot. One that fails is logged: the next tick tries again."""
    if name not in work:
        log.warning("tick.unknown", tick=name)
        return
    try:
        _run_once(context, work[name], name, slot)
    except (ClosError, SQLAlchemyError, OSError) as refusal:
        log.warning("tick.failed", tick=name, error=str(refusal))


def _run_once(context: Context, work: Callable[[], object], name: str, slot: int) -> None:
    with context.record.write() as session:
        first = take_slot(session, name, slot)
        # A tick that arrives is the scheduler's sign of life: it has no other way to the record.
        session.merge(Heartbeat(id="scheduler", role="scheduler", at=now()))
    if first and not context.stopping.is_set():
        work()

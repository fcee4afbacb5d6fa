"""`bus/schedule.py` as APScheduler jobs. A job only sends; the workers do."""

from collections.abc import Callable
from datetime import UTC, datetime

import redis
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from bus.messages import Sender
from bus.schedule import Periodic, now_s

log = structlog.get_logger()
MAX_WAITING = 100


def add_jobs(
    scheduler: BackgroundScheduler, table: tuple[Periodic, ...], sender: Sender, leads: Callable[[], bool]
) -> None:
    """Make a job of each periodic message. A late one is sent once (pitfalls 2.3)."""
    for periodic in table:
        scheduler.add_job(
            send,
            "interval",
            args=(periodic, sender, leads),
            id=periodic.name,
            seconds=periodic.interval_s,
            start_date=first_run_at(periodic, now_s()),
            jitter=periodic.jitter_s or None,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )


def first_run_at(periodic: Periodic, at_s: float) -> datetime:
    """The middle of the next slot: at its edge, a tick a millisecond early would share its slot with the one before."""
    return datetime.fromtimestamp((periodic.slot(at_s) + 1.5) * periodic.interval_s, UTC)


def send(periodic: Periodic, sender: Sender, leads: Callable[[], bool]) -> bool:
    """Send one tick, if this scheduler leads. Whether it went out."""
    if not leads():
        return False
    try:
        if sender.waiting(periodic.queue) >= MAX_WAITING:
            # Nobody works: what would pile up says nothing that the next tick does not.
            log.warning("tick.not_sent", tick=periodic.name, error="the queue is full; is a worker running?")
            return False
        sender.tick(periodic, periodic.slot(now_s()))
    except (redis.RedisError, OSError) as refusal:
        # The next tick says the same: what is due is read from the record, not from the message.
        log.warning("tick.not_sent", tick=periodic.name, error=str(refusal))
        return False
    return True

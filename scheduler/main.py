"""The scheduler process: `python -m scheduler.main`. It enqueues; it never works. One leads, others stand by."""

import os
import signal
import sys
import threading
from types import FrameType

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

import settings
from bus import log_lines
from bus.broker import make_broker, wait_for_redis
from bus.locks import LeaderLock
from bus.messages import Sender
from bus.process_identity import identity, register
from bus.schedule import table
from scheduler.jobs import add_jobs

log = structlog.get_logger()
_RENEW_S = 2.0
_REDIS_LIMIT_S = 30.0


class SchedulerProcess:
    """A scheduler from its start to its end."""

    def __init__(self, configured: settings.Settings) -> None:
        me = identity()
        owner = f"{me['boot_id']}:{me['pid']}:{me['start_ticks']}"
        self._lock = LeaderLock(configured.redis_url(), "scheduler", owner)
        self._leading = threading.Event()
        self._ended = threading.Event()
        self._scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(2)}, timezone="UTC")
        sender = Sender(make_broker(configured.redis_url()))
        add_jobs(self._scheduler, table(configured.monitoring.state_interval_s), sender, self._leading.is_set)
        self._identity_file = register(configured.home, "scheduler")

    def run(self) -> int:
        """Send until SIGTERM or SIGINT. The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._renew()
        self._scheduler.start()
        log.info("scheduler.started", pid=os.getpid())
        while not self._ended.wait(_RENEW_S):
            self._renew()
        self._scheduler.shutdown(wait=False)
        self._lock.release()
        self._identity_file.unlink(missing_ok=True)
        log.info("scheduler.stopped")
        return 0

    def _renew(self) -> None:
        """Lead only while the lock is surely ours: a failed renewal ends it at once (pitfalls 2.5)."""
        held = self._lock.hold()
        if held != self._leading.is_set():
            log.info("scheduler.leads" if held else "scheduler.stands_by")
        if held:
            self._leading.set()
        else:
            self._leading.clear()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ended.set()


def main() -> int:
    """Start a scheduler process."""
    try:
        configured = settings.load(os.environ)
    except settings.SettingsError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    log_lines.configure(configured.logging.level, configured.logging.format, "scheduler")
    if not wait_for_redis(configured.redis_url(), _REDIS_LIMIT_S):
        sys.stderr.write(f"Redis does not answer within {_REDIS_LIMIT_S:g} s; `clos doctor` says what to do\n")
        return 1
    return SchedulerProcess(configured).run()


if __name__ == "__main__":
    sys.exit(main())

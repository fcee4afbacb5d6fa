"""The worker process: `python -m workers.main`. Start as many as you like, from any shell with the same CLOS_HOME.

Three `dramatiq.Worker`s share it: one for `operations`, one for `logs`, one for the rest, so that long starts and slow
readers starve no collector.
There is no master that falls with a child (pitfalls 1.3).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import dramatiq
import redis
import structlog

import settings
from bus import log_lines
from bus.broker import QUEUES, WakingRedisBroker, make_broker, wait_for_redis
from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from bus.process_identity import identity, is_alive, register
from bus.replies import Replies
from bus.schedule import STATE
from domain.container_policy import ContainerPolicy
from domain.errors import EngineUnreachable, EngineUnsupported
from models.base import now
from models.record import Record
from workers import collectors, logs, notifications, operations, ports, state, watchdog
from workers.claims import Claims
from workers.context import Context, Limits, worker_identity
from workers.engine_watch import EngineWatch
from workers.observer import Observer
from workers.presence import Presence
from workers.runtimes.docker_engine import DockerEngine
from workers.runtimes.host_process import HostProcess
from workers.runtimes.protocol import Runtime

log = structlog.get_logger()
_OTHER_THREADS = 6
_LOG_THREADS = 4
_STOP_LIMIT_S = 8.0
_REDIS_LIMIT_S = 30.0
_POLL_S = 0.2
_RING_EVERY_S = 0.02
_SWITCH_S = 0.0005
_ENGINE_EVERY_S = 15.0
_ENGINE_POOL = 40
# What a service gets of the environment in which `clos up` was called (interface.md).
_INHERITED = ("PATH", "HOME", "USER", "SHELL", "LANG", "TMPDIR")


def make_policy(configured: settings.Settings) -> ContainerPolicy:
    """What containers may have of this machine."""
    return configured.security.container_policy(str(configured.home), str(Path.home()), configured.docker.host)


def make_engine(configured: settings.Settings) -> DockerEngine:
    """The runtime `docker`. Nothing is connected to yet."""
    return DockerEngine(
        configured.docker.host,
        configured.instance_id,
        timeout_s=configured.docker.timeout_s,
        max_pool=_ENGINE_POOL,
        policy=make_policy(configured),
        kept_logs=configured.home / "logs" / "services",
        api_version=configured.docker.api_version,
    )


def make_processes(configured: settings.Settings, environ: Mapping[str, str]) -> HostProcess:
    """The runtime `process`."""
    inherited = {name: environ[name] for name in _INHERITED if name in environ}
    return HostProcess(configured.home, configured.instance_id, inherited)


def make_context(
    configured: settings.Settings, broker: WakingRedisBroker, runtimes: Mapping[str, Runtime], stopping: threading.Event
) -> Context:
    """The parts of one worker process."""
    record = Record(configured.database.url, configured.database.timeout_s, configured.database.pool)
    sender = Sender(broker)
    outbox = Outbox(sender)
    record.deliver = outbox.operation
    worker = worker_identity(identity())
    return Context(
        record=record,
        feed=Feed(configured.redis_url()),
        sender=sender,
        outbox=outbox,
        replies=Replies(configured.redis_url()),
        runtimes=runtimes,
        observer=Observer(runtimes),
        claims=Claims(record, worker, stopping, configured.performance.max_concurrent_operations),
        limits=Limits(parallel_steps=configured.performance.max_parallel_steps),
        stopping=stopping,
        own_ports=frozenset({configured.api.port, configured.websocket.port}),
        conflicts=configured.conflicts,
        policy=make_policy(configured),
        reconcile=configured.reconcile,
        retention_s={
            "events": configured.monitoring.events_retention_s,
            "operations": configured.monitoring.operations_retention_s,
            "metrics": configured.monitoring.metrics_retention_s,
        },
    )


class WorkerProcess:
    """A worker from its start to its end."""

    def __init__(self, configured: settings.Settings, environ: Mapping[str, str]) -> None:
        self._stopping = threading.Event()
        self._asked_to_stop = threading.Event()
        self._broker = make_broker(configured.redis_url())
        self._docker_engine = make_engine(configured)
        runtimes: dict[str, Runtime] = {"docker": self._docker_engine, "process": make_processes(configured, environ)}
        self._context = make_context(configured, self._broker, runtimes, self._stopping)
        self._engine: dict[str, Any] = {}
        self._ask_engine_at = 0.0
        self._threads = configured.operation_threads
        self._presence = Presence(self._context.record, "worker", identity(), self._facts)
        self._workers = self._make_workers()
        self._identity_file = register(configured.home, "worker")

    def _make_workers(self) -> list[dramatiq.Worker]:
        operations.declare(self._broker, self._context)
        ports.declare(self._broker, self._context)
        ticks = collectors.declare(self._broker, self._context, self._queue_is_empty)
        self._watch = EngineWatch(
            self._context.record, self._docker_engine, lambda: ticks.at_once(STATE.name), self._stopping
        )
        logs.declare(self._broker, self._context)
        notifications.declare(self._broker)
        # Readers of logs wait on the engine; a collector or a port check must not wait behind them.
        others = set(QUEUES) - {"operations", "logs"}
        made = []
        for queues, count in (({"operations"}, self._threads), (others, _OTHER_THREADS), ({"logs"}, _LOG_THREADS)):
            worker = dramatiq.Worker(self._broker, queues=queues, worker_threads=count, worker_timeout=250)
            # No hoarding: what this process has no thread for is left to others (pitfalls 1.13).
            worker.queue_prefetch = count
            made.append(worker)
        return made

    def _queue_is_empty(self) -> bool:
        try:
            return int(self._broker.do_qsize("operations")) == 0
        except (redis.RedisError, TypeError):
            return False

    def _facts(self) -> dict[str, Any]:
        return {"docker": self._docker(), "held": self._context.claims.held(), "threads": self._threads}

    def _docker(self) -> dict[str, Any]:
        """What `/health` says of the engine. It is asked seldom: an operation that needs it finds out by itself."""
        if time.monotonic() >= self._ask_engine_at:
            self._ask_engine_at = time.monotonic() + _ENGINE_EVERY_S
            self._engine = self._ask_engine()
        return self._engine

    def _ask_engine(self) -> dict[str, Any]:
        try:
            return {"status": "ok", "detail": None, **self._docker_engine.engine_info()}
        except EngineUnsupported as refusal:
            facts = {"version": refusal.facts.get("engine"), "api_version": refusal.facts.get("api_version")}
            return {"status": "failed", "detail": f"{refusal.message}: {refusal.hint}", **facts}
        except EngineUnreachable as refusal:
            # Where none was ever seen there may be none at all, which is no fault.
            seen = self._engine.get("status", "absent") != "absent"
            return {"status": "failed" if seen else "absent", "detail": refusal.message}

    def run(self) -> int:
        """Work until SIGTERM or SIGINT. The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        self._context.claims.start()
        self._presence.start()
        state.note_boot(self._context)
        watchdog.take_over(self._context, is_alive)
        for worker in self._workers:
            worker.start()
        self._watch.start()
        log.info("worker.started", pid=os.getpid())
        while not self._asked_to_stop.wait(_POLL_S):
            pass
        return self._stop()

    def _ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if self._asked_to_stop.is_set():
            log.warning("worker.stopped_at_once", signal=number)
            os._exit(1)
        self._asked_to_stop.set()

    def _stop(self) -> int:
        """Hand back what is not finished, within its limit. Managed services are left alone."""
        began = time.monotonic()
        self._stopping.set()
        enders = [
            threading.Thread(target=worker.stop, args=(int(_STOP_LIMIT_S * 1000),), daemon=True)
            for worker in self._workers
        ]
        for ender in enders:
            ender.start()
        while any(ender.is_alive() for ender in enders) and time.monotonic() - began < _STOP_LIMIT_S:
            # A consumer that waits for its bell sees only after it that it is to end.
            self._broker.ring_all()
            time.sleep(_RING_EVERY_S)
        held = self._context.claims.held()
        self._watch.close()
        self._presence.close()
        self._context.claims.close()
        self._identity_file.unlink(missing_ok=True)
        log.info("worker.stopped", duration_s=round(time.monotonic() - began, 2), abandoned=held, at=now().isoformat())
        # Threads that still sit in an engine call must not hold the exit up; their claims fall silent and are
        # taken over.
        sys.stdout.flush()
        os._exit(0)


def main() -> int:
    """Start a worker process."""
    try:
        configured = settings.load(os.environ)
    except settings.SettingsError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    log_lines.configure(configured.logging.level, configured.logging.format, "worker")
    # A claim must not wait five milliseconds for a thread that computes (the interpreter's default turn).
    sys.setswitchinterval(_SWITCH_S)
    if not wait_for_redis(configured.redis_url(), _REDIS_LIMIT_S):
        sys.stderr.write(f"Redis does not answer within {_REDIS_LIMIT_S:g} s; `clos doctor` says what to do\n")
        return 1
    return WorkerProcess(configured, os.environ).run()


if __name__ == "__main__":
    sys.exit(main())

"""The queue `logs`: lines for a reader who waits, and lines for those who follow."""

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import cast

import dramatiq
import structlog
from sqlalchemy import select

from bus.messages import FOLLOW_LOGS, READ_LOGS, READ_MANY_LOGS
from domain.errors import ClosError, EngineUnreachable, ServiceNotFound
from domain.events import EventType, Severity
from models.base import now, written
from models.services import Service
from workers.context import Context
from workers.runtimes.protocol import LogLine, Runtime

log = structlog.get_logger()
MAX_FOLLOWERS = 32
_LONGEST_TAIL = 5000
_READERS = 4
# After every time.
_YOUNG = "9"
Shown = dict[str, object]


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""
    followers = Followers(context)

    @dramatiq.actor(actor_name=READ_LOGS, queue_name="logs", broker=broker)
    def read_logs(request_id: str, service_id: str, lines: int, since: str | None, query: str | None) -> None:
        context.replies.answer(request_id, read(context, service_id, lines, since, query))

    @dramatiq.actor(actor_name=READ_MANY_LOGS, queue_name="logs", broker=broker)
    def read_many_logs(
        request_id: str, service_ids: list[str], lines: int, since: str | None, query: str | None
    ) -> None:
        context.replies.answer(request_id, read_many(context, service_ids, lines, since, query))

    @dramatiq.actor(actor_name=FOLLOW_LOGS, queue_name="logs", broker=broker)
    def follow_logs(service_id: str) -> None:
        followers.follow(service_id)


def read(context: Context, service_id: str, lines: int, since: str | None, query: str | None) -> dict[str, object]:
    """The answer to a reader: `{"lines": […]}`, or `{"error": …}`."""
    try:
        runtime = _runtime_of(context, service_id)
        started_at = datetime.fromisoformat(since) if since else None
        found = runtime.logs(service_id, _LONGEST_TAIL if query else min(lines, _LONGEST_TAIL), started_at)
    except ClosError as refusal:
        return {"error": refusal.as_dict()}
    except Exception as defect:  # a reader waits: any answer is better than none
        log.error("logs.broke", service=service_id, exc_info=defect)
        return {"error": {"code": "internal_error", "message": f"{type(defect).__name__}: {defect}"}}
    wanted = [line for line in found if query is None or query in line.text]
    return {"lines": [shown(line) for line in wanted[-lines:]]}


def read_many(
    context: Context, service_ids: Sequence[str], lines: int, since: str | None, query: str | None
) -> dict[str, object]:
    """The last lines of several services together, in the order of their times: `{"lines": […], "failed": {…}}`."""
    found: list[Shown] = []
    failed: dict[str, object] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        answers = pool.map(lambda each: read(context, each, lines, since, query), service_ids)
        for service_id, answer in zip(service_ids, answers, strict=True):
            if "error" in answer:
                failed[service_id] = answer["error"]
            # Stable, so lines of one service keep their order; a line without a time is a young one.
            found += [{"service_id": service_id, **line} for line in cast(list[Shown], answer.get("lines", []))]
            found.sort(key=lambda line: str(line["at"] or _YOUNG))
            del found[:-lines]
    return {"lines": found, "failed": failed}


def keep(context: Context) -> None:
    """Keep what ended instances wrote, and forget what deleted services wrote."""

    def registered() -> set[str]:
        with context.record.read() as session:
            return set(session.scalars(select(Service.id)))

    for runtime in {id(each): each for each in context.runtimes.values()}.values():
        try:
            runtime.keep_logs(registered)
        except EngineUnreachable as away:
            log.debug("logs.not_looked_at", runtime=runtime.kind, error=away.message)


def shown(line: LogLine) -> dict[str, object]:
    """A line as it goes over the wire."""
    return {"text": line.text, "at": written(line.at), "stream": line.stream}


def _runtime_of(context: Context, service_id: str) -> Runtime:
    with context.record.read() as session:
        service = session.get(Service, service_id)
        if service is None or service.runtime not in context.runtimes:
            raise ServiceNotFound(service_id)
        return context.runtimes[service.runtime]


class Followers:
    """One thread per followed service, as long as somebody renews `follow:<service_id>`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._following: set[str] = set()
        self._guard = threading.Lock()
        self._worker = uuid.uuid4().hex

    def follow(self, service_id: str) -> None:
        """Follow a service's logs unless this process does already."""
        with self._guard:
            if service_id in self._following:
                return
            if len(self._following) >= MAX_FOLLOWERS:
                log.warning("logs.too_many_followers", service=service_id, limit=MAX_FOLLOWERS)
                return
            self._following.add(service_id)
        threading.Thread(target=self._run, args=(service_id,), name=f"clos-follow-{service_id}", daemon=True).start()

    def _run(self, service_id: str) -> None:
        try:
            runtime = _runtime_of(self._context, service_id)
            with self._context.record.read() as session:
                service = session.get(Service, service_id)
                group = service.group_name if service else None
            if not self._context.feed.follow_as(service_id, self._worker):
                return  # another worker does
            for line in runtime.follow(service_id, lambda: self._is_over(service_id)):
                if line is not None:
                    self._context.feed.publish(_event(service_id, group, line))
        except ClosError as refusal:
            log.info("logs.follow_ended", service=service_id, reason=refusal.message)
        finally:
            with self._guard:
                self._following.discard(service_id)

    def _is_over(self, service_id: str) -> bool:
        feed = self._context.feed
        over = self._context.stopping.is_set() or not feed.followed(service_id)
        return over or not feed.follow_as(service_id, self._worker)


def _event(service_id: str, group: str | None, line: LogLine) -> dict[str, object]:
    return {
        "id": None,
        "type": EventType.LOG_LINE.value,
        "severity": Severity.INFO.value,
        "actor": None,
        "service_id": service_id,
        "group_name": group,
        "operation_id": None,
        "data": shown(line),
        "timestamp": written(now()),
    }

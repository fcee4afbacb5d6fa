"""The queue `logs`: lines for a reader who waits, and lines for those who follow."""

import threading
import uuid
from datetime import datetime

import dramatiq
import structlog

from bus.messages import FOLLOW_LOGS, READ_LOGS
from domain.errors import ClosError, ServiceNotFound
from domain.events import EventType, Severity
from models.base import now, written
from models.services import Service
from workers.context import Context
from workers.runtimes.protocol import LogLine, Runtime

log = structlog.get_logger()
MAX_FOLLOWERS = 32
_LONGEST_TAIL = 5000


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""
    followers = Followers(context)

    @dramatiq.actor(actor_name=READ_LOGS, queue_name="logs", broker=broker)
    def read_logs(request_id: str, service_id: str, lines: int, since: str | None, query: str | None) -> None:
        context.replies.answer(request_id, read(context, service_id, lines, since, query))

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

"""Live events to one client: its subscriptions, its bounded queue, and rights that are asked for each event."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.auth import Principal
from api.errors import NotAuthenticated
from api.feed import FeedReader
from api.parts import Parts
from api.v2.line import CLOSE_FORBIDDEN, CLOSE_FULL, CLOSE_NOT_LOGGED_IN, CLOSE_TOO_SLOW, Farewell, Line
from api.v2.subscriptions import Wanted, is_kept, may_see, parse, types_of
from domain.errors import ClosError
from domain.events import EventType, permission_for
from models import events, registry_views

_log = structlog.get_logger()
MAX_QUEUED = 1000
MAX_QUEUED_METRICS = 250
MAX_SUBSCRIPTIONS = 50
MESSAGE_BURST, MESSAGES_PER_S = 60.0, 20 / 60
RECHECK_S = 4.0
UNCHECKED_LIMIT_S = 60.0
FOLLOW_EVERY_S = 10.0
_LOOK_S = 1.0
_BATCH = 500
Event = dict[str, Any]


class Client:
    """One socket. `run` is its handler thread; `offer` is called by the reader of the event log."""

    def __init__(self, ws: Any, shared: Parts, renew: Callable[[], Principal]) -> None:
        self.line = Line(ws)
        self._shared = shared
        self._renew = renew
        self._principal = renew()
        self._queue: deque[tuple[Event, str]] = deque()
        self._lock = threading.Lock()
        self._wanted: dict[int, Wanted] = {}
        self._numbers = 0
        self._overflown = False
        self._ended: tuple[int, str] | None = None
        self._budget, self._budget_at = MESSAGE_BURST, time.monotonic()
        self._checked_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._followed_at = 0.0

    # Called by the reader of the log.

    def offer(self, event: Event, frame: str) -> None:
        """Queue an event if it is asked for. Never waits."""
        with self._lock:
            if not any(wanted.matches(event) for wanted in self._wanted.values()):
                return
            if not is_kept(event) and len(self._queue) >= MAX_QUEUED_METRICS:
                return
            if len(self._queue) >= MAX_QUEUED:
                self._queue = deque(entry for entry in self._queue if is_kept(entry[0]))
            if len(self._queue) >= MAX_QUEUED:
                self._overflown = True
            else:
                self._queue.append((event, frame))
        self.line.wake()

    def end(self, code: int, text: str) -> None:
        """Have the socket closed by its own thread."""
        self._ended = (code, text)
        self.line.wake()

    # The handler thread.

    def run(self, reader: FeedReader) -> None:
        """Serve the socket until either side ends it."""
        try:
            if not self._principal.may("events:read"):
                raise Farewell(CLOSE_FORBIDDEN, "events may not be read")
            self._send({"type": "hello", "last_id": reader.position})
            while self.line.open:
                self._check()
                self._say()
                self._hear(reader)
                self.line.wait(_LOOK_S)
                self._say()
        except Farewell as farewell:
            self.line.leave(farewell.code, farewell.text)
        except NotAuthenticated:
            self.line.leave(CLOSE_NOT_LOGGED_IN, "not logged in any more")
        except OSError as gone:
            _log.debug("socket.gone", error=str(gone))
        finally:
            self.line.hang_up()

    def _check(self) -> None:
        if self._ended is not None:
            raise Farewell(*self._ended)
        if self._overflown:
            raise Farewell(CLOSE_TOO_SLOW, "too slow: events were left unsent; subscribe again with after")
        self.line.refuse_flood()
        now = time.monotonic()
        if now - self._looked_at >= RECHECK_S:
            self._looked_at = now
            try:
                self._principal = self._renew()
                self._checked_at = now
            except SQLAlchemyError as away:
                if now - self._checked_at > UNCHECKED_LIMIT_S:
                    raise Farewell(CLOSE_FULL, "the database does not answer") from away
        if now - self._followed_at >= FOLLOW_EVERY_S:
            self._followed_at = now
            self._follow()

    def _follow(self) -> None:
        for wanted in list(self._wanted.values()):
            if wanted.follows_logs and self._principal.may(permission_for(EventType.LOG_LINE)):
                try:
                    for service_id in self._followed(wanted):
                        if self._shared.feed.renew_follow(service_id):
                            self._shared.sender.follow_logs(service_id)
                except (redis.RedisError, OSError, SQLAlchemyError) as away:
                    whose = wanted.service or wanted.group
                    _log.warning("logs.not_followed", whose=whose, error=type(away).__name__)

    def _followed(self, wanted: Wanted) -> list[str]:
        """Whose lines a subscription follows; of a group those that it has now."""
        if wanted.service is not None:
            return [wanted.service]
        with self._shared.record.read() as session:
            return sorted(registry_views.names_of_group(session, str(wanted.group)))

    def _say(self) -> None:
        while self._queue and not self._overflown and self._ended is None:
            with self._lock:
                event, frame = self._queue.popleft()
            self._pass_on(event, frame)

    def _pass_on(self, event: Event, frame: str) -> None:
        if may_see(self._principal, event):
            self.line.write(frame)

    def _hear(self, reader: FeedReader) -> None:
        while self.line.unread:
            raw = self.line.unread.pop(0)
            self._spend()
            try:
                self._answer(parse(raw), reader)
            except ClosError as wrong:
                self._send({"type": "error", "code": wrong.code, "detail": wrong.message})

    def _spend(self) -> None:
        now = time.monotonic()
        self._budget = min(MESSAGE_BURST, self._budget + (now - self._budget_at) * MESSAGES_PER_S) - 1
        self._budget_at = now
        if self._budget < 0:
            raise Farewell(CLOSE_TOO_SLOW, "too many messages")

    def _answer(self, message: dict[str, Any], reader: FeedReader) -> None:
        if message["action"] == "ping":
            self._send({"type": "pong"})
        elif message["action"] == "unsubscribe":
            with self._lock:
                known = self._wanted.pop(message["id"], None)
            if known is None:
                self._send({"type": "error", "code": "subscription_not_found", "detail": "there is no such one"})
            else:
                self._send({"type": "unsubscribed", "id": message["id"]})
        else:
            self._subscribe(message, reader)

    def _subscribe(self, message: dict[str, Any], reader: FeedReader) -> None:
        if len(self._wanted) >= MAX_SUBSCRIPTIONS:
            self._send({"type": "error", "code": "too_many_subscriptions", "detail": f"at most {MAX_SUBSCRIPTIONS}"})
            return
        types = types_of(message["events"], message["service"] or message["group"])
        if not any(self._principal.may(permission_for(each)) for each in types):
            self._send({"type": "error", "code": "forbidden", "detail": "none of these events may be read"})
            return
        after = message["after"]
        gap = after is not None and self._is_gone(after)
        # Nothing is handed out meanwhile: what is behind `position` comes live, the rest from the log, each once.
        with reader.paused() as position:
            others = list(self._wanted.values())
            self._numbers += 1
            behind = position if after is None or gap else after
            wanted = Wanted(self._numbers, types, message["group"], message["service"], message["operation"], behind)
            with self._lock:
                # What comes from now on is kept until the replay is through, so that none of it overtakes that.
                earlier, self._queue = self._queue, deque()
                self._wanted[wanted.id] = wanted
        for event, frame in earlier:
            self._pass_on(event, frame)
        self._send({"type": "subscribed", "id": wanted.id, "last_id": position})
        if gap:
            self._send({"type": "resync"})
        self._replay(wanted, others, position)
        if wanted.follows_logs:
            self._follow()

    def _is_gone(self, after: int) -> bool:
        """Whether what came behind `after` is no longer kept, or `after` is of another log."""
        with self._shared.record.read() as session:
            return after > events.last_id(session) or after < events.first_id(session) - 1

    def _replay(self, wanted: Wanted, others: list[Wanted], until: int) -> None:
        after = wanted.behind
        while after < until:
            with self._shared.record.read() as session:
                batch = [row.as_dict() for row in events.after(session, after, _BATCH)]
            for event in batch:
                if event["id"] > until:
                    return
                seen = any(other.matches(event) for other in others)
                if wanted.matches(event) and not seen and may_see(self._principal, event):
                    self._send(event)
            if len(batch) < _BATCH:
                return
            after = batch[-1]["id"]
            self._check()

    def _send(self, message: dict[str, Any]) -> None:
        self.line.write(json.dumps(message, separators=(",", ":")))

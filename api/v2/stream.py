"""Live events to sockets. Each socket has one writer, its own bounded queue, and rights that are asked for each event.

simple-websocket is not made for two threads that write (wsproto#186) and its reader answers pings by itself, so both
sides of a socket write under one lock. A socket whose client does not read is given up before a frame would be stuck
half-way in it (pitfalls 3.3).
"""

import contextlib
import json
import select
import socket
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
from api.v2.subscriptions import Wanted, is_kept, may_see, parse, types_of
from domain.errors import ClosError
from domain.events import EventType, permission_for
from models import events, registry_views

_log = structlog.get_logger()
CLOSE_TOO_LARGE, CLOSE_RESTART, CLOSE_FULL = 1009, 1012, 1013
CLOSE_NOT_LOGGED_IN, CLOSE_FORBIDDEN, CLOSE_TOO_SLOW = 4401, 4403, 4429
MAX_MESSAGE_BYTES = 64 * 1024
MAX_QUEUED = 1000
MAX_QUEUED_METRICS = 250
MAX_SUBSCRIPTIONS = 50
MESSAGE_BURST, MESSAGES_PER_S = 60.0, 20 / 60
STUCK_AFTER_S = 3.0
RECHECK_S = 4.0
UNCHECKED_LIMIT_S = 60.0
FOLLOW_EVERY_S = 10.0
_LOOK_S = 1.0
_MAX_UNREAD = 64
_POLITE_S = 0.3
_BATCH = 500
Event = dict[str, Any]


class Farewell(Exception):
    """The socket is to be closed with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Unread(list[Any]):
    """simple-websocket's input list, which by itself has no bound (pitfalls 3.5)."""

    overflown = False
    too_large = False

    def append(self, message: Any) -> None:
        if len(message) > MAX_MESSAGE_BYTES:
            self.too_large = True
        elif len(self) >= _MAX_UNREAD:
            self.overflown = True
        else:
            super().append(message)


class Client:
    """One socket. `run` is its handler thread; `offer` is called by the reader of the event log."""

    def __init__(self, ws: Any, shared: Parts, renew: Callable[[], Principal]) -> None:
        self.ws = ws
        self.sending_since: float | None = None
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
        self._unread = ws.input_buffer = _Unread(ws.input_buffer)
        self._writing = threading.RLock()
        read = ws._handle_events

        def read_in_turn() -> bool:
            with self._writing:
                going = bool(read())
            if ws.incoming_message_len > MAX_MESSAGE_BYTES:
                # Its own limit would close at once, and the client would see a reset instead of the code.
                ws.incoming_message, ws.incoming_message_len = None, 0
                self._unread.too_large = True
                ws.event.set()
            return going

        ws._handle_events = read_in_turn

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
        self.ws.event.set()

    def end(self, code: int, text: str) -> None:
        """Have the socket closed by its own thread."""
        self._ended = (code, text)
        self.ws.event.set()

    # The handler thread.

    def run(self, reader: FeedReader) -> None:
        """Serve the socket until either side ends it."""
        try:
            if not self._principal.may("events:read"):
                raise Farewell(CLOSE_FORBIDDEN, "events may not be read")
            self._send({"type": "hello", "last_id": reader.position})
            while self.ws.connected and self.ws.thread.is_alive():
                self._check()
                self._say()
                self._hear(reader)
                self.ws.event.wait(_LOOK_S)
                self.ws.event.clear()
                self._say()
        except Farewell as farewell:
            self._leave(farewell.code, farewell.text)
        except NotAuthenticated:
            self._leave(CLOSE_NOT_LOGGED_IN, "not logged in any more")
        except OSError as gone:
            _log.debug("socket.gone", error=str(gone))
        finally:
            self._hang_up()

    def _check(self) -> None:
        if self._ended is not None:
            raise Farewell(*self._ended)
        if self._overflown:
            raise Farewell(CLOSE_TOO_SLOW, "too slow: events were left unsent; subscribe again with after")
        if self._unread.too_large:
            raise Farewell(CLOSE_TOO_LARGE, f"a message may have {MAX_MESSAGE_BYTES} bytes")
        if self._unread.overflown:
            raise Farewell(CLOSE_TOO_SLOW, "too many messages")
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
            self._write(frame)

    def _hear(self, reader: FeedReader) -> None:
        while self._unread:
            raw = self._unread.pop(0)
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
        self._write(json.dumps(message, separators=(",", ":")))

    def _write(self, frame: str) -> None:
        if not self.ws.connected:
            raise OSError("the client has gone")
        if not _has_room(self.ws.sock, STUCK_AFTER_S):
            raise Farewell(CLOSE_TOO_SLOW, "too slow: nothing was read; subscribe again with after")
        self.sending_since = time.monotonic()
        try:
            with self._writing:
                self.ws.send(frame)
        finally:
            self.sending_since = None

    def _leave(self, code: int, text: str) -> None:
        # A few bytes may have room even where a frame has not; they must not be waited for.
        with contextlib.suppress(Exception):
            if not self._writing.acquire(timeout=0.5):
                return
            try:
                if _has_room(self.ws.sock, 0):
                    self.ws.close(code, text)
                else:
                    from wsproto.events import CloseConnection

                    self.ws.sock.send(self.ws.ws.send(CloseConnection(code, text)), socket.MSG_DONTWAIT)
            finally:
                self._writing.release()
            # A polite client answers; only then can the connection end without losing what it has not read.
            self.ws.thread.join(_POLITE_S)

    def _hang_up(self) -> None:
        self.ws.connected = False
        with contextlib.suppress(OSError):
            self.ws.sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Free a handler that is stuck in a send."""
        with contextlib.suppress(OSError):
            self.ws.sock.shutdown(socket.SHUT_RDWR)


def _has_room(sock: socket.socket, timeout_s: float) -> bool:
    poll = select.poll()
    try:
        poll.register(sock, select.POLLOUT)
    except ValueError as closed:
        raise OSError("the client has gone") from closed
    return bool(poll.poll(timeout_s * 1000))


class Hub:
    """Every socket of this process."""

    def __init__(self, shared: Parts, max_clients: int) -> None:
        self._shared = shared
        self._slots = threading.BoundedSemaphore(max_clients)
        self._clients: set[Client] = set()
        self._lock = threading.Lock()
        # Held by who comes and who leaves; never by the reader of the log, which asks for `_lock`.
        self._door = threading.Lock()
        self._listening: int | None = None
        self._closing = threading.Event()

    def start(self) -> None:
        """Be ready for the first socket, and watch over all."""
        self._shared.reader.start()
        threading.Thread(target=self._watch, name="clos-stuck-sockets", daemon=True).start()

    def serve(self, ws: Any, renew: Callable[[], Principal]) -> None:
        """Serve one socket on the calling thread.

        Raises:
            Farewell: there is no room, or CLOS is about to end.
            NotAuthenticated: nobody known.
        """
        if self._closing.is_set():
            raise Farewell(CLOSE_RESTART, "CLOS restarts")
        if not self._slots.acquire(blocking=False):
            raise Farewell(CLOSE_FULL, "no room for another client")
        try:
            client = Client(ws, self._shared, renew)
            try:
                self._come(client)
                if self._closing.is_set():
                    client.end(CLOSE_RESTART, "CLOS restarts")
                client.run(self._shared.reader)
            finally:
                self._go(client)
        finally:
            self._slots.release()

    def _come(self, client: Client) -> None:
        with self._door:
            with self._lock:
                self._clients.add(client)
            if self._listening is None:
                self._listening, _ = self._shared.reader.listen(self._offer)

    def _go(self, client: Client) -> None:
        """The last one out ends the listening: nothing is read that nobody gets."""
        with self._door:
            with self._lock:
                self._clients.discard(client)
                empty = not self._clients
            if empty and self._listening is not None:
                self._shared.reader.leave(self._listening)
                self._listening = None

    def close(self) -> None:
        """Close every socket with 1012."""
        self._closing.set()
        for client in self.clients():
            client.end(CLOSE_RESTART, "CLOS restarts")

    def clients(self) -> list[Client]:
        """Those that are connected now."""
        with self._lock:
            return list(self._clients)

    def _offer(self, event: Event) -> None:
        frame = json.dumps(event, separators=(",", ":"))
        for client in self.clients():
            client.offer(event, frame)

    def _watch(self) -> None:
        while not self._closing.wait(1.0):
            now = time.monotonic()
            for client in self.clients():
                since = client.sending_since
                if since is not None and now - since > STUCK_AFTER_S:
                    _log.warning("socket.stuck")
                    client.cut()

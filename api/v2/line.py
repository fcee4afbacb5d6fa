"""One WebSocket's line: it is read and written in turn, what comes in has a bound, and its end is never waited for.

simple-websocket is not made for two threads that write (wsproto#186) and its reader answers pings by itself, so both
sides of a socket write under one lock. A socket whose client does not read is given up before a frame would be stuck
half-way in it (pitfalls 3.3).
"""

import contextlib
import select
import socket
import threading
import time
from typing import Any

CLOSE_TOO_LARGE, CLOSE_RESTART, CLOSE_FULL = 1009, 1012, 1013
CLOSE_NOT_LOGGED_IN, CLOSE_FORBIDDEN, CLOSE_TOO_SLOW = 4401, 4403, 4429
MAX_MESSAGE_BYTES = 64 * 1024
STUCK_AFTER_S = 3.0
_MAX_UNREAD = 64
_POLITE_S = 0.3


class Farewell(Exception):
    """The socket is to be closed with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Unread(list[Any]):
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


class Line:
    """A socket: its handler thread writes, simple-websocket's own reads, and whoever sees it stuck cuts it."""

    def __init__(self, ws: Any) -> None:
        self._ws = ws
        self.sending_since: float | None = None
        self.unread = ws.input_buffer = Unread(ws.input_buffer)
        self._writing = threading.RLock()
        read = ws._handle_events

        def read_in_turn() -> bool:
            with self._writing:
                going = bool(read())
            if ws.incoming_message_len > MAX_MESSAGE_BYTES:
                # Its own limit would close at once, and the client would see a reset instead of the code.
                ws.incoming_message, ws.incoming_message_len = None, 0
                self.unread.too_large = True
                ws.event.set()
            return going

        ws._handle_events = read_in_turn

    @property
    def open(self) -> bool:
        """Whether the client is there and is read."""
        return bool(self._ws.connected and self._ws.thread.is_alive())

    def wake(self) -> None:
        """Let `wait` return: there is something to do."""
        self._ws.event.set()

    def wait(self, limit_s: float) -> None:
        """Until the client or somebody else has something to do here."""
        self._ws.event.wait(limit_s)
        self._ws.event.clear()

    def refuse_flood(self) -> None:
        """Raises: Farewell: the client sends more, or larger messages, than are taken."""
        if self.unread.too_large:
            raise Farewell(CLOSE_TOO_LARGE, f"a message may have {MAX_MESSAGE_BYTES} bytes")
        if self.unread.overflown:
            raise Farewell(CLOSE_TOO_SLOW, "too many messages")

    def write(self, frame: str) -> None:
        """Send one text frame.

        Raises:
            OSError: the client has gone.
            Farewell: it has not read for too long.
        """
        if not self._ws.connected:
            raise OSError("the client has gone")
        if not has_room(self._ws.sock, STUCK_AFTER_S):
            raise Farewell(CLOSE_TOO_SLOW, "too slow: nothing was read; subscribe again with after")
        self.sending_since = time.monotonic()
        try:
            with self._writing:
                self._ws.send(frame)
        finally:
            self.sending_since = None

    def leave(self, code: int, text: str) -> None:
        """Close it with this code, as far as that can be done without waiting."""
        # A few bytes may have room even where a frame has not; they must not be waited for.
        with contextlib.suppress(Exception):
            if not self._writing.acquire(timeout=0.5):
                return
            try:
                if has_room(self._ws.sock, 0):
                    self._ws.close(code, text)
                else:
                    from wsproto.events import CloseConnection

                    self._ws.sock.send(self._ws.ws.send(CloseConnection(code, text)), socket.MSG_DONTWAIT)
            finally:
                self._writing.release()
            # A polite client answers; only then can the connection end without losing what it has not read.
            self._ws.thread.join(_POLITE_S)

    def hang_up(self) -> None:
        """End the connection."""
        self._ws.connected = False
        self.cut()

    def cut(self) -> None:
        """Free a handler that is stuck in a send."""
        with contextlib.suppress(OSError):
            self._ws.sock.shutdown(socket.SHUT_RDWR)


def has_room(sock: socket.socket, timeout_s: float) -> bool:
    """Whether something can be written within that time. Raises: OSError: it is closed."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLOUT)
    except ValueError as closed:
        raise OSError("the client has gone") from closed
    return bool(poll.poll(timeout_s * 1000))

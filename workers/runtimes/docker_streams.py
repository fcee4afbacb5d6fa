"""What the engine streams: its frames of stdout and stderr, read with a limit, as lines of log."""

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime

import requests
from docker.types import CancellableStream

from workers.runtimes.docker_errors import BROKEN
from workers.runtimes.docker_observation import parse_time
from workers.runtimes.log_text import plain
from workers.runtimes.protocol import LogLine

MAX_LINES = 5000
MAX_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024
_HEADER_BYTES = 8
_STREAMS = {1: "stdout", 2: "stderr"}
_STAMP = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?")

Frame = tuple[str, bytes]


class FrameReader:
    """Reads a stream in a thread of its own, since a read of the engine's can last for ever.

    `next(timeout_s)` gives a frame, None where none came in time; `ended` is true after the last one, however
    the stream ended. The queue is bounded: an engine that is quicker than its reader waits. `terminal`: the container
    has one, so the stream is what stands on it, without frames, and a frame is a line of it. `read` reads a stream of
    another form: the next frame, None after the last one.
    """

    def __init__(
        self, response: requests.Response, terminal: bool = False, read: Callable[[], Frame | None] | None = None
    ) -> None:
        framed = _Terminal(response).read if terminal else lambda: _read_frame(response)
        self._read_frame = read or framed
        self._frames: queue.Queue[Frame | None] = queue.Queue(maxsize=256)
        self._closed = threading.Event()
        self.ended = False
        self._stream = CancellableStream(iter(()), response)
        self._response = response
        self._thread = threading.Thread(target=self._read, name="docker-stream", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> Frame | None:
        """The next frame, or None."""
        if self.ended:
            return None
        try:
            frame = self._frames.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None
        self.ended = frame is None
        return frame

    def close(self) -> None:
        """Let go of the connection; the thread ends with it."""
        self._closed.set()
        try:
            self._stream.close()  # shuts the socket down: that ends a read under way
        except (*BROKEN, AttributeError):
            self._response.close()
        self._thread.join(timeout=1.0)

    def _read(self) -> None:
        try:
            while not self._closed.is_set():
                frame = self._read_frame()
                if frame is None or not self._put(frame):
                    break
        except (*BROKEN, ValueError, AttributeError):
            pass  # closed by us, or by an engine that went away: the stream is at its end either way
        finally:
            self._put(None)

    def _put(self, frame: Frame | None) -> bool:
        while not self._closed.is_set():
            try:
                self._frames.put(frame, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False


class _Terminal:
    """Reads what stands on a container's terminal. A time may be cut anywhere, so only whole lines are given."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._rest = b""

    def read(self) -> Frame | None:
        """The next line, or what is left at the end; None after it."""
        while b"\n" not in self._rest and len(self._rest) < _MAX_LINE_BYTES:
            piece = self._response.raw.read1(_MAX_LINE_BYTES)
            if not piece:
                line, self._rest = self._rest, b""
                return ("stdout", line) if line else None
            self._rest += piece
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        line, self._rest = self._rest[:end], self._rest[end:]
        return "stdout", line


def _read_frame(response: requests.Response) -> Frame | None:
    header = response.raw.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return None
    size = int.from_bytes(header[4:], "big")
    kept = response.raw.read(min(size, _MAX_LINE_BYTES))
    left = size - len(kept)
    while left > 0:
        skipped = response.raw.read(min(left, _MAX_LINE_BYTES))
        if not skipped:
            return None
        left -= len(skipped)
    return _STREAMS.get(header[0], "stdout"), kept


class LineAssembler:
    """Frames to lines. The engine cuts lines over 16 KiB and puts a time before each piece."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}
        self._at: dict[str, datetime | None] = {}

    def feed(self, frame: Frame) -> Iterator[LogLine]:
        """The lines that this frame completes."""
        stream, data = frame
        for piece in data.splitlines(keepends=True):
            stamp = _STAMP.match(piece)
            body = piece[stamp.end() :] if stamp else piece
            if stream not in self._parts:
                self._parts[stream] = b""
                self._at[stream] = parse_time(stamp[1].decode()) if stamp else None
            room = _MAX_LINE_BYTES - len(self._parts[stream])
            self._parts[stream] += body[: max(room, 0)]
            if piece.endswith(b"\n"):
                yield self._end(stream)

    def rest(self) -> Iterator[LogLine]:
        """What is left without an end of line."""
        for stream in list(self._parts):
            yield self._end(stream)

    def _end(self, stream: str) -> LogLine:
        return LogLine(plain(self._parts.pop(stream)), self._at.pop(stream), stream)


def read_lines(response: requests.Response, tail: int, limit_s: float, terminal: bool = False) -> list[LogLine]:
    """The last `tail` lines of a stream that ends, at most 1 MiB of them, within `limit_s`."""
    reader = FrameReader(response, terminal)
    assembler = LineAssembler()
    lines: deque[LogLine] = deque(maxlen=tail)
    deadline = time.monotonic() + limit_s
    try:
        while not reader.ended and time.monotonic() < deadline:
            if frame := reader.next(deadline - time.monotonic()):
                lines.extend(assembler.feed(frame))
    finally:
        reader.close()
    lines.extend(assembler.rest())
    # stdout and stderr arrive in no order between them.
    kept = sorted(lines, key=lambda line: line.at.timestamp() if line.at else 0.0)
    return _bounded(kept)


def _bounded(lines: list[LogLine]) -> list[LogLine]:
    left = MAX_BYTES
    for index in range(len(lines) - 1, -1, -1):
        left -= len(lines[index].text.encode(errors="replace"))
        if left < 0:
            return lines[index + 1 :]
    return lines

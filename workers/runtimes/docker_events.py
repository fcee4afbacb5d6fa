"""What the engine tells of our containers as it happens: who was killed by whom, and that it is time to look.

The stream ends normally when the engine goes away (pitfalls 5.11). What it told is a hint about a death; that there
was one is for a look to say.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from domain.observation import Instance, Phase
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_errors import translated
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_streams import Frame, FrameReader

_ACTIONS = ("kill", "die", "oom", "start", "destroy", "pause", "unpause")
_IDLE_S = 300.0
_POLL_S = 0.1
_KEPT = 2048
# The engine itself keeps its last 256 events.
_FIRST_BACK = timedelta(hours=1)
# HUP and USR are how programs are told to read their configuration again; the rest is how they are told to end.
_ENDING_SIGNALS = frozenset({"2", "3", "6", "9", "15", "28", "37"})
# Between the signal and the end: the longest grace that anybody gives.
_GRACE = timedelta(seconds=120)
# A look may be quicker than the stream: so long it waits for what the stream says of a death just seen.
_STREAM_LIMIT_S = 0.5
_JUST_NOW = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the engine told of one container. Times are the engine's."""

    killed_at: datetime | None = None
    died_at: datetime | None = None
    by_hand: bool = False


class Deaths:
    """What is remembered of containers' last deaths. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self._changed = threading.Condition()
        self.listening = False

    def note(self, event: Mapping[str, Any]) -> None:
        """Keep what an event says."""
        actor = event.get("Actor") or {}
        ref, action = str(actor.get("ID") or ""), str(event.get("Action") or "")
        at = datetime.fromtimestamp(int(event.get("timeNano") or 0) / 1e9, UTC)
        with self._changed:
            told = self._told.pop(ref, _Told())
            if action == "kill" and (actor.get("Attributes") or {}).get("signal") in _ENDING_SIGNALS:
                told = replace(told, killed_at=at)
            elif action == "die":
                killed = told.killed_at is not None and at - told.killed_at <= _GRACE
                told = _Told(died_at=at, by_hand=killed)
            elif action == "start":
                told = _Told()
            self._told[ref] = told
            while len(self._told) > _KEPT:
                self._told.popitem(last=False)
            self._changed.notify_all()

    def judged(self, instances: Mapping[str, Instance]) -> dict[str, Instance]:
        """The same instances, those that were stopped or killed through the engine marked `by_hand`."""
        fresh = {
            each.ref
            for each in instances.values()
            if each.phase is Phase.EXITED and each.ref and each.ended_at and _is_recent(each.ended_at)
        }
        if fresh and self.listening:
            self._wait_for(fresh)
        with self._changed:
            hit = {ref for ref, told in self._told.items() if told.by_hand}
        return {
            key: replace(each, by_hand=True) if each.phase is Phase.EXITED and each.ref in hit else each
            for key, each in instances.items()
        }

    def _wait_for(self, refs: Collection[str]) -> None:
        def all_told() -> bool:
            return not self.listening or all(self._told.get(ref, _Told()).died_at for ref in refs)

        with self._changed:
            self._changed.wait_for(all_told, _STREAM_LIMIT_S)


def _is_recent(at: datetime) -> bool:
    return abs(datetime.now(UTC) - at) < _JUST_NOW


class Events:
    """The engine's stream about our containers."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks
        self._since: float | None = None
        self.deaths = Deaths()

    def changes(self, stop: Callable[[], bool]) -> Iterator[str | None]:
        """Ids of services to whose containers something happened; None where nothing did for a moment, and first.

        Ends when the engine does, or with `stop()`. Begins where the last one ended.

        Raises:
            EngineUnreachable: it does not answer.
        """
        with translated("listen to Docker's events", base_url=self._client.base_url, looking=True):
            response = self._open()
        events = _lines(response)
        reader = FrameReader(response, read=lambda: next(events, None))
        self.deaths.listening = True
        try:
            yield None
            while not reader.ended and not stop():
                frame = reader.next(_POLL_S)
                yield self._take(frame[1]) if frame is not None else None
        finally:
            self.deaths.listening = False
            reader.close()

    def _open(self) -> requests.Response:
        since = self._since or (datetime.now(UTC) - _FIRST_BACK).timestamp()
        filters = self._marks.filters() | {"type": ["container"], "event": list(_ACTIONS)}
        params = {"since": f"{since:.9f}", "filters": json.dumps(filters)}
        return self._client.request("GET", "/events", params=params, idle_s=_IDLE_S, stream=True)

    def _take(self, line: bytes) -> str | None:
        try:
            event = json.loads(line)
        except ValueError:
            return None
        if not isinstance(event, dict):
            return None
        self._since = int(event.get("timeNano") or time.time_ns()) / 1e9 + 1e-6
        self.deaths.note(event)
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        # A kill alone changes nothing that a look would see.
        return attributes.get(self._marks.label("service")) if event.get("Action") != "kill" else None


def _lines(response: requests.Response) -> Iterator[Frame]:
    """A stream of one JSON object per line."""
    rest = b""
    for piece in response.iter_content(None):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (("event", line) for line in whole if line.strip())
        if len(rest) > 1024 * 1024:
            raise ValueError("an event of more than 1 MiB")

"""Which ports of this host the engine's containers publish, ours and others', running or stopped.

A container's HostConfig never changes, so what an inspect told of a stopped one is kept by its id.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from domain.errors import EngineUnreachable
from domain.observation import Binding
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_observation import Summary

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what the engine makes of no address
_UP = ("running", "paused")
# Networks in which nothing is published.
_UNPUBLISHED = ("host", "none", "container:")
_AT_ONCE = 4
# (host_ip, port, protocol)
Place = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Container:
    """Whose a container is."""

    name: str
    running: bool
    own: bool = False
    service_id: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What was seen of all containers: the ports that they publish, and who they are, by id."""

    bindings: tuple[Binding, ...] = ()
    containers: Mapping[str, Container] = field(default_factory=dict)


class Bindings:
    """Looks at all containers. `inspect` gives None for one that is gone."""

    def __init__(self, marks: Marks, inspect: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._marks = marks
        self._inspect = inspect
        self._kept: dict[str, tuple[Place, ...]] = {}

    def of(self, summaries: Iterable[Summary]) -> Published:
        """What these containers (all that there are) publish, or would publish."""
        listed = list(summaries)
        containers = {each["Id"]: self._whose(each) for each in listed}
        stopped = [each for each in listed if not containers[each["Id"]].running and _may_publish(each)]
        self._remember([each["Id"] for each in stopped])
        found = []
        for each in listed:
            who = containers[each["Id"]]
            places = _published(each) if who.running else self._kept.get(each["Id"], ())
            found += [
                Binding(*place, each["Id"], who.name, who.running, who.own, who.service_id)
                for place in dict.fromkeys(places)
            ]
        self._kept = {ref: places for ref, places in self._kept.items() if ref in containers}
        return Published(tuple(found), containers)

    def _whose(self, summary: Summary) -> Container:
        labels = summary.get("Labels") or {}
        own = self._marks.ours(labels)
        name = next(iter(summary.get("Names") or ()), "").lstrip("/") or summary["Id"][:12]
        service_id = labels.get(self._marks.label("service")) if own else None
        return Container(name, summary.get("State") in _UP, own, service_id)

    def _remember(self, refs: list[str]) -> None:
        new = [ref for ref in refs if ref not in self._kept]
        if not new:
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(new))) as pool:
            for ref, inspected in zip(new, pool.map(self._inspect, new), strict=True):
                if inspected is not None:
                    self._kept[ref] = tuple(_configured(inspected))


def _may_publish(summary: Summary) -> bool:
    mode = str((summary.get("HostConfig") or {}).get("NetworkMode") or "")
    return not mode.startswith(_UNPUBLISHED)


def _published(summary: Summary) -> Iterator[Place]:
    """What a running container has: the engine names every single port."""
    for each in summary.get("Ports") or ():
        if each.get("PublicPort"):
            yield (str(each.get("IP") or _EVERYWHERE[0]), int(each["PublicPort"]), str(each.get("Type") or "tcp"))


def _configured(inspected: Mapping[str, Any]) -> Iterator[Place]:
    """What a stopped container will ask for. One that takes any free port asks for none."""
    asked = (inspected.get("HostConfig") or {}).get("PortBindings") or {}
    for inside, places in asked.items():
        protocol = str(inside).partition("/")[2] or "tcp"
        for place in places or ():
            for port in _expanded(str(place.get("HostPort") or "")):
                for host_ip in [place["HostIp"]] if place.get("HostIp") else _EVERYWHERE:
                    yield (str(host_ip), port, protocol)


def _expanded(text: str) -> Iterable[int]:
    """`8000-8002` as its ports; nothing where the engine is to choose."""
    low, _, high = text.partition("-")
    try:
        first, last = int(low or 0), int(high or low or 0)
    except ValueError:
        return ()
    return range(first, last + 1) if 0 < first <= last <= 65_535 else ()


class Bounded:
    """One call at a time that may hang, and callers who wait for it only so long."""

    def __init__(self, call: Callable[[], Published]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._running: _Call | None = None

    def within(self, limit_s: float) -> Published:
        """What the call gives.

        Raises:
            EngineUnreachable: it did not answer within `limit_s` (it goes on, and the next caller finds it at that),
                or said so itself.
        """
        with self._lock:
            if self._running is None or self._running.done.is_set():
                self._running = _Call(self._call)
            running = self._running
        if not running.done.wait(limit_s):
            raise EngineUnreachable(
                f"Docker's engine does not answer within {limit_s:g} s", hint="it hangs, or is overloaded: see its log"
            )
        return running.result()


class _Call:
    def __init__(self, call: Callable[[], Published]) -> None:
        self.done = threading.Event()
        self._found: Published | BaseException = Published()
        threading.Thread(target=self._run, args=(call,), name="containers", daemon=True).start()

    def _run(self, call: Callable[[], Published]) -> None:
        try:
            self._found = call()
        except BaseException as refusal:
            self._found = refusal
        finally:
            self.done.set()

    def result(self) -> Published:
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found

"""Workers that may die, freeze, or be interrupted at any boundary: around each call of a runtime and each transaction.

A dead worker does what a killed process does: nothing. From the moment of its death every write, read and call of it
raises `Crash`, so it neither finishes nor tidies up. A frozen one stands still outside of any transaction, as a
suspended laptop's does, and goes on when it is thawed, long after others have taken over.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from models import base
from models.record import Record
from workers.runtimes.in_memory import InMemory

EFFECTS = ("prepare", "create", "start", "stop", "remove", "replace", "restore", "settle")
_LIMIT_S = 60.0


class Crash(BaseException):
    """This worker's process is gone. No CLOS code may catch it."""


class Clock:
    """The record's and the machine's time: the real one and what the test lets pass."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)


@contextmanager
def injected(clock: Clock) -> Iterator[None]:
    """Every module that asks the record's clock asks this one."""
    real = base.now
    asking = [module for module in list(sys.modules.values()) if getattr(module, "now", None) is real]
    for module in asking:
        module.now = clock.now  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in asking:
            module.now = real  # type: ignore[attr-defined]


class Life:
    """What is to befall a worker, by the number of the boundary that it comes to."""

    def __init__(self) -> None:
        self.dead = False
        self.frozen = threading.Event()
        self._thawed = threading.Event()
        self._thawed.set()
        self._passed = 0
        self._fate: dict[int, Callable[[], None]] = {}
        self._guard = threading.Lock()
        # Calls to the machine that are under way and do not stand still.
        self.inside = 0
        self._mine = threading.local()
        self._freezes_before_a_call = False

    def arm(self, fate: Mapping[int, Callable[[], None]]) -> None:
        """From now on: at the n-th boundary this happens."""
        with self._guard:
            self._passed, self._fate, self._freezes_before_a_call = 0, dict(fate), False

    def die(self) -> None:
        self.dead = True

    def freeze(self) -> None:
        self._thawed.clear()
        self.frozen.set()

    def freeze_before_a_call(self) -> None:
        self._freezes_before_a_call = True

    def thaw(self) -> None:
        self.frozen.clear()
        self._thawed.set()

    def check(self) -> None:
        if self.dead:
            raise Crash

    def boundary(self, in_transaction: bool = False) -> None:
        """Here something may befall the worker; inside a transaction only its death."""
        self.check()
        with self._guard:
            self._passed += 1
            due = [number for number in self._fate if number <= self._passed]
            fates = [self._fate.pop(number) for number in due if not in_transaction or self._fate[number] == self.die]
        for fate in fates:
            fate()
        if not in_transaction:
            self._stand_still()
        self.check()

    def _stand_still(self) -> None:
        """While frozen; also in the middle of a call that tells its progress."""
        mine = getattr(self._mine, "calls", 0)
        self._count(-mine)
        assert self._thawed.wait(_LIMIT_S), "a frozen worker was forgotten"
        self._count(mine)

    def _count(self, more: int) -> None:
        with self._guard:
            self.inside += more

    @contextmanager
    def doing(self) -> Iterator[None]:
        """A call to the machine: it can be begun or done when the worker's end comes, never half."""
        if self._freezes_before_a_call:
            self._freezes_before_a_call = False
            self.freeze()
        self.boundary()
        self._mine.calls = 1
        self._count(1)
        try:
            yield
        finally:
            self._mine.calls = 0
            self._count(-1)
        self.boundary()


class MortalRecord:
    """A worker's connection to the record."""

    def __init__(self, record: Record, life: Life) -> None:
        self._record = record
        self._life = life

    @contextmanager
    def read(self) -> Iterator[Any]:
        self._life.check()
        with self._record.read() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Any]:
        self._life.boundary()
        with self._record.write() as session:
            yield session
            self._life.boundary(in_transaction=True)
        self._life.boundary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._record, name)


class MortalRuntime:
    """A worker's hands: what they do is told to `seen` as (call, spec, what it gave, what was there before, who)."""

    kind = "memory"

    def __init__(
        self, memory: InMemory, life: Life, worker: int, reachable: Callable[[], None], seen: Callable[..., None],
        probed: Callable[[str, bool], bool],
    ) -> None:  # fmt: skip
        self._memory = memory
        self._life = life
        self._worker = worker
        self._reachable = reachable
        self._seen = seen
        self._probed = probed

    def observe(self) -> Any:
        self._life.check()
        self._reachable()
        return self._memory.observe()

    def simulated_health(self, service_id: str) -> bool:
        self._life.check()
        return self._probed(service_id, self._memory.simulated_health(service_id))

    def __getattr__(self, name: str) -> Any:
        known = getattr(self._memory, name)
        if name not in EFFECTS:
            return known

        def call(spec: Any, *words: Any, **more: Any) -> Any:
            with self._life.doing():
                self._reachable()
                before = self._memory.observe().get(spec.id)
                made = known(spec, *words, **more)
                self._seen(name, spec, made, before, self._worker)
            return made

        return call

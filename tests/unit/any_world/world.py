"""A whole CLOS in memory: a record, two machines, workers that die, and people who want something of them."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from models.record import Record
from tests.unit.any_world.crew import Crew, Worker
from tests.unit.any_world.machine import Machine
from tests.unit.any_world.mortal import Clock
from tests.unit.any_world.people import People
from tests.unit.worker_kit import Kit

_ROUNDS = 60
_IN_VAIN = 9
_memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


@functools.cache
def _folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="clos-worlds-", dir=_memory))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def _record() -> Record:
    """One for all worlds of a process: SQLAlchemy compiles each statement once per engine, which takes longer than to
    carry it out. Every world has a new file under its name."""
    return Record(f"sqlite:///{_folder() / 'registry.db'}", timeout_s=5.0)


class World:
    """One installation from its first start to its end."""

    def __init__(self, parallel: int) -> None:
        record = _record()
        record.close()
        for left in _folder().iterdir():
            left.unlink()
        self.clock = Clock()
        self.kit = Kit(_folder(), parallel=parallel, record=record)
        self.machine = Machine(self.clock, record)
        self.people = People(self.kit, self.machine)
        self.crew = Crew(self.kit, self.machine, self.clock)

    def close(self) -> None:
        self.crew.close()
        self.kit.context.feed.close()
        self.kit.context.replies.close()

    def service(self, place: int) -> str:
        services = sorted(self.machine.runtime_of)
        return services[place % len(services)]

    def deliver(self, fate: Mapping[int, Callable[[Worker], None]] = {}, twice: bool = False) -> None:
        self.crew.deliver(fate, twice, self.people.ask_for_the_opposite)

    def cancel(self, place: int) -> None:
        if self.people.cancel(place):
            self.crew.beat()

    def settle(self) -> None:
        """Faults stop, ticks go on, until nothing is left to do."""
        self.machine.recover()
        left, in_vain = self.people.active(), 0
        for number in range(_ROUNDS):
            self.crew.pass_time(7.0 if in_vain < 3 else 61.0)
            self.crew.tick()
            quiet = not self.people.active() and not self.crew.waits_for_work()
            self.deliver()
            now_left = self.people.active()
            in_vain = in_vain + 1 if now_left == left else 0
            left = now_left
            # What operations hold no collector looks at: the last tick is one at which nothing is held.
            if in_vain > _IN_VAIN or (number > 2 and quiet and not left):
                return

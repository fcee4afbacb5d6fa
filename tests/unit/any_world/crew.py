"""The workers of a world: who gets which message, what befalls them meanwhile, and who takes over."""

import itertools
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker

from bus.broker import QUEUES
from bus.messages import RUN_OPERATION, TICK
from bus.schedule import STATE, WATCHDOG
from tests.unit.any_world.machine import Machine
from tests.unit.any_world.mortal import Clock, Crash, Life, MortalRecord, MortalRuntime
from tests.unit.worker_kit import Kit
from tests.waiting import wait_until
from workers import collectors, state, watchdog
from workers import operations as operations_queue
from workers.claims import Claims
from workers.context import Context
from workers.observer import Observer

_LIMIT_S = 60.0


@dataclass
class Worker:
    """A worker process: its parts, its life, and the actors that its queues would call."""

    number: int
    life: Life
    context: Context
    broker: StubBroker

    def work(self, operation_id: str) -> None:
        """What Dramatiq does with a message."""
        try:
            self.broker.get_actor(RUN_OPERATION).fn(operation_id)
        except Crash:
            return

    def tick(self, name: str, slot: int) -> None:
        self.broker.get_actor(TICK).fn(name, slot)

    def beat(self) -> None:
        if not self.life.dead and not self.life.frozen.is_set():
            self.context.claims._beat()


class Crew:
    """All workers, and the messages between them."""

    def __init__(self, kit: Kit, machine: Machine, clock: Clock) -> None:
        self._kit = kit
        self._machine = machine
        self._clock = clock
        self.workers: list[Worker] = []
        self._numbers, self._slots = itertools.count(1), itertools.count(1)

    def close(self) -> None:
        for worker in self.workers:
            worker.life.thaw()

    def hire(self) -> Worker:
        """A new worker process; it takes over what dead ones on its host held."""
        life = Life()
        number = next(self._numbers)
        record: Any = MortalRecord(self._kit.record, life)
        machine = self._machine
        runtimes: Any = {
            kind: MortalRuntime(
                memory, life, number, lambda kind=kind: machine.reach(kind), machine.saw, machine.probed
            )
            for kind, memory in machine.memories.items()
        }
        stopping = threading.Event()
        context = replace(
            self._kit.context,
            record=record,
            runtimes=runtimes,
            observer=Observer(runtimes),
            claims=Claims(record, {"host": socket.gethostname(), "pid": number}, stopping),
            stopping=stopping,
        )
        broker = StubBroker(middleware=[])
        for queue in QUEUES:
            broker.declare_queue(queue)
        operations_queue.declare(broker, context)
        collectors.declare(broker, context, lambda: True)
        made = Worker(number, life, context, broker)
        self.workers.append(made)
        return made

    def living(self) -> list[Worker]:
        """Those that work; one that was asked to end and is done with its work has ended."""
        self.workers = [each for each in self.workers if not each.life.dead and not each.context.stopping.is_set()]
        return self.workers or [self.hire()]

    def restart_one(self) -> None:
        """Another worker starts on this host, and takes over at once what dead ones held."""
        alive = {each.number for each in self.living()}
        context = self.hire().context
        state.note_boot(context)
        watchdog.take_over(context, lambda who: who["pid"] in alive)

    def reboot(self) -> None:
        """The machine and everything on it goes down and comes up."""
        for worker in self.workers:
            worker.life.die()
        self._machine.reboot()
        self.messages()
        self.restart_one()

    def beat(self) -> None:
        for worker in self.workers:
            worker.beat()

    # Work

    def waits_for_work(self) -> bool:
        return not self._kit.broker.queues["operations"].empty()

    def messages(self) -> list[str]:
        """What is to be done, taken out of the queue."""
        found: Sequence[dramatiq.Message[Any]] = self._kit.sent()
        return [str(each.args[0]) for each in found]

    def deliver(
        self,
        fate: Mapping[int, Callable[[Worker], None]] = {},
        twice: bool = False,
        opposite: Callable[[], None] = lambda: None,
    ) -> None:
        """Every message to a worker, all at once; `fate` befalls the first. While one is frozen people ask for the
        `opposite` of what it was about to do."""
        ids = self.messages()
        living = self.living()
        victim = living[0]
        victim.life.arm({number: _bound(act, victim) for number, act in fate.items()})
        ids += ids[:1] if twice else []
        doing = [(living[place % len(living)], each) for place, each in enumerate(ids)]
        threads = [threading.Thread(target=worker.work, args=(each,), daemon=True) for worker, each in doing]
        for thread in threads:
            thread.start()
        wait_until(lambda: victim.life.frozen.is_set() or not any(t.is_alive() for t in threads), _LIMIT_S, "the work")
        if victim.life.frozen.is_set():
            for thread in (t for (worker, _), t in zip(doing, threads, strict=True) if worker is not victim):
                thread.join(_LIMIT_S)
            self._outlive(victim, threads, opposite)
        victim.life.arm({})
        for thread in threads:
            thread.join(_LIMIT_S)
            if thread.is_alive():
                self._machine.wrong.append("a worker hangs")

    def _outlive(self, frozen: Worker, threads: Sequence[threading.Thread], opposite: Callable[[], None]) -> None:
        """Others take over while one is frozen; thawed, it changes nothing any more."""
        machine = self._machine
        wait_until(lambda: frozen.life.inside == 0, _LIMIT_S, "the calls that had begun")
        self.workers.remove(frozen)
        self.pass_time(7.0)
        self.tick()
        self.deliver()
        opposite()
        self.deliver()
        before, happened = machine.picture(), len(machine.happened)
        frozen.life.arm({})  # whatever else was to befall it would be taken for its own doing
        frozen.life.thaw()
        for thread in threads:
            thread.join(_LIMIT_S)
        if (after := machine.picture()) != before:
            changes = {each: (before[each], after[each]) for each in after if before[each] != after[each]}
            machine.wrong.append(f"one that had lost its claim did {machine.happened[happened:]}: {changes}")
        self.workers.append(frozen)

    # Time

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and living workers' hearts beat in it."""
        self._clock.ahead_s += seconds
        self.beat()

    def tick(self) -> None:
        """The watchdog's and the state collector's."""
        self.pass_time(2.0)
        worker = self.living()[-1]
        for periodic in (WATCHDOG, STATE):
            worker.tick(periodic.name, next(self._slots))


def _bound(act: Callable[[Worker], None], worker: Worker) -> Callable[[], None]:
    if act is die:
        return worker.life.die
    return lambda: act(worker)


def die(worker: Worker) -> None:
    worker.life.die()


def leave(worker: Worker) -> None:
    """It is asked to end, and hands back what it works on."""
    worker.context.stopping.set()


def freeze(worker: Worker) -> None:
    worker.life.freeze()


def freeze_before_a_call(worker: Worker) -> None:
    worker.life.freeze_before_a_call()

"""The rules by which worlds go on: what people, machines and fate do. Each tells what it did, to be redone."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.any_world import mortal
from tests.unit.any_world.crew import Worker, die, freeze, freeze_before_a_call, leave
from tests.unit.any_world.graphs import (
    BATCH,
    BEFALLS,
    CHANGES,
    FATE,
    FAULTS,
    FIRST_PORT,
    PLACE,
    REQUEST,
    REQUESTS,
    VERSIONS,
    WAYS,
    graphs,
)
from tests.unit.any_world.judge import Judge
from tests.unit.any_world.world import World


class WorldBroke(AssertionError):
    """Something is wrong with a world. Its text is a file for `python -m tests.unit.any_world.again`."""

    def __init__(self, wrong: Sequence[str], story: Sequence[str]) -> None:
        lines = [f"# {line}" for each in wrong for line in each.splitlines()]
        super().__init__("\n".join(["", *lines, *story, "teardown()"]))


def _told(act: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(act)
    def tell(self: "AnyWorld", *args: Any, **more: Any) -> None:
        words = [repr(each) for each in args] + [f"{name}={each!r}" for name, each in more.items()]
        self.story.append(f"{act.__name__}({', '.join(words)})")
        act(self, *args, **more)

    return tell


class AnyWorld(RuleBasedStateMachine):
    """One world."""

    played = 0

    def __init__(self) -> None:
        super().__init__()
        self.story: list[str] = []
        self.judge: Judge | None = None
        self._ports = itertools.count(FIRST_PORT + 100)

    @initialize(groups=graphs(), parallel=st.sampled_from([1, 4]), up=st.sampled_from([True, True, False]))
    @_told
    def begin(self, groups, parallel, up):
        AnyWorld.played += 1
        self.world = World(parallel)
        self._clock = mortal.injected(self.world.clock)
        self._clock.__enter__()
        self.judge = Judge(self.world)
        for group in groups:
            self.world.people.define(group)
        self.world.crew.hire()
        self.world.crew.hire()
        if up:
            self.world.people.ask("start", "groups", 0)
            self.world.deliver()

    @rule(asked=REQUESTS, fate=FATE, twice=st.booleans())
    @_told
    def operate(self, asked, fate, twice):
        for request in asked:
            self.world.people.ask(*request)
        self.world.deliver({number: self._fate(*each) for number, each in fate.items()}, twice)

    @rule(changed=CHANGES, of=st.sampled_from(["service", "group", "group", "groups"]), ways=WAYS, fate=FATE)
    @_told
    def renew(self, changed, of, ways, fate):
        """New versions of what runs, in most worlds, and an update to them."""
        self._renew(changed, of, ways, fate)

    def _renew(self, changed, of, ways, fate):
        if self.world.crew.waits_for_work():
            self.world.deliver()
        if "afresh" not in ways:
            self.world.people.ask("start", of, changed[0][0], ["wait"])
            self.world.deliver()
        for change in changed:
            self._change(*change)
        self.world.people.ask("update", of, changed[0][0], ways)
        self.world.deliver({number: self._fate(*each) for number, each in fate.items()})

    @rule(changed=CHANGES, ways=WAYS, fate=FATE)
    @_told
    def renew_all(self, changed, ways, fate):
        """The same, of everything, whose faults are forgotten before."""
        self.world.machine.recover()
        self._renew(changed, "groups", ways, fate)

    @rule(changed=CHANGES)
    @_told
    def change(self, changed):
        for each in changed:
            self._change(*each)

    @rule(asked=REQUEST)
    @_told
    def ask(self, asked):
        """Its message comes late."""
        self.world.people.ask(*asked)

    @rule(asked=BATCH, fate=FATE, cancels=st.none() | PLACE)
    @_told
    def ask_each(self, asked, fate, cancels=None):
        self.world.people.ask_each(*asked)
        self.nothing_is_wrong()
        if cancels is not None:
            self.world.cancel(cancels)
        self.world.deliver({number: self._fate(*each) for number, each in fate.items()})

    @rule(place=PLACE, fault=BEFALLS)
    @_told
    def go_wrong(self, place, fault):
        machine, service = self.world.machine, self.world.service(place)
        if fault in ("end", "by hand"):
            machine.end(service, place % 2, fault == "by hand")
        elif fault == "removed":
            machine.lose(service)
        elif fault == "cancel":
            self.world.cancel(place)
        elif fault == "reach":
            machine.go_away(service, 1 + 3 * place)
        elif fault == "wiped":
            self.world.crew.messages()
        elif fault == "reboot":
            self.world.crew.reboot()
        elif fault == "deadly":
            self._is_deadly(place)
        elif fault == "worker":
            self.world.crew.restart_one()
        else:
            machine.behave(service, **FAULTS[fault])

    @rule(seconds=st.sampled_from([0.0, 7.0, 30.0]))
    @_told
    def tick(self, seconds):
        self.world.machine.unreachable.clear()
        self.world.crew.pass_time(seconds)
        self.world.crew.tick()
        self.world.deliver()

    def _is_deadly(self, place: int) -> None:
        """One worker after the other dies of what is asked for."""
        self.world.people.ask("restart" if place % 2 else "update", "group", place)
        for _ in range(7):
            self.world.deliver({5: die})
            self.world.crew.restart_one()

    def _change(self, place: int, how: str) -> None:
        service = self.world.service(place)
        if how == "port":
            self.world.people.change(service, next(self._ports))
        else:
            self.world.people.change(service, **VERSIONS[how])

    def _fate(self, what: str, place: int) -> Callable[[Worker], None]:
        world, machine, service = self.world, self.world.machine, self.world.service(place)
        acts: dict[str, Callable[[Worker], None]] = {
            "die": die,
            "freeze": freeze,
            "late": freeze_before_a_call,
            "leave": leave,
            "cancel": lambda _worker: world.cancel(place),
            "end": lambda _worker: machine.end(service, place % 2),
            "hold": lambda _worker: machine.hold(service),
            "unreachable": lambda _worker: machine.go_away(service, 1 + 3 * place),
        }
        return acts.get(what) or (lambda _worker: machine.behave(service, **FAULTS[what]))

    @invariant()
    def nothing_is_wrong(self):
        if self.judge is not None and (wrong := self.judge.meanwhile()):
            raise WorldBroke(wrong, self.story)

    def teardown(self):
        if self.judge is None:
            return
        try:
            self.world.settle()
            if wrong := self.judge.at_the_end():
                raise WorldBroke(wrong, self.story)
        finally:
            self._clock.__exit__(None, None, None)
            self.world.close()

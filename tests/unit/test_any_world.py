"""Any world: random graphs and requests, with faults, cancels and deaths at any boundary. What must hold, holds.

The code under test is all of it from the queue's actor on: claims, runner, planning, executor, steps, journal, state
collector, watchdog. Only the machine (the in-memory runtime) and the clock are not the real ones: ADR 38.

Mutations of the code that it was seen to catch (seed 1, worlds until then; before the last corrections of the test
itself, and not tried again since): edges dropped in planning (4), a dependent
let in at its need's start instead of its health (84), waits that do not wait (4), no fence before effects (14), writes
that do not ask for the claim (35), operations without locks (4), locks that stay (4), no watchdog (8), any claim taken
for silent (141).
"""

import logging
import os

import pytest
import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from domain.errors import StartFailed
from tests.unit.any_world import mortal
from tests.unit.any_world.judge import Judge
from tests.unit.any_world.world import World, die, freeze, freeze_before_a_call
from tests.unit.worker_kit import every

_BOUNDARY = st.integers(1, 24)
_FIRST_PORT = 21000
_VERBS = st.sampled_from(["start", "start", "start", "stop", "restart"])
_REQUESTS = st.tuples(_VERBS, st.integers(0, 11), st.booleans())
_FATES = st.tuples(
    st.sampled_from(
        ["die", "die", "freeze", "late", "late", "cancel", "cancel", "end", "ill", "refuse", "hold", "unreachable"]
    ),
    st.integers(0, 11),
)
_FAULTS = [
    "end", "end", "cancel", "reach", "worker", {"unhealthy": True}, {"delay_s": 0.003}, {"ends_with": 1},
    {"fail_on": {"stop": StartFailed("it does not end")}}, {"fail_on": {"create": StartFailed("no room")}}, {},
]  # fmt: skip


@st.composite
def graphs(draw):
    """Groups of services that need each other, also over groups; every third world or so has a job in it."""
    groups, made = [], []
    for number in range(draw(st.integers(1, 3))):
        services = []
        for _ in range(draw(st.integers(1, 4))):
            service = draw(_service(made))
            services.append(service)
            made.append((f"g{number}", service))
        depends = draw(st.sets(st.integers(0, number - 1), max_size=1)) if number else set()
        groups.append({"name": f"g{number}", "services": services, "dependencies": [f"g{each}" for each in depends],
                       "start_order": draw(st.integers(0, 2))})  # fmt: skip
    return groups


@st.composite
def _service(draw, made):
    number = len(made)
    kind = draw(st.sampled_from(["plain", "checked", "checked", "job"]))
    body = {"name": f"s{number}", "depends_on": [], "restart_policy": "no" if kind == "job" else "unless-stopped"}
    body |= draw(st.sampled_from([{"runtime": "process", "command": ["x"]}, {"runtime": "docker", "image": "x"}]))
    if kind == "checked":
        body["health_check"] = every(0.01)
    if kind != "job" and draw(st.integers(0, 4)) == 0:
        body["ports"] = [{"host_port": _FIRST_PORT + number, "container_port": 80} if body["runtime"] == "docker"
                         else {"host_port": _FIRST_PORT + number}]  # fmt: skip
    for place in sorted(draw(st.sets(st.integers(0, number - 1), max_size=2))) if number else ():
        group, provider = made[place]
        body["depends_on"].append(
            {"service": f"{group}/{provider['name']}", "condition": draw(_condition(provider)),
             "required": draw(st.integers(0, 5)) > 0})  # fmt: skip
    return body


def _condition(provider):
    if provider["restart_policy"] == "no":
        return st.just("completed")
    return st.sampled_from(["started", "healthy"] if "health_check" in provider else ["started"])


class AnyWorld(RuleBasedStateMachine):
    """Rules are what people, machines and fate do."""

    @initialize(groups=graphs(), parallel=st.sampled_from([1, 4]))
    def begin(self, groups, parallel):
        self.world = World(parallel)
        self._clock = mortal.injected(self.world.clock)
        self._clock.__enter__()
        self.judge = Judge(self.world)
        for group in groups:
            self.world.define(group)
        self.world.worker()
        self.world.worker()

    def _service(self, place):
        services = sorted(self.world.runtime_of)
        return services[place % len(services)]

    @rule(asked=st.lists(_REQUESTS, min_size=1, max_size=3), fate=st.dictionaries(_BOUNDARY, _FATES, max_size=3),
          twice=st.booleans())  # fmt: skip
    def operate(self, asked, fate, twice):
        for verb, place, whole in asked:
            service = self._service(place)
            self.world.ask(verb, service.split("-")[0], None if whole else service, timeout=1.5)
        self.world.deliver({number: self._fate(*each) for number, each in fate.items()}, twice)

    @rule(asked=_REQUESTS)
    def ask(self, asked):
        """Its message is lost, or comes late."""
        verb, place, whole = asked
        service = self._service(place)
        self.world.ask(verb, service.split("-")[0], None if whole else service, timeout=1.5)

    def _fate(self, what, place):
        world, service = self.world, self._service(place)
        acts = {
            "die": die,
            "freeze": freeze,
            "late": freeze_before_a_call,
            "cancel": lambda _worker: [world.cancel(each) for each in world.active()[:1]],
            "end": lambda _worker: world.end(service, place % 2),
            "ill": lambda _worker: world.behave(service, unhealthy=True),
            "refuse": lambda _worker: world.behave(service, fail_on={"start": StartFailed("refused")}),
            "hold": lambda _worker: world.hold(service),
            "unreachable": lambda _worker: world.unreachable.add(world.runtime_of[service]),
        }
        return acts[what]

    @rule(place=st.integers(0, 11), fault=st.sampled_from(_FAULTS))
    def go_wrong(self, place, fault):
        service = self._service(place)
        if fault == "end":
            self.world.end(service, place % 2)
        elif fault == "cancel":
            for each in self.world.active()[:1]:
                self.world.cancel(each)
        elif fault == "reach":
            kind = self.world.runtime_of[service]
            (self.world.unreachable.discard if kind in self.world.unreachable else self.world.unreachable.add)(kind)
        elif fault == "worker":
            self.world.restart_worker()
        else:
            self.world.behave(service, **fault)

    @rule(seconds=st.sampled_from([0.0, 7.0, 30.0]))
    def tick(self, seconds):
        self.world.unreachable.clear()
        self.world.pass_time(seconds)
        self.world.tick()
        self.world.deliver()

    @rule()
    def start_a_worker(self):
        self.world.restart_worker()

    @invariant()
    def nothing_is_wrong(self):
        if hasattr(self, "judge"):
            assert not (wrong := self.judge.meanwhile()), wrong

    def teardown(self):
        if not hasattr(self, "judge"):
            return
        try:
            self.world.settle()
            assert not (wrong := self.judge.at_the_end()), wrong
        finally:
            self._clock.__exit__(None, None, None)
            self.world.close()


def explore(worlds, of=None):
    """Play that many worlds; `of` is the seed, None for always the same ones."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    chosen = settings(
        max_examples=worlds, stateful_step_count=10, deadline=None, derandomize=of is None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=True,
        report_multiple_bugs=False,
    )  # fmt: skip
    machine = AnyWorld if of is None else seed(of)(AnyWorld)
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.timeout(300)
def test_in_any_world_what_must_hold_holds():
    explore(int(os.environ.get("CLOS_WORLDS", "40")))

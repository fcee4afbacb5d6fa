"""What an update does: exchange what drifted, and restart what asks for it.

Nothing is changed before every image is present and every new instance is made beside the old one; then, dependencies
first, an old one is stopped and its new one started and waited for. Only when all stand are the old ones removed: until
then `going_back.plan_back` leads back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from domain.needs import followers, has_completed, in_order, needed_completed, needs_of, own_condition
from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action, Plan, Step
from domain.specs import Condition, GroupSpec, RuntimeKind, ServiceSpec
from domain.starting import WAIT_CAUSE, before, fetch


class Kind(StrEnum):
    """What an update does with one service."""

    # It runs as it is not wanted any more: the new one takes its place.
    EXCHANGE = "exchange"
    # It is stopped: its container is replaced, not started.
    REPLACE = "replace"
    # It has completed as it is not wanted any more, and somebody needs that it completes: it is run anew.
    RUN = "run"
    # It asks to be restarted with one that is exchanged.
    RESTART = "restart"


class Direction(StrEnum):
    """Which way an update goes from now on, whoever works on it."""

    FORWARD = "forward"
    BACK = "back"
    # All new ones stand: nothing leads back any more.
    SETTLE = "settle"
    # It failed, and what it had done so far stays.
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """What an update does with one service, and what was there before: all that is needed to go back."""

    service_id: str
    kind: Kind
    runtime: str
    ref: str | None
    ran: bool
    hash: str | None
    image: str | None = None
    # What it listens on, or publishes, as (protocol, port on the host): another one of the update may want them.
    ports: tuple[tuple[str, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As it is kept with its operation."""
        return asdict(self)


def change_of(kept: Mapping[str, Any]) -> Change:
    """A change as it was kept."""
    ports = tuple((protocol, port) for protocol, port in kept.get("ports") or ())
    return Change(**(dict(kept) | {"kind": Kind(kept["kind"]), "ports": ports}))


def ports_of(spec: ServiceSpec) -> frozenset[tuple[str, int]]:
    """What it takes on the host, as (protocol, port)."""
    return frozenset((port.protocol, port.host_port) for port in spec.ports if port.host_port is not None)


def _givers(spec: ServiceSpec, wanted: Mapping[str, Change]) -> list[str]:
    """Which of the others had a port that this one is to have."""
    takes = ports_of(spec)
    return sorted(each for each, change in wanted.items() if each != spec.id and takes & set(change.ports))


def changes(specs: Sequence[ServiceSpec], observed: ObservedState, wanted: Collection[str]) -> dict[str, Change]:
    """What has to be done to the services that were asked for, and to those that are restarted with them.

    What was never started has nothing to be updated, nor has a process that does not run: its next start is as wanted.
    """
    completed_for = needed_completed(specs)
    found: dict[str, Change] = {}
    for spec in specs:
        instance = observed.of(spec.id)
        kind = _kind(spec, instance, spec.id in completed_for) if spec.id in wanted else None
        if kind is not None:
            found[spec.id] = _change(spec, instance, kind)
    exchanged = {each for each, change in found.items() if change.kind is not Kind.REPLACE}
    for spec in specs:
        if spec.id in followers(specs, exchanged) and spec.id not in found and observed.of(spec.id).alive:
            # One that has drifted comes up as it is wanted: then it has a way back like what was asked for.
            kind = _kind(spec, observed.of(spec.id), until_completed=False) or Kind.RESTART
            found[spec.id] = _change(spec, observed.of(spec.id), kind)
    return found


def _kind(spec: ServiceSpec, instance: Instance, until_completed: bool) -> Kind | None:
    if spec.runtime is RuntimeKind.EXTERNAL or instance.spec_hash in (None, spec.hash()):
        return None
    if instance.alive:
        return Kind.EXCHANGE
    ended_well = instance.phase is Phase.EXITED and instance.exit_code == 0
    if until_completed and ended_well and not has_completed(spec, instance):
        return Kind.RUN
    stands = instance.phase in (Phase.CREATED, Phase.EXITED) and spec.runtime is RuntimeKind.DOCKER
    return Kind.REPLACE if stands else None


def _change(spec: ServiceSpec, instance: Instance, kind: Kind) -> Change:
    return Change(spec.id, kind, spec.runtime.value, instance.ref, instance.alive, instance.spec_hash, instance.image)


def plan_update(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    wanted: Mapping[str, Change],
    images_ready: Collection[str] = (),
    groups: Iterable[GroupSpec] = (),
    stopped: Collection[str] = (),
    ran: Collection[str] = (),
) -> Plan:
    """The way forward from what is observed now. `stopped` are those that an earlier attempt has stopped or started,
    `ran` those that it has started: one that has ended since is not run once more, its wait says what that means.

    Raises:
        DependencyCycle: services need each other in a ring.
    """
    groups = tuple(groups)
    by_id = {spec.id: spec for spec in specs}
    needs = needs_of(specs, groups)
    ordered = [each for each in in_order(specs, groups) if each in wanted]
    completed_for = needed_completed(specs)
    made = _preparations([(by_id[each], wanted[each]) for each in ordered], observed, images_ready)
    prepared = tuple(step.id for step in made)
    steps = list(made)
    planned: set[str] = set(prepared)
    for service_id in ordered:
        spec, change = by_id[service_id], wanted[service_id]
        if change.kind is Kind.REPLACE:
            continue
        after = before(spec, needs[service_id], by_id, planned)
        condition = Condition.COMPLETED if service_id in completed_for else own_condition(spec)
        instance = observed.of(service_id)
        over = service_id in ran and instance.phase is Phase.EXITED and instance.spec_hash == spec.hash()
        turn = _turn(spec, change, instance, service_id in stopped, over, condition, after, prepared)
        steps += turn
        planned |= {step.id for step in turn}
    steps = _handed_over(steps, by_id, wanted, prepared)
    return Plan((*steps, *plan_settle(ordered, wanted, tuple(step.id for step in steps)).steps))


def _handed_over(
    steps: Sequence[Step], by_id: Mapping[str, ServiceSpec], wanted: Mapping[str, Change], prepared: tuple[str, ...]
) -> list[Step]:
    """Who takes another one's port is started after that one was stopped. So that no two wait for each other, whoever
    gives a port away is stopped as soon as all is prepared; it is its start that waits for what it needs."""
    known = {step.id: step for step in steps}
    given = {
        taker: [f"{Action.STOP}:{each}" for each in _givers(by_id[taker], wanted) if f"{Action.STOP}:{each}" in known]
        for taker in wanted
    }
    early = {step_id for stops in given.values() for step_id in stops}
    first, rest = [], []
    for step in steps:
        if step.id in early:
            first.append(replace(step, depends_on=prepared, optional=frozenset()))
        elif step.action is Action.START:
            stop = f"{Action.STOP}:{step.target}"
            gates = known[stop] if stop in early else step
            after = dict.fromkeys((*step.depends_on, *gates.depends_on, *given[step.target]))
            rest.append(replace(step, depends_on=tuple(after), optional=gates.optional))
        else:
            rest.append(step)
    return [*rest[: len(prepared)], *first, *rest[len(prepared) :]]


def _preparations(
    wanted: Sequence[tuple[ServiceSpec, Change]], observed: ObservedState, images_ready: Collection[str]
) -> tuple[Step, ...]:
    """All images, then all new instances: before the first change."""
    open_ = [
        (spec, change) for spec, change in wanted if change.kind is not Kind.RESTART and not _stands(spec, observed)
    ]
    fetched = tuple(
        fetch(spec) for spec, _ in open_ if spec.runtime is RuntimeKind.DOCKER and spec.id not in images_ready
    )
    causes = {
        Kind.EXCHANGE: "what runs is not what is wanted",
        Kind.REPLACE: "it is stopped, and not what is wanted: it is replaced and stays stopped",
        Kind.RUN: "it has completed as what is not wanted any more",
    }
    ids = tuple(step.id for step in fetched)
    return (*fetched, *(Step(Action.CREATE, spec.id, causes[change.kind], ids) for spec, change in open_))


def _stands(spec: ServiceSpec, observed: ObservedState) -> bool:
    """Whether the new one runs already: an earlier attempt came so far."""
    return observed.of(spec.id).alive and observed.of(spec.id).spec_hash == spec.hash()


def _turn(
    spec: ServiceSpec,
    change: Change,
    instance: Instance,
    stopped: bool,
    over: bool,
    condition: Condition,
    after: tuple[tuple[str, ...], frozenset[str]],
    prepared: tuple[str, ...],
) -> list[Step]:
    """Stop, start and wait, as far as it is not done."""
    needs, optional = after
    needs = (*needs, *prepared)
    restarts = change.kind is Kind.RESTART
    cause = "it asks to be restarted with what it depends on" if restarts else "the new one takes its place"
    done = over or (instance.alive and (stopped if restarts else instance.spec_hash == spec.hash()))
    steps: list[Step] = []
    if instance.alive and not done:
        steps.append(Step(Action.STOP, spec.id, cause, needs, None, optional))
        needs, optional = (steps[-1].id,), frozenset()
    if not done:
        steps.append(Step(Action.START, spec.id, cause, needs, None, optional))
        needs, optional = (steps[-1].id,), frozenset()
    return [*steps, Step(Action.WAIT, spec.id, WAIT_CAUSE[condition], needs, condition, optional)]


def plan_settle(ordered: Sequence[str], wanted: Mapping[str, Change], after: tuple[str, ...] = ()) -> Plan:
    """What is left when all new ones stand: the old ones go. From here there is no way back."""
    cause = "the new one stands: the old one goes"
    return Plan(
        tuple(Step(Action.REMOVE, each, cause, after) for each in ordered if wanted[each].kind is not Kind.RESTART)
    )

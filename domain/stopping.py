"""What a stop and a restart do: dependents first, across groups."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from domain import graph
from domain.errors import DependencyCycle
from domain.needs import edges_of, followers, has_completed, in_order, needed_completed
from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action, Plan, Step
from domain.specs import GroupSpec, RuntimeKind, ServiceSpec
from domain.starting import plan_start


def plan_stop(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    cause: str = "stop was asked for",
    remove: bool = False,
    groups: Iterable[GroupSpec] = (),
) -> Plan:
    """Take `specs` down, dependents first. A cycle is no reason not to stop: then the order is alphabetical."""
    groups = tuple(groups)
    try:
        ordered = list(reversed(in_order(specs, groups)))
    except DependencyCycle:
        ordered = sorted((spec.id for spec in specs), reverse=True)
    dependents = graph.reverse(edges_of(specs, groups))
    by_id = {spec.id: spec for spec in specs}
    steps: list[Step] = []
    planned: set[str] = set()
    for service_id in ordered:
        if by_id[service_id].runtime is RuntimeKind.EXTERNAL:
            continue
        instance = observed.of(service_id)
        # A dependent that cannot be stopped is no reason to leave the rest running: optional.
        before = tuple(sorted(f"{Action.STOP}:{other}" for other in _running(service_id, dependents, planned)))
        if instance.phase in (Phase.RUNNING, Phase.CREATED, Phase.UNKNOWN) or instance.leftovers:
            why = f"{cause}; it ended, and processes that it started live on" if instance.leftovers else cause
            steps.append(Step(Action.STOP, service_id, why, before, None, frozenset(before)))
            planned.add(service_id)
        if remove and instance.phase is not Phase.ABSENT:
            after = (f"{Action.STOP}:{service_id}",) if service_id in planned else ()
            steps.append(Step(Action.REMOVE, service_id, cause, after))
    return Plan(tuple(steps))


def _running(service_id: str, dependents: graph.Edges, stopped: Collection[str]) -> set[str]:
    """The nearest dependents that are being stopped: behind one that does not run, those that need that one."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(dependents.get(service_id, ()))
    while waiting:
        other = waiting.pop()
        if other in seen:
            continue
        seen.add(other)
        if other in stopped:
            found.add(other)
        else:
            waiting += dependents.get(other, ())
    return found


def plan_restart(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    wanted: Collection[str],
    images_ready: Collection[str] = (),
    groups: Iterable[GroupSpec] = (),
    again: Collection[str] = (),
    gone: Collection[str] = (),
    resumed: Collection[str] = (),
    unready: Collection[str] = (),
) -> Plan:
    """Stop all that are named and run, and what runs and wants to be restarted with them (`restart: true`), then start
    all. What they need is started where it is down, never stopped. What completed is left so, as in a start.

    `resumed` are those that an earlier attempt has stopped: they are only started. `unready` as of a start.

    Raises:
        DependencyCycle, UnknownDependency: as of a start.
    """
    groups = tuple(groups)
    following = followers(specs, wanted)
    restarted = {*wanted, *(each for each in following if observed.of(each).alive)} - set(resumed)
    # One that would follow and does not run stays as it is, unless another one needs it.
    needed = graph.closure(edges_of(specs, groups), {*restarted, *wanted, *resumed})
    specs = [spec for spec in specs if spec.id in needed or spec.id not in following]
    stops = plan_stop(
        [spec for spec in specs if spec.id in restarted], observed, "restart was asked for", groups=groups
    ).steps
    completed_for = needed_completed(specs)
    down = {
        spec.id: replace(instance, phase=Phase.EXITED, exit_code=None)
        if spec.id in restarted and _is_stopped(spec, instance, spec.id in completed_for)
        else instance
        for spec in specs
        for instance in (observed.of(spec.id),)
    }
    health = {service_id: seen for service_id, seen in observed.health.items() if service_id not in restarted}
    after = replace(observed, instances=down, health=health)
    starts = plan_start(specs, after, {*restarted, *wanted}, images_ready, groups, again, gone, unready).steps
    stop_ids = tuple(step.id for step in stops)
    return Plan((*stops, *(replace(step, depends_on=(*step.depends_on, *stop_ids)) for step in starts)))


def _is_stopped(spec: ServiceSpec, instance: Instance, until_completed: bool) -> bool:
    if until_completed and has_completed(spec, instance):
        return False
    return instance.phase not in (Phase.ABSENT, Phase.UNKNOWN)

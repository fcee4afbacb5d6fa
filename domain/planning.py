"""What is to be done: desired × observed → a plan of steps, each with its cause. Pure, so it can be shown unrun.

A step's id is `<action>:<target>`, unique in its plan. What already is as wanted gives no step, so planning again
after an interruption finds only what is left.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from domain import graph
from domain.errors import DependencyCycle
from domain.observation import Instance, ObservedState, Phase
from domain.specs import Condition, Dependency, RuntimeKind, ServiceSpec
from domain.states import HealthStatus


class Action(StrEnum):
    """What a step does."""

    PULL = "pull"
    BUILD = "build"
    CREATE = "create"
    START = "start"
    WAIT = "wait"
    STOP = "stop"
    REMOVE = "remove"
    # A port's lease, and what moves a service to another one; the end of a process that is not ours.
    LEASE = "lease"
    RELEASE = "release"
    MIGRATE_PORT = "migrate_port"
    TERMINATE = "terminate"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `depends_on` are ids of steps that must be completed before; `condition` is what a wait waits for."""

    action: Action
    target: str
    cause: str
    depends_on: tuple[str, ...] = ()
    condition: Condition | None = None
    # Dependencies that may fail without taking this step along.
    optional: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Its name in the plan."""
        return f"{self.action}:{self.target}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which they could be run one by one."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[Mapping[str, Any], ...] = field(default=())
    resolutions: tuple[Mapping[str, Any], ...] = field(default=())

    def critical_path(self) -> list[str]:
        """The longest chain of steps."""
        return graph.longest_path({step.id: step.depends_on for step in self.steps})

    def as_dict(self) -> dict[str, Any]:
        """The form of a plan in `result.plan` (interface.md)."""
        return {
            "steps": [
                {
                    "id": step.id,
                    "action": step.action.value,
                    "target": step.target,
                    "depends_on": list(step.depends_on),
                    "cause": step.cause,
                    "status": "pending",
                    "started_at": None,
                    "ended_at": None,
                    "error": None,
                }
                for step in self.steps
            ],
            "conflicts": [dict(conflict) for conflict in self.conflicts],
            "resolutions": [dict(resolution) for resolution in self.resolutions],
            "critical_path": self.critical_path(),
        }


def edges_of(specs: Iterable[ServiceSpec]) -> dict[str, set[str]]:
    """The dependency graph of these services, without what lies outside of them."""
    known = {spec.id: spec for spec in specs}
    return {
        spec.id: {dependency.service for dependency in spec.depends_on if dependency.service in known}
        for spec in known.values()
    }


def plan_start(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    wanted: Collection[str],
    images_ready: Collection[str] = (),
    group_order: Mapping[str, int] | None = None,
) -> Plan:
    """Bring `specs` up, dependencies first.

    `wanted` are the services that were named; the rest comes along as their dependencies. `images_ready` are the ids
    whose image is present. A running instance is left alone even if it drifted: updating is another operation.

    Raises:
        DependencyCycle: services need each other in a ring.
    """
    by_id = {spec.id: spec for spec in specs}
    completed_for = {
        dependency.service
        for spec in specs
        for dependency in spec.depends_on
        if dependency.condition is Condition.COMPLETED
    }
    steps: list[Step] = []
    for service_id in _in_order(specs, group_order or {}):
        spec = by_id[service_id]
        instance = observed.of(service_id)
        steps += _steps_to_start(
            spec,
            instance,
            observed.health.get(service_id, HealthStatus.NONE),
            service_id in completed_for,
            _cause(spec, service_id in wanted, instance, specs),
            spec.id in images_ready,
            _needs(spec, by_id, {step.id for step in steps}),
        )
    return Plan(tuple(steps))


def _in_order(specs: Sequence[ServiceSpec], group_order: Mapping[str, int]) -> list[str]:
    ordered = graph.order(edges_of(specs))
    if not group_order:
        return ordered
    place = {service_id: index for index, service_id in enumerate(ordered)}
    group_of = {spec.id: spec.group for spec in specs}
    # A group's start_order only breaks ties: an edge always wins, so it may not move a node before its needs.
    edges = edges_of(specs)
    depth: dict[str, int] = {}
    for service_id in ordered:
        depth[service_id] = 1 + max((depth[need] for need in edges[service_id]), default=0)
    return sorted(ordered, key=lambda each: (depth[each], group_order.get(group_of[each], 0), place[each]))


def _cause(spec: ServiceSpec, named: bool, instance: Instance, specs: Sequence[ServiceSpec]) -> str:
    state = {
        Phase.ABSENT: "it has no instance",
        Phase.CREATED: "an interrupted start left it created",
        Phase.EXITED: f"it ended with exit code {instance.exit_code}",
        Phase.RUNNING: "it runs",
        Phase.UNKNOWN: "its state is unknown",
    }[instance.phase]
    if named:
        return f"start was asked for; {state}"
    for_whom = sorted(other.name for other in specs if any(d.service == spec.id for d in other.depends_on))
    return f"{', '.join(for_whom) or 'another service'} needs it; {state}"


def _needs(
    spec: ServiceSpec, by_id: Mapping[str, ServiceSpec], planned: Collection[str]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Which steps its start comes after, and which of them may fail."""
    needs: list[str] = []
    optional: set[str] = set()
    for dependency in spec.depends_on:
        provider = by_id.get(dependency.service)
        if provider is None:
            continue
        step_id = _gate(dependency, provider)
        if step_id not in planned:  # it is as wanted already
            continue
        needs.append(step_id)
        if not dependency.required:
            optional.add(step_id)
    return tuple(sorted(needs)), frozenset(optional)


def _gate(dependency: Dependency, provider: ServiceSpec) -> str:
    """The step of a provider after which a dependent may start.

    `started` of one with a health check is its start, however long it takes to get healthy; without one it is alive
    and listening, which its wait sees.
    """
    if dependency.condition is Condition.STARTED and provider.health_check is not None:
        return f"{Action.START}:{provider.id}"
    return f"{Action.WAIT}:{provider.id}"


def _steps_to_start(
    spec: ServiceSpec,
    instance: Instance,
    health: HealthStatus,
    until_completed: bool,
    cause: str,
    image_ready: bool,
    needs: tuple[tuple[str, ...], frozenset[str]],
) -> list[Step]:
    before, optional = needs
    condition = Condition.COMPLETED if until_completed else _own_condition(spec)
    if until_completed and instance.phase is Phase.EXITED and instance.exit_code == 0:
        return []
    wait_cause = {
        Condition.HEALTHY: "its health check must pass",
        Condition.STARTED: "it must be alive and listen",
        Condition.COMPLETED: "it must end with exit code 0",
    }[condition]
    wait = Step(Action.WAIT, spec.id, wait_cause, (f"{Action.START}:{spec.id}",), condition)
    if spec.runtime is RuntimeKind.EXTERNAL:
        if health is HealthStatus.HEALTHY:
            return []
        return [Step(Action.WAIT, spec.id, f"it is only watched; {wait_cause}", before, condition, optional)]
    if instance.alive:
        settled = health is HealthStatus.HEALTHY or (spec.health_check is None and not until_completed)
        if settled:
            return []
        return [Step(Action.WAIT, spec.id, wait_cause, before, condition, optional)]
    steps: list[Step] = []
    start_needs = before
    if spec.runtime is RuntimeKind.DOCKER:
        create_needs = before
        if not image_ready:
            # An image can be fetched while dependencies still start.
            have = Action.BUILD if spec.build else Action.PULL
            steps.append(Step(have, spec.id, f"image {spec.image or 'to be built'} is not present"))
            create_needs = (*before, steps[0].id)
        steps.append(Step(Action.CREATE, spec.id, cause, create_needs, None, optional))
        start_needs = (steps[-1].id,)
        optional = frozenset()
    steps.append(Step(Action.START, spec.id, cause, start_needs, None, optional))
    return [*steps, wait]


def _own_condition(spec: ServiceSpec) -> Condition:
    return Condition.HEALTHY if spec.health_check is not None else Condition.STARTED


def plan_stop(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    cause: str = "stop was asked for",
    remove: bool = False,
) -> Plan:
    """Take `specs` down, dependents first. A cycle is no reason not to stop: then the order is alphabetical."""
    try:
        ordered = list(reversed(graph.order(edges_of(specs))))
    except DependencyCycle:
        ordered = sorted((spec.id for spec in specs), reverse=True)
    dependents = graph.reverse(edges_of(specs))
    by_id = {spec.id: spec for spec in specs}
    steps: list[Step] = []
    planned: set[str] = set()
    for service_id in ordered:
        if by_id[service_id].runtime is RuntimeKind.EXTERNAL:
            continue
        instance = observed.of(service_id)
        # A dependent that cannot be stopped is no reason to leave the rest running: optional.
        before = tuple(
            sorted(f"{Action.STOP}:{other}" for other in dependents[service_id] if f"{Action.STOP}:{other}" in planned)
        )
        if instance.phase in (Phase.RUNNING, Phase.CREATED, Phase.UNKNOWN) or instance.leftovers:
            why = f"{cause}; it ended, and processes that it started live on" if instance.leftovers else cause
            steps.append(Step(Action.STOP, service_id, why, before, None, frozenset(before)))
            planned.add(steps[-1].id)
        if remove and instance.phase is not Phase.ABSENT:
            after = (f"{Action.STOP}:{service_id}",) if f"{Action.STOP}:{service_id}" in planned else ()
            steps.append(Step(Action.REMOVE, service_id, cause, after))
    return Plan(tuple(steps))


def plan_restart(
    specs: Sequence[ServiceSpec], observed: ObservedState, wanted: Collection[str], images_ready: Collection[str] = ()
) -> Plan:
    """Stop all that are named and run, then start all. What they need is started where it is down, never stopped."""
    stops = plan_stop([spec for spec in specs if spec.id in wanted], observed, "restart was asked for").steps
    down = {
        spec.id: replace(instance, phase=Phase.EXITED, exit_code=None)
        if spec.id in wanted and instance.phase not in (Phase.ABSENT, Phase.UNKNOWN)
        else instance
        for spec in specs
        for instance in (observed.of(spec.id),)
    }
    health = {service_id: seen for service_id, seen in observed.health.items() if service_id not in wanted}
    after = replace(observed, instances=down, health=health)
    starts = plan_start(specs, after, wanted, images_ready).steps
    stop_ids = tuple(step.id for step in stops)
    return Plan((*stops, *(replace(step, depends_on=(*step.depends_on, *stop_ids)) for step in starts)))


def ready(steps: Sequence[Step], done: Collection[str], failed: Collection[str], begun: Collection[str]) -> list[Step]:
    """Steps that have not begun and need wait for nothing more, in plan order.

    A need that failed is no longer waited for where it is optional.
    """
    return [
        step
        for step in steps
        if step.id not in begun
        and all(need in done or (need in failed and need in step.optional) for need in step.depends_on)
    ]


def blocked_by(step: Step, failed: Collection[str]) -> str | None:
    """The failed or skipped step because of which this one cannot be done; None if there is none."""
    return next((need for need in step.depends_on if need in failed and need not in step.optional), None)

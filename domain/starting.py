"""What a start does: desired × observed → steps, dependencies first, across groups."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from domain.errors import UnknownDependency
from domain.needs import Need, has_completed, in_order, lives_in, needed_completed, needs_of, own_condition
from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action, Plan, Step
from domain.specs import Condition, GroupSpec, RuntimeKind, ServiceSpec
from domain.states import HealthStatus

WAIT_CAUSE = {
    Condition.HEALTHY: "its health check must pass",
    Condition.STARTED: "it must be alive and listen",
    Condition.COMPLETED: "it must end with exit code 0",
}


def plan_start(
    specs: Sequence[ServiceSpec],
    observed: ObservedState,
    wanted: Collection[str],
    images_ready: Collection[str] = (),
    groups: Iterable[GroupSpec] = (),
    again: Collection[str] = (),
    gone: Collection[str] = (),
    unready: Collection[str] = (),
) -> Plan:
    """Bring `specs` up, what they and their groups depend on first.

    `wanted` are the services that were asked for; the rest comes along as their dependencies. `images_ready` are the
    ids whose image is present. A running instance is left alone even if it drifted: updating is another operation.
    What completed is not run again unless it is in `again`: named itself, as a start of Compose runs it again. `gone`
    are ids that are needed and no longer registered. `unready` are those that an earlier attempt has started and not
    seen ready: that they run is not enough. Who runs and lives in the container of one that is started, or was since,
    is restarted after it: it has the network of a container that is gone.

    Raises:
        DependencyCycle: services need each other in a ring.
        UnknownDependency: a service that is to be started cannot do without one that is gone.
    """
    by_id = {spec.id: spec for spec in specs}
    groups = tuple(groups)
    needs = needs_of(specs, groups)
    completed_for = needed_completed(specs)
    dependents = _names_of_dependents(specs)
    steps: list[Step] = []
    planned: set[str] = set()
    for service_id in in_order(specs, groups):
        spec = by_id[service_id]
        instance = observed.of(service_id)
        anew = sorted(
            each
            for each in lives_in(spec)
            if f"{Action.START}:{each}" in planned or _outlived(observed.of(each), instance)
        )
        if anew and instance.alive:
            made = _steps_to_move_in_again(spec, anew, before(spec, needs[service_id], by_id, planned))
            steps += made
            planned |= {step.id for step in made}
            continue
        made = _steps_to_start(
            spec,
            instance,
            observed.health.get(service_id, HealthStatus.NONE),
            service_id in completed_for,
            service_id in again,
            service_id in unready,
            _cause(service_id in wanted, instance, dependents.get(service_id, ())),
            service_id in images_ready,
            before(spec, needs[service_id], by_id, planned),
        )
        if made:
            _refuse_gone(spec, gone)
        steps += made
        planned |= {step.id for step in made}
    return Plan(tuple(steps))


def _refuse_gone(spec: ServiceSpec, gone: Collection[str]) -> None:
    for dependency in spec.depends_on:
        if dependency.required and dependency.service in gone:
            raise UnknownDependency(spec.id, dependency.service)


def _names_of_dependents(specs: Sequence[ServiceSpec]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for spec in sorted(specs, key=lambda each: each.name):
        for dependency in spec.depends_on:
            names.setdefault(dependency.service, []).append(spec.name)
    return names


def _cause(named: bool, instance: Instance, for_whom: Sequence[str]) -> str:
    state = {
        Phase.ABSENT: "it has no instance",
        Phase.CREATED: "an interrupted start left it created",
        Phase.EXITED: f"it ended with exit code {instance.exit_code}",
        Phase.RUNNING: "it runs",
        Phase.UNKNOWN: "its state is unknown",
    }[instance.phase]
    if named:
        return f"start was asked for; {state}"
    return f"{', '.join(for_whom) or 'another group'} needs it; {state}"


def before(
    spec: ServiceSpec, needs: Sequence[Need], by_id: Mapping[str, ServiceSpec], planned: Collection[str]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Which planned steps its own come after, and which of them may fail.

    What its group needs counts only where nothing else of its group holds it up: that has waited for it already.
    """
    found: dict[str, bool] = {}
    inside = False
    for need in needs:
        if need.group is not None and inside:
            continue
        step_id = gate(need, by_id[need.service])
        if step_id not in planned:  # it is as wanted already
            continue
        found[step_id] = found.get(step_id, False) or need.required
        inside = inside or (need.required and by_id[need.service].group == spec.group)
    return tuple(sorted(found)), frozenset(step_id for step_id, required in found.items() if not required)


def gate(need: Need, provider: ServiceSpec) -> str:
    """The step of a provider after which a dependent may start.

    `started` of one with a health check is its start, however long it takes to get healthy; without one it is alive
    and listening, which its wait sees. Through a group it is always the wait.
    """
    if need.group is None and need.condition is Condition.STARTED and provider.health_check is not None:
        return f"{Action.START}:{provider.id}"
    return f"{Action.WAIT}:{provider.id}"


def _steps_to_start(
    spec: ServiceSpec,
    instance: Instance,
    health: HealthStatus,
    until_completed: bool,
    again: bool,
    unready: bool,
    cause: str,
    image_ready: bool,
    needs: tuple[tuple[str, ...], frozenset[str]],
) -> list[Step]:
    after, optional = needs
    condition = Condition.COMPLETED if until_completed else own_condition(spec)
    if until_completed and not again and has_completed(spec, instance):
        return []
    wait_cause = WAIT_CAUSE[condition]
    wait = Step(Action.WAIT, spec.id, wait_cause, (f"{Action.START}:{spec.id}",), condition)
    if spec.runtime is RuntimeKind.EXTERNAL:
        if health is HealthStatus.HEALTHY:
            return []
        return [Step(Action.WAIT, spec.id, f"it is only watched; {wait_cause}", after, condition, optional)]
    if instance.alive:
        settled = health is HealthStatus.HEALTHY or (spec.health_check is None and not until_completed)
        if settled and not unready:
            return []
        return [Step(Action.WAIT, spec.id, wait_cause, after, condition, optional)]
    return [*_bring_up(spec, cause, image_ready, after, optional), wait]


def _outlived(host: Instance, resident: Instance) -> bool:
    """Whether the container that one lives in was started since: by hand, or by somebody who was killed then."""
    began, moved_in = host.started_at, resident.started_at
    return host.alive and began is not None and moved_in is not None and began > moved_in


def _steps_to_move_in_again(
    spec: ServiceSpec, anew: Sequence[str], needs: tuple[tuple[str, ...], frozenset[str]]
) -> list[Step]:
    after, optional = needs
    cause = f"it lives in the container of {', '.join(anew)}, which is started anew"
    condition = own_condition(spec)
    # Not before that one is ready: if it fails, who lives in it is left as it is.
    stop = Step(Action.STOP, spec.id, cause, after, None, optional)
    start = Step(Action.START, spec.id, cause, (stop.id,))
    return [stop, start, Step(Action.WAIT, spec.id, WAIT_CAUSE[condition], (start.id,), condition)]


def _bring_up(
    spec: ServiceSpec, cause: str, image_ready: bool, after: tuple[str, ...], optional: frozenset[str]
) -> list[Step]:
    if spec.runtime is not RuntimeKind.DOCKER:
        return [Step(Action.START, spec.id, cause, after, None, optional)]
    steps: list[Step] = []
    if not image_ready:
        # An image can be fetched while dependencies still start.
        steps.append(fetch(spec))
        after = (*after, steps[0].id)
    steps.append(Step(Action.CREATE, spec.id, cause, after, None, optional))
    return [*steps, Step(Action.START, spec.id, cause, (steps[-1].id,))]


def fetch(spec: ServiceSpec) -> Step:
    """The step that makes a container's image present."""
    have = Action.BUILD if spec.build else Action.PULL
    return Step(have, spec.id, f"image {spec.image or 'to be built'} is not present")

"""Who waits for whom, across groups: services need services, and a group's services need the groups that it depends on.

What a group depends on is up before the first of its own services starts: each service of the other group is waited
for until it has completed, where anybody needs that, is healthy, where it has a health check, or has started.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from domain import graph
from domain.container import services_lived_in
from domain.observation import Instance, Phase
from domain.specs import Condition, GroupSpec, RestartPolicy, ServiceSpec


@dataclass(frozen=True, slots=True)
class Need:
    """One service that is waited for, and until when. `group`: it is needed because its group is."""

    service: str
    condition: Condition
    required: bool = True
    restart: bool = False
    group: str | None = None


def own_condition(spec: ServiceSpec) -> Condition:
    """What a start of a service waits for by itself."""
    return Condition.HEALTHY if spec.health_check is not None else Condition.STARTED


def needed_completed(specs: Iterable[ServiceSpec]) -> set[str]:
    """The services of which somebody needs that they complete."""
    return {
        dependency.service
        for spec in specs
        for dependency in spec.depends_on
        if dependency.condition is Condition.COMPLETED
    }


def has_completed(spec: ServiceSpec, instance: Instance) -> bool:
    """Whether it ended with exit code 0, as what it is wanted to be now: a changed one has not completed yet."""
    ended = instance.phase is Phase.EXITED and instance.exit_code == 0
    return ended and instance.spec_hash in (None, spec.hash())


def may_end(spec: ServiceSpec) -> bool:
    """Whether ending by itself with exit code 0 is as good as running: nobody brings it back then, nor probes it."""
    return spec.restart_policy in (RestartPolicy.NO, RestartPolicy.ON_FAILURE) and spec.health_check is None


def needs_of(specs: Sequence[ServiceSpec], groups: Iterable[GroupSpec] = ()) -> dict[str, tuple[Need, ...]]:
    """What each of these services waits for among them: first what it names itself, then what its group needs."""
    by_id = {spec.id: spec for spec in specs}
    through = _needs_of_groups(specs, {group.name: group for group in groups})
    return {
        spec.id: (
            *(
                Need(each.service, each.condition, each.required, each.restart)
                for each in spec.depends_on
                if each.service in by_id
            ),
            *(need for need in through.get(spec.group, ()) if need.service != spec.id),
        )
        for spec in specs
    }


def _needs_of_groups(specs: Sequence[ServiceSpec], groups: Mapping[str, GroupSpec]) -> dict[str, tuple[Need, ...]]:
    members: dict[str, list[ServiceSpec]] = {}
    for spec in specs:
        members.setdefault(spec.group, []).append(spec)
    completed = needed_completed(specs)
    return {
        name: tuple(
            Need(spec.id, Condition.COMPLETED if spec.id in completed else own_condition(spec), group=other)
            for other in _with_services(name, groups, members)
            for spec in members[other]
        )
        for name in members
        if name in groups
    }


def _with_services(name: str, groups: Mapping[str, GroupSpec], members: Collection[str]) -> list[str]:
    """The groups that a group depends on; in place of one that has no services here, those that this one needs."""
    found: list[str] = []
    seen = {name}
    waiting = list(groups[name].dependencies)
    while waiting:
        other = waiting.pop(0)
        if other in seen:
            continue
        seen.add(other)
        if other in members:
            found.append(other)
        elif other in groups:
            waiting += groups[other].dependencies
    return found


def edges_of(specs: Sequence[ServiceSpec], groups: Iterable[GroupSpec] = ()) -> dict[str, set[str]]:
    """The dependency graph of these services, without what lies outside of them.

    A group's needs are those of its services that need nothing in their own group: the rest come after these.
    """
    group_of = {spec.id: spec.group for spec in specs}
    edges: dict[str, set[str]] = {}
    for service_id, needs in needs_of(specs, groups).items():
        named = {need.service for need in needs if need.group is None}
        inside = any(group_of[each] == group_of[service_id] for each in named)
        through = set() if inside else {need.service for need in needs if need.group is not None}
        edges[service_id] = named | through
    return edges


def in_order(specs: Sequence[ServiceSpec], groups: Iterable[GroupSpec] = ()) -> list[str]:
    """Services, what they need before them. A group's `start_order` breaks ties: an edge always wins.

    Raises:
        DependencyCycle: services need each other in a ring.
    """
    edges = edges_of(specs, groups)
    ordered = graph.order(edges)
    ranks = {group.name: group.start_order for group in groups}
    if not any(ranks.values()):
        return ordered
    place = {service_id: index for index, service_id in enumerate(ordered)}
    group_of = {spec.id: spec.group for spec in specs}
    depth: dict[str, int] = {}
    for service_id in ordered:
        depth[service_id] = 1 + max((depth[need] for need in edges[service_id]), default=0)
    return sorted(ordered, key=lambda each: (depth[each], ranks.get(group_of[each], 0), place[each]))


def lives_in(spec: ServiceSpec) -> set[str]:
    """The services of whose containers its own has the network, the processes or the like."""
    known = spec.definitions.get("services") or {}
    return {known[name] for name in services_lived_in(spec.container, spec.network_mode) if name in known}


def residents(specs: Sequence[ServiceSpec], of: Collection[str]) -> set[str]:
    """The services that live in the containers of these, however far: they are cut off when these are stopped."""
    return _reached({spec.id: lives_in(spec) for spec in specs}, of)


def followers(specs: Sequence[ServiceSpec], of: Collection[str]) -> set[str]:
    """The services that are restarted when these are exchanged or restarted, however far: those that ask for it
    (`restart: true`), and those that live in their containers."""
    asked = {spec.id: {each.service for each in spec.depends_on if each.restart} for spec in specs}
    return _reached({spec.id: asked[spec.id] | lives_in(spec) for spec in specs}, of)


def _reached(edges: Mapping[str, Collection[str]], of: Collection[str]) -> set[str]:
    found: set[str] = set()
    grown = True
    while grown:
        reached = found | set(of)
        new = {each for each, needs in edges.items() if each not in reached and not reached.isdisjoint(needs)}
        found |= new
        grown = bool(new)
    return found

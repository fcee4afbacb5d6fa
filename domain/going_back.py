"""The way back of an update, from any step of it: what runs now is stopped, what was there before runs again.

All that is to be stopped is stopped at once. What was there before is started as soon as nothing has its ports any
more and what it needs is there again, under the conditions of a start. One that cannot be restored holds up none of
the others.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from domain.needs import Need, in_order, needs_of, residents
from domain.planning import Action, Plan, Step
from domain.specs import Condition, GroupSpec, ServiceSpec
from domain.updating import Change, Kind, ports_of


def plan_back(
    specs: Sequence[ServiceSpec],
    wanted: Mapping[str, Change],
    touched: Collection[str],
    disturbed: Collection[str],
    groups: Iterable[GroupSpec] = (),
    withdrawn: Collection[str] = (),
) -> Plan:
    """How to go back with what was `touched`. Of these, `disturbed` are those of which something may have been stopped
    or started; `withdrawn` those that an earlier attempt has stopped on its way back.

    Raises:
        DependencyCycle: services need each other in a ring.
    """
    groups = tuple(groups)
    by_id = {spec.id: spec for spec in specs}
    needs = needs_of(specs, groups)
    # Who lives in a container that was stopped is cut off, even where nothing was done to it yet.
    disturbed = {*disturbed, *(residents(specs, disturbed) & wanted.keys())}
    touched = {*touched, *disturbed}
    # One that was to be restarted along, and was not: it runs as it ran.
    back = {each for each in touched if wanted[each].kind is not Kind.RESTART or each in disturbed}
    ordered = [each for each in in_order(specs, groups) if each in back]
    stopping = [each for each in ordered if each in disturbed and each not in withdrawn]
    steps = [Step(Action.WITHDRAW, each, "the update is taken back: what runs now is stopped") for each in stopping]
    for service_id in ordered:
        change = wanted[service_id]
        stopped = [each for each in stopping if each == service_id or _gives_back(by_id[each], change)]
        gates = _gates(service_id, needs, by_id, wanted, back) if service_id in disturbed and change.ran else set()
        after = (*(f"{Action.WITHDRAW}:{each}" for each in stopped), *sorted(gates))
        steps.append(Step(Action.RESTORE, service_id, _cause(change), after, None, frozenset(after)))
        if change.ran:
            restored = (steps[-1].id,)
            steps.append(Step(Action.CONFIRM, service_id, "until it serves again", restored))
    return Plan(tuple(steps))


def _gives_back(spec: ServiceSpec, change: Change) -> bool:
    """Whether the new one of a service has a port that another one had before."""
    return bool(ports_of(spec) & set(change.ports))


def _cause(change: Change) -> str:
    if change.kind is Kind.RESTART:
        return "it is restarted with what it depends on"
    state = "runs again" if change.ran else "is back, stopped"
    return f"the update is taken back: what was there before {state}"


def _gates(
    service_id: str,
    needs: Mapping[str, Sequence[Need]],
    by_id: Mapping[str, ServiceSpec],
    wanted: Mapping[str, Change],
    back: Collection[str],
) -> set[str]:
    """The steps after which it may start: of what it needs, and where that was not touched, of what that needs."""
    found, seen = set(), {service_id}
    waiting = list(needs[service_id])
    while waiting:
        need = waiting.pop()
        if need.service in back:
            found.add(_gate(need, by_id[need.service], wanted[need.service]))
        elif need.service not in seen:
            seen.add(need.service)
            waiting += needs[need.service]
    return found - {f"{action}:{service_id}" for action in (Action.RESTORE, Action.CONFIRM)}


def _gate(need: Need, provider: ServiceSpec, change: Change) -> str:
    started = need.group is None and need.condition is Condition.STARTED and provider.health_check is not None
    return f"{Action.RESTORE if started or not change.ran else Action.CONFIRM}:{provider.id}"

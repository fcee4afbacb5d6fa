"""What follows from a look: services that are down are reported, or brought back together and in order."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from domain.errors import OperationInProgress
from domain.events import EventType, Severity
from domain.observation import Instance, Phase
from domain.reconciling import Act, Cause, Decision, Down, Mode, Policy, decide, policy_of
from domain.specs import RestartPolicy
from models import events, operations, registry_repairs
from models.base import now
from models.operations import Operation, service_target
from models.registry_repairs import INITIATED_BY, Registry
from models.services import Service
from workers.context import Context


@dataclass(frozen=True, slots=True)
class Seen:
    """One service at one look. `fresh`: it went down since the last one; `failed_before`: it had failed by then.

    `down`: it is wanted, does not run, and it is known why. `stray`: it runs, and nobody wants it.
    """

    service: Service
    instance: Instance
    fresh: bool
    failed_before: bool
    down: bool
    stray: bool


def default_policy(context: Context) -> Policy:
    """The installation's policy."""
    said = context.reconcile
    modes = {cause.value: Mode(getattr(said, cause.value)) for cause in Cause}
    return Policy(**modes, crash_loop_limit=said.crash_loop_limit)


def follow_up(session: Session, found: Sequence[Seen], policy: Policy, at: datetime) -> list[Operation]:
    """Decide about everything that is down, write that down, and ask for what is to be done. What was asked for."""
    made = [_stop(session, one.service) for one in found if one.stray]
    own = registry_repairs.group_policies(session) if any(one.down for one in found) else {}
    due: dict[str, Seen] = {}
    for one in found:
        if not one.down:
            continue
        decision = _decide(session, one, policy_of(policy, own.get(one.service.group_name)), at)
        if decision.act is Act.REPAIR:
            due[one.service.id] = one
    if due:
        session.flush()
        made += _bring_back(session, due)
    return [operation for operation in made if operation is not None]


def _stop(session: Session, service: Service) -> Operation | None:
    why = "it runs although it was stopped: a worker that had lost its claim began it"
    try:
        return operations.create(
            session,
            "service.stop",
            targets=[service_target(service.id)],
            service_id=service.id,
            group_name=service.group_name,
            parameters={"services": [service.id], "named": [service.id], "no_deps": True, "reason": why},
            initiated_by="system:state",
            sent_at=now(),
        )
    except OperationInProgress:
        return None


def _decide(session: Session, one: Seen, policy: Policy, at: datetime) -> Decision:
    """Decide about one service, and write that down."""
    service = one.service
    cause = Cause(str(service.down_cause))
    asked_since = not one.fresh and service.restart_not_before is None
    down = Down(
        cause=cause,
        restart_policy=RestartPolicy(service.restart_policy),
        exit_code=one.instance.exit_code,
        restart_by_engine=service.restart_by != "clos",
        deaths=service.crash_count,
        fresh=one.fresh,
        tried_in_vain=one.failed_before and asked_since and service.restarts > 0,
        not_before=service.restart_not_before,
    )
    decision = decide(down, policy, at)
    if decision.act in (Act.REPAIR, Act.WAIT) and asked_since and _was_cancelled(session, service):
        decision = Decision(Act.REPORT, service.crash_count)
    service.crash_count = decision.deaths
    service.restart_not_before = decision.not_before
    _say(session, one, decision, cause)
    return decision


def _was_cancelled(session: Session, service: Service) -> bool:
    return service.down_since is not None and registry_repairs.cancelled_since(session, service.id, service.down_since)


def _say(session: Session, one: Seen, decision: Decision, cause: Cause) -> None:
    service = one.service
    if decision.act is Act.WAIT:
        text = f"restarts after a back-off: death {decision.deaths} in a row"
        _wait(service, "slot", "back-off", text)
    elif decision.act is Act.REPORT:
        if _wait(service, "operation", service.id, f"{_what(one, cause)}: `clos start {service.id}` brings it back"):
            _report(session, service, cause, Severity.WARNING)
    elif decision.act is Act.GIVE_UP:
        text = f"{_given_up(cause, decision.deaths, one.instance)}; `clos start {service.id}` tries again"
        if _wait(service, "operation", service.id, text):
            _report(session, service, cause, Severity.ERROR)
    elif decision.act is Act.LEAVE and one.fresh:
        service.waiting_for = None


def _wait(service: Service, kind: str, ref: str, text: str) -> bool:
    """Say what a service waits for. Whether that is news."""
    waiting = [{"kind": kind, "ref": ref, "text": text}]
    if service.waiting_for == waiting:
        return False
    service.waiting_for = waiting
    return True


def _what(one: Seen, cause: Cause) -> str:
    if cause is Cause.PERSON:
        return "it was removed by hand" if one.instance.phase is Phase.ABSENT else "it was stopped by hand"
    if cause is Cause.CRASH:
        return f"it ended with exit code {one.instance.exit_code}"
    return "its engine was restarted" if cause is Cause.ENGINE else "this host was restarted"


def _given_up(cause: Cause, deaths: int, instance: Instance) -> str:
    if cause is Cause.CRASH:
        return f"crash loop: {deaths} deaths in a row, last exit code {instance.exit_code}"
    return f"given up: {deaths} starts in a row failed"


def _report(session: Session, service: Service, cause: Cause, severity: Severity) -> None:
    text = (service.waiting_for or [{}])[0].get("text")
    events.append(
        session,
        EventType.SERVICE_DOWN,
        {"cause": cause.value, "reason": text, "exit_code": service.exit_code},
        severity=severity,
        actor=INITIATED_BY,
        service_id=service.id,
        group_name=service.group_name,
    )


def _bring_back(session: Session, due: Mapping[str, Seen]) -> list[Operation | None]:
    sorted_, known = registry_repairs.sort(session, set(due))
    for service_id, holder in sorted_.held_up.items():
        _wait(due[service_id].service, "dependency", holder, registry_repairs.why_held_up(known.services[holder]))
    return [_ask(session, due, named, services, known) for named, services in sorted_.sets]


def _ask(
    session: Session, due: Mapping[str, Seen], named: Collection[str], services: Collection[str], known: Registry
) -> Operation | None:
    why = "; ".join(sorted({_what(due[each], Cause(str(due[each].service.down_cause))) for each in named}))
    operation = registry_repairs.ask(session, named, services, why)
    if operation is None:
        return None  # somebody works on one of them: a later look
    for each in sorted(named):
        service = known.services[each]
        service.restarts += 1
        service.restart_not_before = None
        _wait(service, "operation", operation.id, f"it is being brought back: {why}")
    return operation

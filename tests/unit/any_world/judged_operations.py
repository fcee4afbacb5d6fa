"""What holds for each operation: how often it was taken, what its list of steps says, and that a cancel is one."""

from collections import defaultdict
from datetime import datetime, timedelta

from domain.states import CLAIMED, OperationStatus
from models.operation_poison import BACK_CLAIMS, MAX_CLAIMS
from models.operations import Operation
from tests.unit.any_world.world import World

_SILENCE = timedelta(seconds=60)
# What a step of the list stands for on the machine; a way back starts and stops within its own step.
_DID = {"start": {"start"}, "stop": {"stop"}, "restore": {"restore"}}
_NOT_DONE = ("pending", "skipped", "not in the list")
# Steps of an update which is on its way back, or past the point of no return.
_ANYWAY = ("withdraw", "restore", "confirm", "remove")


def always(operation: Operation, at: datetime) -> list[str]:
    """While it goes on, too."""
    name = _name(operation)
    most = MAX_CLAIMS + (BACK_CLAIMS if operation.compensation else 0)
    wrong = [f"I4: {name} was claimed {operation.attempt} times"] if operation.attempt > most else []
    if operation.status in CLAIMED and (operation.heartbeat_at or at - _SILENCE) < at - _SILENCE:
        wrong.append(f"I6: {name} has been silent for a minute")
    if (operation.error or {}).get("code") == "internal_error":
        wrong.append(f"{name} broke: {operation.error}")
    return wrong


def ended(operation: Operation, world: World) -> list[str]:
    """Once it has ended."""
    name = _name(operation)
    statuses = {step.id: step.status for step in operation.steps}
    wrong = []
    for step in operation.steps:
        if step.started_at and step.ended_at and step.ended_at < step.started_at:
            wrong.append(f"{name}: {step.id} ended before it began")
        if (step.error or {}).get("code") == "internal_error" or "defect of CLOS" in str(step.error):
            wrong.append(f"{name}: {step.id} broke: {step.error}")
    if operation.status == OperationStatus.COMPLETED and set(statuses.values()) - {"completed"}:
        wrong.append(f"{name} completed with {statuses}")
    if set(statuses.values()) & {"pending", "running"}:
        wrong.append(f"{name} ended with {statuses}")
    if operation.end_time is None or operation.end_time < (operation.start_time or operation.created_at):
        wrong.append(f"{name} ended at {operation.end_time}")
    if operation.status == OperationStatus.FAILED and not operation.error:
        wrong.append(f"{name} failed and says nothing")
    other = world.people.after.get(operation.id)
    if other and operation.start_time and world.kit.operation(other).status != OperationStatus.COMPLETED:
        wrong.append(f"{name} was begun, and {other[-4:]}, after which it was to be, did not complete")
    wrong += _happened(operation, world, statuses) + _cancelled(operation) + _in_order(operation)
    return wrong + _stands(operation, world) + _left(operation, world)


def _name(operation: Operation) -> str:
    return f"{operation.type} {operation.id[-4:]}"


def _happened(operation: Operation, world: World, statuses: dict[str, str]) -> list[str]:
    """A step that the list calls done was done, or was found so; what it does not name has not happened."""
    wrong = []
    name = _name(operation)
    done: dict[str, set[str]] = defaultdict(set)
    # An attempt that died may have done it; the one that ended only knows that it had begun, and must say so.
    told = {step.id for step in operation.steps if "had begun before" in (step.error or {}).get("message", "")}
    if told and operation.fence == 1:
        wrong.append(f"{name} was carried out by one worker, which does not know what became of {told}")
    for what, service_id, holder in world.machine.happened:
        if holder == operation.id:
            done[service_id].add(what)
    for action, calls in _DID.items():
        for service_id, whats in done.items():
            status = statuses.get(f"{action}:{service_id}", "not in the list")
            # Kept as it is after a failure, an update takes away what it had only made.
            aside = action == "restore" and statuses.get(f"create:{service_id}") == "undone"
            back = f"restore:{service_id}" in statuses or f"withdraw:{service_id}" in statuses
            if whats & calls and status in _NOT_DONE and not (back or aside or f"{action}:{service_id}" in told):
                wrong.append(f"{name} did {action} {service_id}, and its list says {status} ({statuses})")
    for step_id, status in statuses.items():
        action, service_id = step_id.split(":", 1)
        did = action in done[service_id] or "ended" in done[service_id]
        if action == "start" and status == "completed" and service_id in world.machine.runtime_of and not did:
            wrong.append(f"{name} says that it started {service_id}, and it did not")
    return wrong


def _cancelled(operation: Operation) -> list[str]:
    """What was to end begins nothing more, but for the way back."""
    at = operation.cancel_requested_at
    if at is None:
        return []
    late = [
        step.id
        for step in operation.steps
        if step.started_at is not None and step.started_at > at and step.status in ("completed", "failed")
        and step.action not in _ANYWAY
    ]  # fmt: skip
    return [f"{_name(operation)} was cancelled, and began {late} after that"] if late else []


def _left(operation: Operation, world: World) -> list[str]:
    """What is said to be left running runs."""
    said = {each["target"] for each in (operation.result or {}).get("left") or () if "left running" in each["text"]}
    return [
        f"{_name(operation)} has left {each} running, which is {world.machine.instance(each).phase.value}"
        for each in sorted(said)
        if not disturbed(operation, world, each) and not world.machine.instance(each).alive
    ]


def _in_order(operation: Operation) -> list[str]:
    """Where one attempt did everything as planned, no step began before what it depends on had ended."""
    if (
        operation.status != OperationStatus.COMPLETED
        or operation.fence > 1
        or "resolutions" in (operation.result or {})
    ):
        return []
    steps = {step.id: step for step in operation.steps}
    wrong = []
    for step in steps.values():
        for other in (steps[each] for each in step.depends_on or () if each in steps):
            if step.started_at and (other.ended_at is None or other.ended_at > step.started_at):
                wrong.append(f"{_name(operation)}: {step.id} began before {other.id}, which it depends on, had ended")
    return wrong


def _stands(operation: Operation, world: World) -> list[str]:
    """What a start or a stop that completed was asked for is so, where nothing has happened to it since."""
    verb = operation.type.rpartition(".")[2]
    if operation.status != OperationStatus.COMPLETED or verb not in ("start", "restart", "stop"):
        return []
    wrong = []
    parameters = operation.parameters or {}
    if parameters.get("together") is False:
        return []
    for service_id in parameters.get("named") or ():
        if disturbed(operation, world, service_id):
            continue
        instance = world.machine.instance(service_id)
        up = instance.alive or (verb != "stop" and instance.exit_code == 0)
        if up != (verb != "stop"):
            wrong.append(f"{_name(operation)} completed, and {service_id} is {instance.phase.value}")
    return wrong


def disturbed(operation: Operation, world: World, service_id: str) -> bool:
    """Whether something else has happened to a service since the operation first touched it, or was asked for."""
    since = world.people.asked_at.get(operation.id)
    happened = world.machine.happened
    if since is None:
        return True
    own = [at for at, each in enumerate(happened) if each[2] == operation.id and each[1] == service_id]
    since = own[0] if own else since
    return any(each[1] == service_id and each[2] != operation.id for each in happened[since:])

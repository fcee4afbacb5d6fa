"""What earlier attempts of an operation have done, as far as whoever takes over has to know it.

A step that was `running` when its worker died may have had its effect or not: the machine tells.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from domain.observation import Instance, ObservedState, Phase
from domain.planning import Action
from domain.states import StepStatus
from models.operations import Operation

_BEGUN = (StepStatus.RUNNING, StepStatus.COMPLETED)


def stopped_or_begun(operation: Operation) -> set[str]:
    """What was stopped for certain, or begun to be started."""
    return {*_of(operation, Action.STOP, StepStatus.COMPLETED), *_of(operation, Action.START, *_BEGUN)}


def restarted(operation: Operation, observed: ObservedState) -> set[str]:
    """What was stopped or begun to be started: stopping it once more would be a second interruption."""
    halfway = {each for each in _of(operation, Action.STOP, StepStatus.RUNNING) if _is_down(observed.of(each))}
    return stopped_or_begun(operation) | halfway


def run(operation: Operation, observed: ObservedState, last_ends: Mapping[str, datetime | None]) -> set[str]:
    """What was started. `last_ends` are the ends that are on record: what ended then has not been started since."""
    begun = _of(operation, Action.START, StepStatus.RUNNING)
    halfway = {each for each in begun if ran(observed.of(each), last_ends.get(each))}
    return {*_of(operation, Action.START, StepStatus.COMPLETED), *halfway}


def done(operation: Operation, observed: ObservedState, last_ends: Mapping[str, datetime | None]) -> set[str]:
    """The steps that were done, of an operation that is to be cancelled: it does none of them again."""
    completed = {step.id for step in operation.steps if step.status == StepStatus.COMPLETED}
    stopped = {f"{Action.STOP}:{each}" for each in restarted(operation, observed) - stopped_or_begun(operation)}
    return completed | stopped | {f"{Action.START}:{each}" for each in run(operation, observed, last_ends)}


def unready(operation: Operation) -> set[str]:
    """What was begun to be started, and not waited for to the end."""
    return {*_of(operation, Action.START, *_BEGUN)} - {*_of(operation, Action.WAIT, StepStatus.COMPLETED)}


def _of(operation: Operation, action: Action, *statuses: StepStatus) -> Iterator[str]:
    return (step.target for step in operation.steps if step.action == action and step.status in statuses)


def ran(instance: Instance, last_end: datetime | None) -> bool:
    """Whether it runs or has run since that end, which is on record."""
    if instance.phase is Phase.EXITED:
        return instance.ended_at is None or instance.ended_at != last_end
    return instance.alive


def _is_down(instance: Instance) -> bool:
    return instance.phase in (Phase.EXITED, Phase.ABSENT) and not instance.leftovers

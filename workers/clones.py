"""Clones: those whose time is over are taken away, and their volumes with them."""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from domain.planning import Action, Plan, Step
from domain.specs import RuntimeKind
from models import clone_ends, cloning
from models.groups import Group
from models.operations import Operation
from workers.context import Context

log = structlog.get_logger()
_VOLUME = "volume:"


def collect(context: Context) -> None:
    """Tell of clones that end soon, and ask for the removal of those whose time is over."""
    with context.record.write() as session:
        told = clone_ends.tell(session)
        ended = clone_ends.end(session)
        asked = [(each.id, each.type) for each in ended.asked]
    for operation_id, type_ in asked:
        context.outbox.operation(operation_id, type_)
    for name, why in ended.kept:
        log.info("clone.kept", group=name, reason=why)
    if told or asked:
        context.feed.wake()


class VolumeSteps:
    """The last steps of a clone's removal: its own volumes, named and nameless. What is shared stays.

    Where only a service of it goes, its nameless ones do.
    """

    def __init__(self, context: Context, marks: Mapping[str, str]) -> None:
        self._context = context
        self._marks = marks

    @classmethod
    def of(cls, context: Context, operation: Operation) -> "VolumeSteps | None":
        """Those of an operation; None where it is not the removal of a clone."""
        if operation.type not in (clone_ends.REMOVE, "service.remove") or operation.group_name is None:
            return None
        with context.record.read() as session:
            group = session.get(Group, operation.group_name)
            if group is None or group.cloned_from is None:
                return None
            all_of_it = operation.type == clone_ends.REMOVE and cloning.has_containers(session, group)
            return cls(context, cloning.own_volumes(group) if all_of_it else {})

    def after(self, plan: Plan) -> Plan:
        """The plan with its volumes' removal at its end: they go when nothing uses them any more."""
        needs = tuple(step.id for step in plan.steps)
        steps = (
            Step(Action.REMOVE, f"{_VOLUME}{name}", "it was made for this clone", needs) for name in sorted(self._marks)
        )
        return replace(plan, steps=(*plan.steps, *steps))

    @staticmethod
    def does(step: Step) -> bool:
        """Whether a step is one of these."""
        return step.action is Action.REMOVE and step.target.startswith(_VOLUME)

    def run(self, step: Step) -> None:
        """Remove a volume, if it is the clone's own.

        Raises:
            VolumeInUse: somebody else's container has it.
            EngineUnreachable: the engine does not answer.
        """
        name = step.target.removeprefix(_VOLUME)
        self._context.runtimes[RuntimeKind.DOCKER.value].remove_volume(name, self._marks[name])

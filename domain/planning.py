"""What is to be done: a plan of steps, each with its cause. Pure, so it can be shown unrun.

Desired × observed → plan is decided in `starting`, `stopping` and `updating`. A step's id is `<action>:<target>`,
unique in its plan; of one that is done again after a failure, `<action>_again:<target>`. What already is as wanted
gives no step, so planning again after an interruption finds only what is left.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from domain import graph
from domain.specs import Condition


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
    # The way back of an update: what runs now is stopped, what was there before is restored, and waited for.
    WITHDRAW = "withdraw"
    CONFIRM = "confirm"


# They only look: a cancel breaks them off, and they take no step's place.
WAITS = frozenset({Action.WAIT, Action.CONFIRM})
# Broken off, they leave every service as it was.
TRACELESS = WAITS | {Action.PULL, Action.BUILD}


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
    # Done again after a failure, by another id: the step that failed keeps how it went.
    after_failure: bool = False
    # Its name in the plan; asked for so often that it is made once.
    id: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        action = f"{self.action}_again" if self.after_failure else self.action
        object.__setattr__(self, "id", f"{action}:{self.target}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which they could be run one by one."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[Mapping[str, Any], ...] = field(default=())
    resolutions: tuple[Mapping[str, Any], ...] = field(default=())

    def critical_path(self, weights: Mapping[str, float] | None = None) -> list[str]:
        """The chain of steps that takes longest, by how many seconds each usually takes; the longest one where that is
        not known."""
        return graph.longest_path({step.id: step.depends_on for step in self.steps}, weights)

    def as_dict(self, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
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
                    "duration_s": None,
                    "expected_s": (weights or {}).get(step.id),
                    "error": None,
                }
                for step in self.steps
            ],
            "conflicts": [dict(conflict) for conflict in self.conflicts],
            "resolutions": [dict(resolution) for resolution in self.resolutions],
            "critical_path": self.critical_path(weights),
        }


def ready(steps: Iterable[Step], done: Collection[str], failed: Collection[str]) -> list[Step]:
    """Those of the steps that need wait for nothing more, in their order.

    A need that failed is no longer waited for where it is optional.
    """
    return [
        step
        for step in steps
        if all(need in done or (need in failed and need in step.optional) for need in step.depends_on)
    ]


def blocked_by(step: Step, failed: Collection[str]) -> str | None:
    """The failed or skipped step because of which this one cannot be done; None if there is none."""
    return next((need for need in step.depends_on if need in failed and need not in step.optional), None)

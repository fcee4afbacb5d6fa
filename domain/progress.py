"""How far an operation has come and how long the rest may take, from what its steps took before.

A step's weight is what earlier runs of it took, in seconds; one that never ran weighs what such a step usually takes.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from domain import graph
from domain.planning import WAITS
from domain.states import STEP_FINAL, StepStatus

# How much the newest run counts in the moving average of a step's runs.
NEWEST = 0.3
_LEAST_S = 0.05
_USUALLY_S = {
    "pull": 15.0, "build": 30.0, "wait": 3.0, "confirm": 3.0, "stop": 2.0, "withdraw": 2.0, "terminate": 2.0,
}  # fmt: skip
_ELSE_S = 0.5
# Sums of fractions fall short of a whole percent by less than this.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Part:
    """One step: what it needs, its weight, how it stands, and how long it has run."""

    id: str
    action: str
    depends_on: Sequence[str]
    expected_s: float | None
    status: StepStatus = StepStatus.PENDING
    ran_s: float = 0.0

    @property
    def weight_s(self) -> float:
        """What it counts for."""
        return weight_s(self.action, self.expected_s)


def weight_s(action: str, expected_s: float | None) -> float:
    """What a step counts for, in seconds."""
    return max(_LEAST_S, expected_s if expected_s is not None else _USUALLY_S.get(action, _ELSE_S))


class Tally:
    """How much of an operation's steps, by their weights, has ended."""

    def __init__(self, weights: Mapping[str, float], ended: Iterable[str] = ()) -> None:
        self._weights = dict(weights)
        self._whole = sum(self._weights.values())
        self._left = set(self._weights)
        self._come = 0.0
        for each in ended:
            self.end(each)

    def end(self, step_id: str) -> int:
        """A step has ended, told once or more often. How far it has come, in percent."""
        if step_id in self._left:
            self._left.remove(step_id)
            self._come += self._weights[step_id]
        return self.percent

    @property
    def percent(self) -> int:
        """At most 99: 100 is for the operation's end."""
        return min(99, int(100 * self._come / self._whole + _ROUNDING)) if self._whole else 0


def critical_path(parts: Sequence[Part]) -> list[str]:
    """The chain of steps that takes longest: what has ended counts with what it took, the rest with its weight."""
    weights = {part.id: part.ran_s if part.status in STEP_FINAL else max(part.weight_s, part.ran_s) for part in parts}
    return graph.longest_path({part.id: part.depends_on for part in parts}, weights)


def remaining_s(parts: Sequence[Part], parallel: int) -> float | None:
    """How long the rest may take with so many steps at once; waits take no step's place. None where a step has no
    earlier run to go by."""
    left = {part.id: part for part in parts if part.status not in STEP_FINAL}
    if any(part.expected_s is None for part in left.values()):
        return None
    needs = {each: {need for need in part.depends_on if need in left} for each, part in left.items()}
    ready = [each for each, waits in needs.items() if not waits]
    running: list[tuple[float, str]] = []
    at, busy = 0.0, 0
    while ready or running:
        later = []
        for each in ready:
            takes_place = left[each].action not in WAITS
            if takes_place and busy >= max(1, parallel):
                later.append(each)
                continue
            busy += takes_place
            heapq.heappush(running, (at + max(0.0, left[each].weight_s - left[each].ran_s), each))
        if not running:
            break
        at, done = heapq.heappop(running)
        busy -= left[done].action not in WAITS
        ready = later + _freed(needs, done)
    return round(at, 2)


def _freed(needs: Mapping[str, set[str]], done: str) -> list[str]:
    found = []
    for each, waits in needs.items():
        if done in waits:
            waits.discard(done)
            if not waits:
                found.append(each)
    return found

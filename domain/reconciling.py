"""What is wanted, compared with what was seen: why a service is down, and what is done about it. Pure.

A cause is judged once, when a death is first seen, and kept. What cannot be told is never guessed: while a runtime
does not answer nothing is judged at all, and a death that nothing speaks for counts as the service's own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum

from domain.observation import Instance, Phase
from domain.specs import RestartPolicy, RuntimeKind

FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 60.0
# The engine's clock, and ours when we note that it does not answer, are read a moment apart.
_SLACK = timedelta(seconds=1)


class Cause(StrEnum):
    """Why a service that is wanted does not run."""

    # It ended by itself, out of memory included.
    CRASH = "crash"
    # Somebody stopped, killed or removed it behind CLOS's back.
    PERSON = "person"
    # Its engine was restarted or killed.
    ENGINE = "engine"
    HOST = "host"


class Mode(StrEnum):
    """What is done about a service that is down."""

    OFF = "off"
    REPORT = "report"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done per cause. `crash: repair` means: as the service's restart policy says."""

    person: Mode = Mode.REPORT
    engine: Mode = Mode.REPAIR
    host: Mode = Mode.REPAIR
    crash: Mode = Mode.REPAIR
    crash_loop_limit: int = 10

    def mode(self, cause: Cause) -> Mode:
        """What is done about this cause."""
        found: Mode = getattr(self, cause.value)
        return found


def policy_of(default: Policy, own: Mapping[str, object] | None) -> Policy:
    """A group's policy: what it does not say, and what an older CLOS wrote there, is as in the installation's."""
    known = {each.name for each in fields(Policy)} - {"crash_loop_limit"}
    said = {name: Mode(str(mode)) for name, mode in (own or {}).items() if name in known and mode in set(Mode)}
    return Policy(
        **({name: default.mode(Cause(name)) for name in known} | said), crash_loop_limit=default.crash_loop_limit
    )


@dataclass(frozen=True, slots=True)
class World:
    """What is known of the host and of a runtime's engine when an instance is judged.

    `host_since` is when this boot was first seen, None where no other boot was ever seen. `engine_since` is the
    engine's present start, None where it cannot be told; `engine_new_since` is when another engine than before first
    answered at this address. `away` is the last time, from and to, for which the engine was seen not to answer.
    """

    host_since: datetime | None = None
    engine_since: datetime | None = None
    engine_new_since: datetime | None = None
    away: tuple[datetime, datetime] | None = None


def cause_of(runtime: RuntimeKind, instance: Instance, started_at: datetime, world: World) -> Cause:
    """Why an instance that was up since `started_at`, as recorded, is not up any more."""
    began = instance.started_at or started_at
    before_boot = world.host_since is not None and began < world.host_since
    if instance.phase is Phase.ABSENT:
        if runtime is RuntimeKind.PROCESS:
            return Cause.HOST if before_boot else Cause.PERSON
        # No restart takes a container away; another engine has none of ours.
        another = world.engine_new_since is not None and started_at < world.engine_new_since
        return Cause.ENGINE if another else Cause.PERSON
    if before_boot:
        return Cause.HOST
    if instance.oom_killed:
        return Cause.CRASH
    if runtime is RuntimeKind.DOCKER and _went_with_its_engine(instance, began, world):
        return Cause.ENGINE
    return Cause.PERSON if instance.by_hand else Cause.CRASH


def _went_with_its_engine(instance: Instance, began: datetime, world: World) -> bool:
    """Whether it ended before its engine's present start, or while its engine was seen not to answer."""
    ended = instance.ended_at
    since = world.engine_since
    if since is not None and began < since and (ended is None or ended < since):
        return True
    return ended is not None and world.away is not None and world.away[0] - _SLACK <= ended <= world.away[1] + _SLACK


class Act(StrEnum):
    """What follows from a look at a service that is down."""

    LEAVE = "leave"
    REPORT = "report"
    # It is brought back later.
    WAIT = "wait"
    REPAIR = "repair"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Down:
    """A service that is wanted and does not run.

    `deaths` are those in a row before this look. `fresh`: it went down since the last look. `tried_in_vain`: it was
    brought back since, and that failed. `not_before` is None where nothing is planned.
    """

    cause: Cause | None
    restart_policy: RestartPolicy
    exit_code: int | None = None
    restart_by_engine: bool = False
    deaths: int = 0
    fresh: bool = False
    tried_in_vain: bool = False
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, how many deaths in a row that makes, and before when nothing is tried."""

    act: Act
    deaths: int
    not_before: datetime | None = None


def decide(down: Down, policy: Policy, at: datetime) -> Decision:
    """What is done about a service that is down."""
    left = Decision(Act.LEAVE, down.deaths)
    # A start that failed, with no death before it, is for whoever asked for it to look at.
    if down.cause is None or down.restart_by_engine:
        return left
    mode = policy.mode(down.cause)
    if mode is Mode.OFF or (down.cause is Cause.CRASH and not wants_restart(down.restart_policy, down.exit_code)):
        return left
    if mode is Mode.REPORT:
        return Decision(Act.REPORT, down.deaths)
    if down.deaths >= policy.crash_loop_limit and not down.fresh:
        return Decision(Act.GIVE_UP, down.deaths)
    died = down.tried_in_vain or (down.fresh and down.cause is Cause.CRASH)
    deaths = down.deaths + int(died)
    if died and deaths >= policy.crash_loop_limit:
        return Decision(Act.GIVE_UP, deaths)
    not_before = down.not_before
    if died:
        not_before = at + back_off(deaths, down.fresh)
    elif down.fresh or not_before is None:
        # What was asked for and not attempted (what it needs failed) goes along with what it needs.
        not_before = at
    return Decision(Act.WAIT if not_before is not None and not_before > at else Act.REPAIR, deaths, not_before)


def back_off(deaths: int, fresh: bool = True) -> timedelta:
    """How long a service waits that died so often in a row. The first death of one that ran well has its answer at
    once."""
    if fresh and deaths <= 1:
        return timedelta()
    return timedelta(seconds=min(FIRST_BACK_OFF_S * 2 ** min(max(deaths - 2, 0), 10), LONGEST_BACK_OFF_S))


def wants_restart(policy: RestartPolicy, exit_code: int | None) -> bool:
    """Whether a restart policy brings back what ended by itself with that code."""
    if policy is RestartPolicy.ON_FAILURE:
        return exit_code != 0
    return policy in (RestartPolicy.ALWAYS, RestartPolicy.UNLESS_STOPPED)


@dataclass(frozen=True, slots=True)
class Need:
    """`service` needs `on`; one that is not `required` does not hold it up."""

    service: str
    on: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Repairs:
    """What is brought back together: sets of (due services, all they take along), and who is held up by whom."""

    sets: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    held_up: Mapping[str, str] = field(default_factory=dict)


def repairs(due: Collection[str], needs: Collection[Need], held: Collection[str]) -> Repairs:
    """Sort services that are to be brought back into connected sets.

    `held` are services that are down and are not brought back now: whoever cannot do without one of them waits.
    """
    of: dict[str, list[Need]] = {}
    for need in needs:
        of.setdefault(need.service, []).append(need)
    held_up = {each: by for each in sorted(due) if (by := _held_up_by(each, of, set(held), set())) is not None}
    taken = {each: _taken(each, of, set(held)) for each in sorted(due) if each not in held_up}
    return Repairs(tuple(_connected(taken)), held_up)


def _held_up_by(each: str, of: Mapping[str, list[Need]], held: set[str], seen: set[str]) -> str | None:
    for need in of.get(each, ()):
        if not need.required or need.on in seen:
            continue
        seen.add(need.on)
        if need.on in held:
            return need.on
        if (deeper := _held_up_by(need.on, of, held, seen)) is not None:
            return deeper
    return None


def _taken(each: str, of: Mapping[str, list[Need]], held: set[str]) -> set[str]:
    found = {each}
    waiting = [each]
    while waiting:
        for need in of.get(waiting.pop(), ()):
            if need.on not in found and need.on not in held:
                found.add(need.on)
                waiting.append(need.on)
    return found


def _connected(taken: Mapping[str, set[str]]) -> list[tuple[frozenset[str], frozenset[str]]]:
    sets: list[tuple[set[str], set[str]]] = []
    for each, along in taken.items():
        named, services = {each}, set(along)
        apart = []
        for other_named, other in sets:
            if other & services:
                named |= other_named
                services |= other
            else:
                apart.append((other_named, other))
        sets = [*apart, (named, services)]
    return [(frozenset(named), frozenset(services)) for named, services in sets]

"""How a conflict can be resolved: each strategy says whether it can, at what risk, and with which effects. Pure.

Nothing here acts. A resolution is a value: `planning.plan_resolution` makes steps of it, which can be shown before
they are run. Risk is what is lost if the choice was wrong: low is undone by `undo`, medium stops something that can be
started again, high ends a process that nobody may be able to start again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from domain.conflicts import ConflictKind, Found
from domain.errors import describe_holder


class Strategy(StrEnum):
    """The names under which a resolution is asked for (interface.md)."""

    MIGRATE_SERVICE = "migrate_service"
    CHANGE_PORT = "change_port"
    STOP_CONTAINER = "stop_container"
    KILL_PROCESS = "kill_process"
    ASK = "ask"
    IGNORE = "ignore"


class Risk(StrEnum):
    """What is at stake if the choice was wrong."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    def within(self, limit: str) -> bool:
        """Whether it is at most `limit`."""
        order = [each.value for each in Risk]
        return order.index(self.value) <= order.index(limit)


@dataclass(frozen=True, slots=True)
class Move:
    """A service leaves one port for another; `to_port` None where no port is left for it, or none was named yet."""

    service_id: str
    protocol: str
    from_port: int
    to_port: int | None
    port_name: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """A conflict with what is needed to judge it.

    `moves` are what each claimant would do, the one that should move first. `dependents` maps a service to the running
    ones that refer to it; `restart_dependents` says whether they are restarted or only reported. `up` are the services
    that run, `waiting` those that are wanted to and do not. `port` is what `change_port` names.
    """

    conflict: Found
    moves: Sequence[Move] = ()
    dependents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    restart_dependents: bool = True
    up: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is to be done: `stop_services` are CLOS's, `container` is a foreign one's (id, name), `process` a Holder."""

    strategy: Strategy
    risk: Risk
    cause: str
    description: str
    effects: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    restarts: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    stop_services: tuple[str, ...] = ()
    container: tuple[str, str] | None = None
    process: Mapping[str, Any] | None = None

    def option(self) -> dict[str, Any]:
        """The form in which a Conflict offers it (interface.md, `options`)."""
        shown: dict[str, Any] = {
            "strategy": self.strategy.value,
            "description": self.description,
            "cause": self.cause,
            "risk_level": self.risk.value,
            "effects": list(self.effects),
            "port": self.moves[0].to_port if self.moves else None,
            "from_port": self.moves[0].from_port if self.moves else None,
            "service_id": self.moves[0].service_id if self.moves else None,
        }
        if self.process is not None:
            shown["confirm"] = confirmation(self.process)
        if self.container is not None:
            shown["container_id"] = self.container[0]
        return shown


class Resolver(Protocol):
    """One strategy."""

    strategy: Strategy

    def can_resolve(self, situation: Situation) -> bool:
        """Whether it fits this conflict at all."""
        ...

    def risk_level(self, situation: Situation) -> Risk:
        """What is at stake."""
        ...

    def resolve(self, situation: Situation) -> Resolution:
        """What would be done; only where `can_resolve`."""
        ...


def identity(holder: Mapping[str, Any] | None) -> str:
    """Who a holder is, told from whoever may have the port after it: what somebody has said yes to."""
    known = holder or {}
    return f"{known.get('container_id') or known.get('service_id') or known.get('pid')}@{known.get('start_ticks')}"


def confirmation(holder: Mapping[str, Any]) -> str:
    """What a person has to repeat before a process is ended: its name and pid."""
    return f"{holder.get('name') or 'process'} (pid {holder.get('pid')})"


class AutoPortMigration:
    """A claimant moves: to the port that its range offers, or (`change_port`) to the one that was named."""

    def __init__(self, strategy: Strategy = Strategy.MIGRATE_SERVICE) -> None:
        self.strategy = strategy

    def can_resolve(self, situation: Situation) -> bool:
        """Where a claimant has somewhere to go; a warning may be heeded as well."""
        if self.strategy is Strategy.CHANGE_PORT:
            return bool(situation.moves)
        return any(move.to_port is not None for move in situation.moves)

    def risk_level(self, situation: Situation) -> Risk:  # noqa: ARG002 - the same for all
        """Low: `undo` brings everything back."""
        return Risk.LOW

    def resolve(self, situation: Situation) -> Resolution:
        """The first claimant that can, moves; its running dependents that refer to it follow."""
        move = self._move(situation)
        where = f"port {move.to_port}" if move.to_port is not None else "the port that you name"
        followers = tuple(situation.dependents.get(move.service_id, ()))
        effects = [f"{move.service_id} listens on {where} instead of {move.from_port}"]
        if (situation.conflict.holder or {}).get("service_id") == move.service_id:
            others = ", ".join(each for each in situation.conflict.claimants if each != move.service_id)
            effects.append(f"port {move.from_port} is leased to {others} from then on")
        restarts: tuple[str, ...] = ()
        starts = _starts([move.service_id], situation, effects)
        if move.service_id in situation.up:
            effects.append(f"{move.service_id} is restarted")
            restarts = (move.service_id,)
        if followers and situation.restart_dependents:
            effects.append(f"restarted, since they refer to it: {', '.join(followers)}")
            restarts += followers
        elif followers:
            effects.append(f"not restarted, and out of date until they are: {', '.join(followers)}")
        return Resolution(
            self.strategy,
            self.risk_level(situation),
            situation.conflict.detail,
            f"move {move.service_id} to {where}",
            tuple(effects),
            (move,),
            restarts,
            starts,
        )

    def _move(self, situation: Situation) -> Move:
        if self.strategy is Strategy.MIGRATE_SERVICE:
            return next(move for move in situation.moves if move.to_port is not None)
        first = situation.moves[0]
        return Move(first.service_id, first.protocol, first.from_port, situation.port, first.port_name)


class StopContainer:
    """What has the port is stopped: a foreign container, or a service of CLOS."""

    strategy = Strategy.STOP_CONTAINER

    def can_resolve(self, situation: Situation) -> bool:
        """Where the holder is a container, or a service that runs. A stopped container holds nothing yet."""
        holder = situation.conflict.holder or {}
        if not holder.get("running"):
            return False
        return holder.get("kind") in ("container", "service") and bool(
            holder.get("service_id") or holder.get("container_id")
        )

    def risk_level(self, situation: Situation) -> Risk:  # noqa: ARG002 - the same for all
        """Medium: it can be started again."""
        return Risk.MEDIUM

    def resolve(self, situation: Situation) -> Resolution:
        """Stop the holder; what it held is free then."""
        holder = situation.conflict.holder or {}
        service_id, container_id = holder.get("service_id"), holder.get("container_id")
        name = str(holder.get("name") or service_id or container_id)
        if service_id:
            what, effects = f"the service {service_id}", [f"{service_id} is stopped and stays stopped"]
            if needing := situation.dependents.get(str(service_id), ()):
                effects.append(f"running services that refer to it lose it: {', '.join(needing)}")
            if situation.conflict.kind is ConflictKind.DUPLICATE_CLAIM:
                effects.append("both go on claiming the port, so the conflict lasts until one of them moves")
        else:
            what, effects = f"the container {name}", [f"the container {name}, which CLOS does not own, is stopped"]
        starts = _starts([c for c in situation.conflict.claimants if c != service_id], situation, effects)
        return Resolution(
            self.strategy,
            self.risk_level(situation),
            situation.conflict.detail,
            f"stop {what}",
            tuple(effects),
            starts=starts,
            stop_services=(str(service_id),) if service_id else (),
            container=None if service_id else (str(container_id), name),
        )


class ProcessTermination:
    """The foreign process that has the port is ended. Needs `ports:terminate` and a confirmation that names it."""

    strategy = Strategy.KILL_PROCESS

    def can_resolve(self, situation: Situation) -> bool:
        """Where the holder is a process that can be seen and that is not CLOS's own."""
        holder = situation.conflict.holder or {}
        return holder.get("kind") == "process" and holder.get("pid") is not None and not holder.get("own")

    def risk_level(self, situation: Situation) -> Risk:  # noqa: ARG002 - the same for all
        """High: what it was doing is lost, and CLOS cannot start it again."""
        return Risk.HIGH

    def resolve(self, situation: Situation) -> Resolution:
        """TERM, and KILL if it survives."""
        holder = situation.conflict.holder or {}
        command = f" ({holder['command']})" if holder.get("command") else ""
        effects = [
            f"{describe_holder(holder)}{command} gets TERM, and KILL if it has not ended after 5 s",
            "what it was doing is lost, and CLOS cannot start it again",
        ]
        starts = _starts(situation.conflict.claimants, situation, effects)
        return Resolution(
            self.strategy,
            self.risk_level(situation),
            situation.conflict.detail,
            f"end {describe_holder(holder)} of user {holder.get('user') or 'unknown'}",
            tuple(effects),
            starts=starts,
            process=holder,
        )


def _starts(service_ids: Sequence[str], situation: Situation, effects: list[str]) -> tuple[str, ...]:
    """Which of these have waited for the port, and are started once it is settled."""
    found = tuple(each for each in service_ids if each in situation.waiting)
    if found:
        effects.append(f"started, since they are wanted to run: {', '.join(found)}")
    return found


class UserPrompt:
    """Nobody decides yet: a person is asked, with all other options as choices."""

    strategy = Strategy.ASK

    def can_resolve(self, situation: Situation) -> bool:
        """Always, but for a mere warning."""
        return situation.conflict.kind is not ConflictKind.OUT_OF_RANGE

    def risk_level(self, situation: Situation) -> Risk:  # noqa: ARG002 - the same for all
        """Low: asking changes nothing."""
        return Risk.LOW

    def resolve(self, situation: Situation) -> Resolution:
        """An operation that waits for an answer."""
        return Resolution(self.strategy, Risk.LOW, situation.conflict.detail, "ask, and wait for the answer")


class Ignore:
    """It is left as it is, and no longer told of while it lasts."""

    strategy = Strategy.IGNORE

    def can_resolve(self, situation: Situation) -> bool:  # noqa: ARG002 - the same for all
        """Always."""
        return True

    def risk_level(self, situation: Situation) -> Risk:  # noqa: ARG002 - the same for all
        """Low: nothing changes."""
        return Risk.LOW

    def resolve(self, situation: Situation) -> Resolution:
        """Nothing."""
        effects = ("nothing changes; a start that needs the port goes on failing while it is held",)
        return Resolution(self.strategy, Risk.LOW, situation.conflict.detail, "leave it as it is", effects)


# In the order in which they are offered and, where policy decides, tried.
RESOLVERS: tuple[Resolver, ...] = (
    AutoPortMigration(),
    AutoPortMigration(Strategy.CHANGE_PORT),
    StopContainer(),
    ProcessTermination(),
    UserPrompt(),
    Ignore(),
)
# What policy does nothing about: nobody has the port, so a bind would succeed today.
LEFT_ALONE = frozenset({ConflictKind.OUT_OF_RANGE, ConflictKind.LATENT_CLAIM, ConflictKind.RESERVED})
_ACTING = (Strategy.MIGRATE_SERVICE, Strategy.STOP_CONTAINER)


def resolver(strategy: str) -> Resolver:
    """The strategy of that name."""
    return next(each for each in RESOLVERS if each.strategy == strategy)


def options(situation: Situation) -> list[dict[str, Any]]:
    """What a person can choose. Each claimant that could move is an option of its own."""
    found = []
    for each in RESOLVERS:
        if not each.can_resolve(situation):
            continue
        if each.strategy is Strategy.MIGRATE_SERVICE:
            found += [
                each.resolve(_only(situation, move)).option() for move in situation.moves if move.to_port is not None
            ]
            continue
        found.append(each.resolve(situation).option())
    return found


def _only(situation: Situation, move: Move) -> Situation:
    return replace(situation, moves=(move,))


def automatic(situation: Situation, max_risk: str) -> Resolution | None:
    """What policy may do without asking: the least risky strategy that acts, within `max_risk`; None if there is none.

    A process that CLOS does not own is never ended without a person's yes, whatever `max_risk` says.
    """
    for strategy in _ACTING:
        found = resolver(strategy)
        if found.can_resolve(situation) and found.risk_level(situation).within(max_risk):
            return found.resolve(situation)
    return None

"""What a take-over keeps: the containers that Compose made, what was promised to them, and whether it goes back.

It is written down before the first of them is stopped, so that whoever takes the operation over knows it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from domain.errors import EngineUnreachable
from domain.resolving import Decision
from models import operation_takeovers, operations
from workers.claims import Claim
from workers.context import Context
from workers.runtimes.docker_engine import DockerEngine

_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"


@dataclass(frozen=True)
class Foreign:
    """A container that Compose made for a service of the project."""

    ref: str
    name: str
    service: str
    running: bool

    @property
    def target(self) -> str:
        """What a step on it is called."""
        return f"container:{self.ref[:12]}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"container_id": self.ref, "name": self.name, "service": self.service, "running": self.running}


@dataclass(frozen=True)
class Promise:
    """What a take-over has written down before the first stop. `back` is there once it goes back: how it is to end."""

    group: str
    project: str
    containers: tuple[Foreign, ...]
    result: dict[str, Any]
    back: Mapping[str, Any] | None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Promise":
        """As it was written down."""
        containers = tuple(
            Foreign(each["container_id"], each["name"], each["service"], each["running"]) for each in kept["containers"]
        )
        return cls(kept["group"], kept["project"], containers, dict(kept["result"]), kept.get("back"))

    @property
    def ran(self) -> tuple[Foreign, ...]:
        """Those that ran before."""
        return tuple(each for each in self.containers if each.running)

    @property
    def decision(self) -> Decision:
        """What steps on them are told."""
        return Decision(containers=tuple((each.ref, each.name) for each in self.containers))


def find(context: Context, project: str, must: bool) -> list[Foreign]:
    """The containers that Compose made for a project. Where no engine answers there are none, unless they `must` be
    known.

    Raises:
        EngineUnreachable: they must, and it does not answer.
    """
    engine = context.runtimes.get("docker")
    if not isinstance(engine, DockerEngine):
        return []
    try:
        found = engine.foreign.labelled({_PROJECT: project})
    except EngineUnreachable:
        if must:
            raise
        return []
    return [
        Foreign(
            str(each["Id"]),
            next(iter(each.get("Names") or ()), "").lstrip("/"),
            str((each.get("Labels") or {}).get(_SERVICE) or ""),
            each.get("State") == "running",
        )
        for each in found
    ]


def read(context: Context, claim: Claim) -> Promise:
    """What was promised.

    Raises:
        ClaimLost: another worker has the operation.
    """
    with context.record.read() as session:
        return Promise.of(operations.held(session, claim.operation_id, claim.fence).compensation or {})


def promise(
    context: Context,
    claim: Claim,
    group: str,
    project: str,
    foreign: Sequence[Foreign],
    result: Mapping[str, Any],
    write: Callable[[Session], None],
) -> None:
    """Write the group (`write`), and what is promised to its project's containers, before the first of them is stopped.

    From here on whoever takes the operation over goes on with this, and reads no file again. What an earlier take-over
    stopped and did not start again is one of those that ran.
    """
    with context.record.write() as session:
        held = operations.held(session, claim.operation_id, claim.fence)
        write(session)
        ran = operation_takeovers.ran_before(session, group)
        found = [replace(each, running=each.running or each.ref in ran) for each in foreign]
        held.compensation = {
            "group": group,
            "project": project,
            "containers": [each.as_dict() for each in found],
            "result": dict(result),
        }
    context.feed.wake()


def turn_back(context: Context, claim: Claim, end: Mapping[str, Any]) -> None:
    """Write down that it goes back, and why: a further attempt does not try the way forward once more."""
    with context.record.write() as session:
        operation_takeovers.turn_back(operations.held(session, claim.operation_id, claim.fence), end)

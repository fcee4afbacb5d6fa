"""Which container holds a port."""

from collections.abc import Iterable
from typing import Any

from workers.runtimes.docker_errors import TakenPort, reason
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_observation import Summary

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound


def holder_of(taken: TakenPort, containers: Iterable[Summary], marks: Marks) -> dict[str, Any] | None:
    """The container that publishes a port (interface.md, Holder); None if it is none of this engine's."""
    for summary in containers:
        for port in summary.get("Ports") or ():
            same = (port.get("PublicPort"), port.get("Type")) == (taken.port, taken.protocol)
            if same and _overlap(port.get("IP", ""), taken.host_ip):
                return as_holder(summary, marks)
    return None


def as_holder(summary: Summary, marks: Marks) -> dict[str, Any]:
    """A container as a Holder."""
    labels = summary.get("Labels") or {}
    own = marks.ours(labels)
    service_id = labels.get(marks.label("service")) if own else None
    name = next(iter(summary.get("Names") or ()), "").lstrip("/")
    return {
        "kind": "service" if service_id else "container",
        "running": True,
        "name": service_id or name,
        "container_id": summary["Id"],
        "service_id": service_id,
        "pid": None,
        "command": reason(str(summary.get("Command") or "")) or None,
        "user": None,
        "started_at": None,
        "own": own,
    }


def _overlap(one: str, other: str) -> bool:
    return one == other or one in _EVERYWHERE or other in _EVERYWHERE

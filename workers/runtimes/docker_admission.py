"""The administrator's policy at the moment of the effect: paths are followed to where they are, and mounted there.

A definition may be older than the policy, and a folder may have become a link since it was checked (pitfalls 7.1, 7.4).
The engine follows links by itself, at each start. So what is mounted is the path without links that was checked, and
right before and right after a start it must still lead to itself.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from domain.container_policy import ContainerPolicy, PolicyDenied, Violation, refuse, sources
from domain.specs import ServiceSpec


class Admission:
    """Lets containers in, or names what they may not have."""

    def __init__(self, policy: ContainerPolicy) -> None:
        self._policy = policy

    def refuse(self, spec: ServiceSpec) -> None:
        """Raises: PolicyDenied: it asks for what it may not have, as its paths lead now."""
        refuse(spec, self._policy, os.path.realpath)

    def real(self, spec: ServiceSpec) -> dict[str, str]:
        """Where each path that it mounts really is. What is allowed by its own name keeps it."""
        return {
            source: source if self._policy.binds.harmless(source, read_only=read_only) else os.path.realpath(source)
            for _, source, read_only, just_read in sources(spec)
            if not just_read
        }

    def refuse_swapped(self, spec: ServiceSpec, inspected: Mapping[str, Any]) -> None:
        """Raises: PolicyDenied: a path that its container mounts has become a link to somewhere else."""
        moved = [
            Violation("volumes", f"{source} has become a link to {os.path.realpath(source)}", "nothing allows it")
            for source, read_only in _mounted(inspected)
            if not self._policy.binds.harmless(source, read_only=read_only) and os.path.realpath(source) != source
        ]
        if moved:
            raise PolicyDenied(spec.id, moved)


def _mounted(inspected: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The host's paths in a container, as it was told of them, and whether they are only read."""
    host = inspected.get("HostConfig") or {}
    for bind in host.get("Binds") or ():
        source, _, rest = bind.partition(":")
        if source.startswith("/"):
            yield source, "ro" in rest.rpartition(":")[2].split(",")
    for mount in host.get("Mounts") or ():
        if mount.get("Type") == "bind":
            yield mount["Source"], bool(mount.get("ReadOnly"))

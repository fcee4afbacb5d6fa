"""A group's network: there from its first container to its last (an engine has room for about thirty).

Several threads and processes make and remove at once, and the engine allows two networks of one name. No lock
spans processes: whoever makes one looks again and keeps the oldest, containers name a network by its id, and a
start that finds its network gone makes its container anew (`docker_engine.start`). So all ends with one network,
also where a process died in the middle holding whatever lock there might have been.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from docker.errors import APIError

from domain.errors import StartFailed
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import Marks, slug
from workers.runtimes.docker_errors import reason, status

log = structlog.get_logger()


def names_of(spec: ServiceSpec) -> list[str]:
    """The logical networks of a service, the group's first; none where it uses the host's, or has no network."""
    if spec.network_mode in ("host", "none"):
        return []
    if spec.network_mode != "bridge":
        raise StartFailed(
            f"network_mode {spec.network_mode!r} of {spec.id} is not supported",
            hint="use bridge, host or none, and `networks` to join further networks",
        )
    own = slug(spec.network_name) if spec.network_name else f"clos-{slug(spec.group)}"
    return list(dict.fromkeys([own, *(slug(name) for name in spec.networks)]))


class Networks:
    """Makes, finds and removes the networks of this installation."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks
        self._lock = threading.Lock()
        # Networks for which a container is being made just now: they stay, though none uses them yet.
        self._awaited: Counter[str] = Counter()

    @contextmanager
    def held(self, spec: ServiceSpec) -> Iterator[dict[str, str]]:
        """The ids of the service's networks by logical name, made where missing; they stay inside the block.

        Raises:
            docker.errors.APIError: the engine refused one.
        """
        names = names_of(spec)
        with self._lock:
            self._awaited.update(names)
        try:
            yield {name: self._ensure(name, spec) for name in names}
        finally:
            with self._lock:
                self._awaited.subtract(names)

    def release(self, names: Iterable[str]) -> None:
        """Remove those of ours among `names` that no container of ours refers to, running or not."""
        wanted = {name for name in names if name}
        if not wanted:
            return
        with self._lock:
            unused = wanted - self._used() - {name for name, count in self._awaited.items() if count > 0}
            for name in unused:
                for network in self._ours(name):
                    self._remove(network["Id"])

    def _used(self) -> set[str]:
        containers = self._client.api().containers(all=True, filters=self._marks.filters())
        label = self._marks.label("networks")
        return {name for each in containers for name in ((each.get("Labels") or {}).get(label) or "").split(",")}

    def _ours(self, name: str) -> list[Mapping[str, Any]]:
        found = self._client.api().networks(filters=self._marks.filters(network=name))
        return sorted(found, key=lambda network: (network.get("Created", ""), network["Id"]))

    def _ensure(self, name: str, spec: ServiceSpec) -> str:
        with self._lock:
            if ours := self._ours(name):
                return str(ours[0]["Id"])
            docker_name = name
            if foreign := self._named(name):
                if name != f"clos-{slug(spec.group)}":
                    return foreign  # the service names a network that somebody else made: joined, never removed
                docker_name = f"{name}-{slug(self._marks.instance_id[:8])}"
            self._make(docker_name, name, spec.group)
            return self._keep_oldest(name)

    def _named(self, name: str) -> str | None:
        # The engine's filter finds parts of names, too.
        found = self._client.api().networks(names=[name])
        return next((str(each["Id"]) for each in found if each.get("Name") == name), None)

    def _make(self, docker_name: str, name: str, group: str) -> None:
        labels = {
            self._marks.label("instance"): self._marks.instance_id,
            self._marks.label("group"): group,
            self._marks.label("network"): name,
        }
        try:
            self._client.api().create_network(docker_name, driver="bridge", check_duplicate=True, labels=labels)
        except APIError as error:
            # Another process of ours was quicker: its network is found by label.
            if status(error) != 409 or "already exists" not in reason(error):
                raise
            if not self._ours(name):
                raise
        log.info("network.created", network=docker_name, group=group)

    def _keep_oldest(self, name: str) -> str:
        found = self._ours(name)
        if not found:
            raise StartFailed(f"network {name} was removed while it was made", hint="try again")
        for twin in found[1:]:
            self._remove(twin["Id"])
        return str(found[0]["Id"])

    def _remove(self, network_id: str) -> None:
        try:
            self._client.api().remove_network(network_id)
        except APIError as error:
            # Gone already, or somebody else's container has joined it: then it stays.
            if status(error) not in (403, 404, 409) and "active endpoints" not in reason(error):
                raise
            log.info("network.kept", network=network_id, why=reason(error))

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
from dataclasses import replace
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
    """The logical networks of a service: its group's first, then those that it names, then those of groups that it
    refers to; none where it uses the host's, or has no network."""
    if spec.network_mode in ("host", "none"):
        return []
    if spec.network_mode != "bridge":
        raise StartFailed(
            f"network_mode {spec.network_mode!r} of {spec.id} is not supported",
            hint="use bridge, host or none, and `networks` to join further networks",
        )
    own = _of_group(spec.group, spec.network_name)
    joined = (_of_group(*each) for each in spec.joins)
    return list(dict.fromkeys([own, *(slug(name) for name in spec.networks), *joined]))


def only_joined(spec: ServiceSpec) -> set[str]:
    """Those in which it only looks for others: it has no name there, since the group has names of its own."""
    return set(names_of(spec)) - set(names_of(replace(spec, joins=())))


def _of_group(group: str, network_name: str) -> str:
    return slug(network_name) if network_name else f"clos-{slug(group)}"


def _groups_of(spec: ServiceSpec) -> dict[str, str]:
    """The groups whose own networks, of CLOS's naming, are meant, by the networks' names."""
    own = ((spec.group, spec.network_name), *spec.joins)
    return {_of_group(group, network_name): group for group, network_name in own if not network_name}


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
            groups = _groups_of(spec)
            docker_name = name
            if foreign := self._named(name):
                if name not in groups and not self._of_another(name, foreign):
                    # The service names a network that somebody else made: joined, never removed.
                    return str(foreign["Id"])
                docker_name = f"{name}-{slug(self._marks.instance_id[:8])}"
            self._make(docker_name, name, groups.get(name, spec.group))
            return self._keep_oldest(name)

    def _of_another(self, name: str, network: Mapping[str, Any]) -> bool:
        """Whether another CLOS made it for a group of its own: those services are none of ours."""
        labels = network.get("Labels") or {}
        made_by_clos = name.startswith("clos-") and self._marks.label("network") in labels
        return made_by_clos and not self._marks.ours(labels)

    def _named(self, name: str) -> Mapping[str, Any] | None:
        # The engine's filter finds parts of names, too.
        found = self._client.api().networks(names=[name])
        return next((each for each in found if each.get("Name") == name), None)

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

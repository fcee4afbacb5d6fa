"""Containers that are made on others: `service:x` namespaces, links, the volumes of another."""

from collections.abc import Callable, Mapping
from typing import Any

from domain.container import services_named
from domain.errors import StartFailed
from domain.observation import Instance
from domain.specs import ServiceSpec
from workers.runtimes.docker_endpoints import attached_text
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_observation import Summary


class Attachments:
    """Which containers a service's own is made on, and whether they still are those."""

    def __init__(
        self,
        marks: Marks,
        find: Callable[[str], Summary | None],
        inspect: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        self._marks = marks
        self._find = find
        self._inspect = inspect

    def of(self, spec: ServiceSpec) -> dict[str, str]:
        """The ids of the containers of those services that it names, by their names.

        Raises:
            StartFailed: one has no container.
        """
        known = spec.definitions.get("services") or {}
        found = {}
        for name in sorted(services_named(spec.container, spec.network_mode)):
            there = self._find(known[name]) if name in known else None
            if there is None:
                raise StartFailed(
                    f"{spec.id} is made on the container of {name}, which has none",
                    hint=f"start {name} of group {spec.group} first",
                    service=name,
                )
            found[name] = str(there["Id"])
        return found

    def stand(self, instance: Instance, spec: ServiceSpec) -> bool:
        """Whether the containers that it was made on are still those of their services; what runs is left alone."""
        if instance.alive or not services_named(spec.container, spec.network_mode):
            return True
        inspected = self._inspect(instance.ref or "") or {}
        labels = (inspected.get("Config") or {}).get("Labels") or {}
        return labels.get(self._marks.label("attached")) == attached_text(self.of(spec))

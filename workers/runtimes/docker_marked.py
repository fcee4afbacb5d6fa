"""Containers with our mark, whoever made them: which there are beside those that count, what they are, their end."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from docker.errors import APIError

from domain.errors import NotOurs
from domain.observation import Instance, Sighting
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_containers import Containers
from workers.runtimes.docker_definition import definition_of
from workers.runtimes.docker_errors import removal_in_progress, status, translated
from workers.runtimes.docker_events import Events
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_networks import Networks
from workers.runtimes.docker_sighting import EngineSighting
from workers.runtimes.fence import before_effect


class Marked:
    """The part of the Docker runtime that does not ask for a service's spec."""

    _client: EngineClient
    _marks: Marks
    _containers: Containers
    _networks: Networks
    _events: Events
    _sighting: EngineSighting

    def sighting(self) -> Sighting:
        """Who the engine is and since when it runs. Raises EngineUnreachable."""
        return self._sighting.ask()

    def changes(self, stop: Callable[[], bool]) -> Iterator[str | None]:
        """Ids of services as something happens to their containers. Raises EngineUnreachable."""
        return self._events.changes(stop)

    def beside(self) -> Sequence[Instance]:
        """Second containers of a service, as the last look found them."""
        return self._containers.observation.beside

    def describe(self, ref: str) -> Mapping[str, Any]:
        """What a container would be as a service: see `definition_of`; with its `name` and `group`."""
        with translated(f"look at the container {ref[:12]}", base_url=self._client.base_url, looking=True):
            inspected = self._containers.inspect(ref)
            if inspected is None:
                return {}
            try:
                image = self._client.api().inspect_image(inspected.get("Image"))
            except APIError as error:
                if status(error) != 404:
                    raise
                image = {}
        labels = (inspected.get("Config") or {}).get("Labels") or {}
        return {
            **definition_of(inspected, image, self._marks),
            "container_name": str(inspected.get("Name") or "").lstrip("/"),
            "group": labels.get(self._marks.label("group")),
        }

    def discard(self, ref: str, timeout_s: float) -> None:
        """Stop and remove one container with our mark, and its networks with their last one.

        Raises:
            NotOurs: it does not carry our mark.
        """
        with translated(f"cannot remove the container {ref[:12]}", base_url=self._client.base_url):
            inspected = self._containers.inspect(ref)
            if inspected is None:
                return
            labels = (inspected.get("Config") or {}).get("Labels") or {}
            if not self._marks.ours(labels):
                raise NotOurs(f"the container {ref[:12]} is not this installation's", hint="it is left as it is")
            before_effect()
            try:
                self._client.api().stop(ref, timeout=max(math.ceil(timeout_s), 0))
            except APIError as error:
                if status(error) not in (304, 404) and not removal_in_progress(error):
                    raise
            self._containers.discard(ref)
            self._networks.release((labels.get(self._marks.label("networks")) or "").split(","))

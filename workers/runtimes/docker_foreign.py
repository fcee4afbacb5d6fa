"""Containers that others made and a person has told CLOS to take over: found by their labels, run and removed."""

from collections.abc import Mapping
from typing import Any

from docker.errors import APIError

from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_errors import removal_in_progress, status, translated
from workers.runtimes.docker_names import Marks
from workers.runtimes.fence import before_effect


class ForeignContainers:
    """Those that are none of this installation's. Nothing is done to one that nobody has named."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks

    def labelled(self, labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """Those with all of these labels, running or not, as the engine lists them.

        Raises:
            EngineUnreachable: it does not answer.
        """
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        with translated("look at the containers", base_url=self._client.base_url, looking=True):
            found = self._client.api().containers(all=True, filters=wanted)
        return [each for each in found if not self._marks.ours(each.get("Labels") or {})]

    def start(self, ref: str) -> None:
        """Start one. One that runs is success.

        Raises:
            ClosError: the engine refuses or does not answer, or it is gone.
        """
        with translated(f"cannot start the container {ref[:12]}", base_url=self._client.base_url):
            before_effect()
            self._client.api().start(ref)

    def remove(self, ref: str) -> None:
        """Remove one that does not run; its volumes stay. One that is gone is success.

        Raises:
            ClosError: it runs, or the engine refuses or does not answer.
        """
        with translated(f"cannot remove the container {ref[:12]}", base_url=self._client.base_url):
            before_effect()
            try:
                self._client.api().remove_container(ref, v=False)
            except APIError as error:
                if status(error) != 404 and not removal_in_progress(error):
                    raise

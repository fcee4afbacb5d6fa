"""The volumes that groups define: made with their options before they are mounted, and never removed here.

What a service names without a definition is the engine's own, made when it is mounted and nobody's to remove.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from docker.errors import APIError

from domain.clone_storage import MARK
from domain.errors import StartFailed
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_errors import status
from workers.runtimes.docker_mounts import engine_volume
from workers.runtimes.docker_names import Marks
from workers.runtimes.fence import before_effect

log = structlog.get_logger()


class Volumes:
    """Makes and finds the volumes of this installation. Raises docker-py's errors as they come."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks

    def have(self, spec: ServiceSpec, real: Mapping[str, str]) -> None:
        """Have the volumes that the group defines and the service mounts. `real` are the host's paths without links.

        Raises:
            StartFailed: one that others make is not there, or the one that is there has another driver.
        """
        for key, definition in (spec.definitions.get("volumes") or {}).items():
            name = engine_volume(spec, key)
            there = self._inspect(name)
            if there is not None:
                self._see_that_it_fits(name, there, _really(definition, real))
            elif definition.get("external"):
                raise _missing(name, spec)
            else:
                self._make(name, key, _really(definition, real), spec.group)

    def refuse_missing(self, spec: ServiceSpec) -> None:
        """Raises: StartFailed: a volume that others make is not there. Nothing is made."""
        for key, definition in (spec.definitions.get("volumes") or {}).items():
            name = engine_volume(spec, key)
            if definition.get("external") and self._inspect(name) is None:
                raise _missing(name, spec)

    def _inspect(self, name: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._client.api().inspect_volume(name)
        except APIError as error:
            if status(error) == 404:
                return None
            raise
        return found

    @staticmethod
    def _see_that_it_fits(name: str, there: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
        """Data is never thrown away for a change of options: that is for people to decide."""
        if definition.get("external"):
            return
        mark = (definition.get("labels") or {}).get(MARK)
        if mark is not None and (there.get("Labels") or {}).get(MARK) != mark:
            raise StartFailed(
                f"volume {name} was there before this clone, so it is not its own",
                hint="remove it (`docker volume rm`), or clone under another name",
                volume=name,
            )
        driver, options = definition.get("driver") or "local", _texts(definition.get("driver_opts"))
        if there.get("Driver") != driver or (there.get("Options") or {}) != options:
            raise StartFailed(
                f"volume {name} is there with other options than it is defined with",
                hint=f"keep what it has in, remove it (`docker volume rm {name}`), then start again",
                volume=name,
            )

    def _make(self, name: str, key: str, definition: Mapping[str, Any], group: str) -> None:
        labels = _texts(definition.get("labels")) | {
            self._marks.label("instance"): self._marks.instance_id,
            self._marks.label("group"): group,
            self._marks.label("volume"): key,
        }
        before_effect()
        # Two who make one at once both get it: the engine makes a volume of one name once.
        self._client.api().create_volume(
            name, driver=definition.get("driver"), driver_opts=_texts(definition.get("driver_opts")), labels=labels
        )
        log.info("volume.created", volume=name, group=group)


def _missing(name: str, spec: ServiceSpec) -> StartFailed:
    return StartFailed(
        f"volume {name} is external to group {spec.group}, and there is none",
        hint=f"make it (`docker volume create {name}`), or leave `external` out: then CLOS makes it",
        volume=name,
    )


def _really(definition: Mapping[str, Any], real: Mapping[str, str]) -> Mapping[str, Any]:
    options = definition.get("driver_opts") or {}
    device = str(options.get("device"))
    return {**definition, "driver_opts": {**options, "device": real[device]}} if device in real else definition


def _texts(mapping: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (mapping or {}).items()}

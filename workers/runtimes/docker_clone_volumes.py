"""Volumes that were made for one clone: known by their mark, removed with it."""

from typing import Any

import structlog
from docker.errors import APIError

from domain.clone_storage import MARK
from domain.errors import VolumeInUse
from workers.runtimes.docker_errors import reason, status
from workers.runtimes.fence import before_effect

log = structlog.get_logger()


def remove(api: Any, name: str, mark: str) -> None:
    """Remove the volume of that name if it carries that mark. One that is gone, or another's, is left as it is.

    Raises:
        VolumeInUse: a container that is not the clone's has it.
        docker.errors.APIError: the engine refused for another reason.
    """
    try:
        found = api.inspect_volume(name)
    except APIError as error:
        if status(error) == 404:
            return
        raise
    if (found.get("Labels") or {}).get(MARK) != mark:
        log.info("volume.kept", volume=name, why="it was not made for this clone")
        return
    before_effect()
    try:
        api.remove_volume(name)
    except APIError as error:
        if status(error) == 404:
            return
        if status(error) == 409:
            raise _in_use(api, name, error) from error
        raise
    log.info("volume.removed", volume=name)


def _in_use(api: Any, name: str, error: APIError) -> VolumeInUse:
    holders = api.containers(all=True, filters={"volume": [name]})
    names = sorted(str(next(iter(each.get("Names") or ()), each["Id"][:12])).lstrip("/") for each in holders)
    return VolumeInUse(name, names, reason(error))

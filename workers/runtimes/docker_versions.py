"""What an engine has to be for what a service asks of it: an old one would drop it without a word."""

import re
from collections.abc import Iterator

from domain.errors import StartFailed
from domain.specs import ServiceSpec

_OF_THE_CONTAINER = {"annotations": "1.43"}


class EngineTooOld(StartFailed):
    """The engine cannot carry out something that the service asks for; `needs` names each, with the API's version."""

    code = "engine_too_old"


def refuse_unknown(spec: ServiceSpec, api_version: str) -> None:
    """Raises: EngineTooOld: the engine would leave something out."""
    lacking = {path: needed for path, needed in _needs(spec) if _number(needed) > _number(api_version)}
    if lacking:
        told = ", ".join(f"{path} (API {needed})" for path, needed in lacking.items())
        raise EngineTooOld(
            f"{spec.id} asks for what this engine (API {api_version}) does not know: {told}",
            hint="leave it out, or bring the engine up to date",
            needs=lacking,
        )


def _needs(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    given = spec.container
    yield from ((f"container.{key}", needed) for key, needed in _OF_THE_CONTAINER.items() if given.get(key))
    if (given.get("healthcheck") or {}).get("start_interval"):
        yield "container.healthcheck.start_interval", "1.44"
    for place, volume in enumerate(given.get("volumes") or ()):
        path = f"container.volumes[{place}]"
        if (volume.get("volume") or {}).get("subpath"):
            yield f"{path}.volume.subpath", "1.45"
        if volume["type"] == "image":
            yield f"{path}.type", "1.48"
        if (volume.get("bind") or {}).get("recursive") in ("writable", "readonly"):
            yield f"{path}.bind.recursive", "1.44"
    yield from _needs_of_networks(spec)


def _needs_of_networks(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    for name, attachment in (spec.container.get("networks") or {}).items():
        path = f"container.networks.{name}"
        if (attachment or {}).get("gw_priority"):
            yield f"{path}.gw_priority", "1.48"
        if (attachment or {}).get("interface_name"):
            yield f"{path}.interface_name", "1.49"
    for name, network in (spec.definitions.get("networks") or {}).items():
        if network.get("enable_ipv4") is False:
            yield f"networks.{name}.enable_ipv4", "1.47"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))

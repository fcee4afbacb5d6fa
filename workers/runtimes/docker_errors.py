"""What Docker's engine says, in CLOS's words: translated by type, status and text (pitfalls 5.4-5.6)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import urllib3.exceptions
from docker.errors import APIError, DockerException

from domain.errors import (
    AddressPoolExhausted,
    ClosError,
    EngineUnreachable,
    ImageMissing,
    ImagePullFailed,
    PermissionRefused,
    StartFailed,
    TimedOut,
)
from domain.specs import PortRequest

START_DOCKER = "start Docker (`systemctl start docker`, or Docker Desktop), or set DOCKER_HOST"
JOIN_DOCKER = "this user may not use Docker's socket: add it to the group `docker`, then log in again"
POOLS_HINT = (
    "every group has a network of its own: stop groups, remove unused networks (`docker network prune`), "
    "or widen `default-address-pools` in the engine's daemon.json"
)
# What reading or connecting can end with while the engine is gone or silent.
BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError)

_PORT_TAKEN = re.compile(
    r"port is already allocated|address already in use|ports are not available|failed to bind host port"
    r"|only one usage of each socket address",
    re.IGNORECASE,
)
_PORT_ADDRESSES = (
    re.compile(r"Bind for (?P<ip>\S*):(?P<port>\d+) failed"),
    re.compile(r"listen (?P<proto>tcp|udp)[46]? (?P<ip>\S*?):(?P<port>\d+):"),
    re.compile(r"exposing port (?P<proto>TCP|UDP) (?P<ip>\S*?):(?P<port>\d+) "),
    re.compile(r"bind host port (?:for )?(?P<ip>\[[^]]*\]|[\d.]*):(?P<port>\d+)[:/](?:\S*/)?(?P<proto>tcp|udp)?"),
)
_NO_POOL = re.compile(r"non-overlapping IPv[46] address pool|predefined address pools", re.IGNORECASE)
_NO_IMAGE = re.compile(
    r"no such image|manifest unknown|manifest for \S+ not found|repository does not exist|name unknown"
    r"|repository name not known|no pull access|pull access denied|reference does not exist"
    r"|invalid reference format|unable to find image|not found: does not exist",
    re.IGNORECASE,
)
# Up to engine 27, and from 28 on.
_RUNS = re.compile(r"remove a running container|container is running")
_NO_ADDRESS = "cannot assign requested address"
_NO_COMMAND = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
_WRONG_FORMAT = re.compile(r"exec format error", re.IGNORECASE)
_NETWORK_GONE = re.compile(r"network \S+ not found|could not find network|network \S+ is ambiguous", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class TakenPort:
    """The address that the engine could not bind."""

    port: int
    protocol: str
    host_ip: str


def reason(error: APIError | str) -> str:
    """The engine's own words, bounded and without control characters (they are others' text)."""
    text = error if isinstance(error, str) else str(error.explanation or error)
    return _CONTROL.sub(" ", text).strip()[:1000]


def status(error: APIError) -> int:
    """The HTTP status, 0 if there is none."""
    return error.response.status_code if error.response is not None else 0


def removal_in_progress(error: APIError) -> bool:
    """Whether another one is removing the container just now."""
    return status(error) == 409 and "removal of container" in reason(error)


def container_vanished(error: APIError) -> bool:
    """Whether somebody removed the container meanwhile, or is about to."""
    text = reason(error).lower()
    gone = status(error) == 404 and "no such container" in text
    return gone or removal_in_progress(error) or "marked for removal" in text


def still_runs(error: APIError) -> bool:
    """Whether a removal was refused because the container runs."""
    return status(error) == 409 and bool(_RUNS.search(reason(error)))


def network_vanished(error: APIError) -> bool:
    """Whether a start failed because the container's network was removed, or had a twin for a moment."""
    return bool(_NETWORK_GONE.search(reason(error)))


def taken_port(text: str, ports: Sequence[PortRequest]) -> TakenPort | None:
    """The port that the engine names as taken; None if its text is about something else."""
    if not _PORT_TAKEN.search(text) or _NO_ADDRESS in text:
        return None
    for pattern in _PORT_ADDRESSES:
        if found := pattern.search(text):
            named = found.groupdict()
            port = int(named["port"])
            asked = next((p for p in ports if p.host_port == port), None)
            protocol = named.get("proto") or (asked.protocol if asked else "tcp")
            return TakenPort(port, protocol.lower(), named["ip"].strip("[]") or (asked.host_ip if asked else ""))
    asked = next((p for p in ports if p.host_port), None)
    return TakenPort(asked.host_port or 0, asked.protocol, asked.host_ip) if asked else None


def unreachable(error: BaseException, base_url: str = "") -> EngineUnreachable:
    """The engine is absent, hanging, or broke the connection."""
    text = reason(str(error))
    if re.search("timed out", text, re.IGNORECASE) or isinstance(error, TimeoutError):
        return EngineUnreachable(
            f"Docker's engine does not answer in time: {text}",
            hint=f"it hangs, or is overloaded: look at its log, or restart it; else {START_DOCKER}",
            address=base_url,
        )
    hint = JOIN_DOCKER if "ermission denied" in text else START_DOCKER
    return EngineUnreachable(f"Docker's engine cannot be reached: {text}", hint=hint, address=base_url)


def image_error(text: str, ref: str) -> ClosError:
    """Why an image is not to be had: it does not exist, or the way to it is broken."""
    text = reason(text)
    if _NO_IMAGE.search(text):
        return ImageMissing(
            f"image {ref} is not to be had: {text}",
            hint=f"check the name; try `docker pull {ref}` (or `docker login` first), or give `build:`",
            image=ref,
        )
    return ImagePullFailed(
        f"image {ref} could not be pulled: {text}",
        hint=f"check the network and the registry, try `docker pull {ref}`, or give `build:`",
        image=ref,
    )


def from_api(error: APIError, doing: str, image: str | None = None) -> ClosError:
    """A refusal of the engine that has no closer meaning where it happened."""
    text = reason(error)
    if _NO_POOL.search(text):
        return AddressPoolExhausted(f"{doing}: {text}", hint=POOLS_HINT)
    if _NO_IMAGE.search(text) and image:
        return image_error(text, image)
    if status(error) == 503:
        return unreachable(error)
    if status(error) == 403 or "permission denied" in text or "operation not permitted" in text:
        return PermissionRefused(f"{doing}: {text}", hint="the engine or the operating system forbids it")
    if "did not receive an exit event" in text:
        return TimedOut(f"{doing}: {text}", hint="the engine cannot end it: look for a process stuck in the kernel")
    return StartFailed(f"{doing}: {text}", hint=_start_hint(text))


def _start_hint(text: str) -> str | None:
    if _WRONG_FORMAT.search(text):
        return "the image or its command is for another CPU, or is a script without `#!`"
    if _NO_COMMAND.search(text):
        return "the image has no such program, or a path in `command`, `working_dir` or `volumes` does not exist"
    if _NO_ADDRESS in text:
        return "this machine has no such address: correct the port's host_ip"
    return None


@contextmanager
def translated(doing: str, *, base_url: str = "", image: str | None = None, looking: bool = False) -> Iterator[None]:
    """Turn what docker-py raises into `domain.errors`.

    With `looking`, nothing is changed inside, and a refusal means that the engine cannot be asked.
    """
    try:
        yield
    except APIError as error:
        if looking:
            raise unreachable(error, base_url) from error
        raise from_api(error, doing, image) from error
    except BROKEN as error:
        raise unreachable(error, base_url) from error

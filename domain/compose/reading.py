"""A normalised Compose project as a group of CLOS: the body of `POST /groups`."""

import ipaddress
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from domain import container
from domain.compose import extension, mounts
from domain.compose.problems import Problem
from domain.compose.services import ServiceReader

_NAME = re.compile(extension.NAME)
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?:\.[A-Za-z0-9-]+|:[0-9]{1,5})/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_LONGEST = 32_768
_MOST_SERVICES = 200
_NOT_DONE = {"models": "CLOS runs no models", "jobs": "CLOS runs no jobs of Compose's"}


@dataclass(frozen=True, slots=True)
class Imported:
    """What a project comes to. `body` is complete but for what `problems` names."""

    body: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def read_group(
    model: Mapping[str, Any],
    name: str,
    directory: str | None,
    values: Mapping[str, str] | None = None,
    *,
    keep_network_names: bool = False,
) -> Imported:
    """The group that a project is.

    `values` are what its secrets and configs take from variables. `keep_network_names`: networks keep the engine's
    names that Compose gives them, so that its containers and those of CLOS meet in them.
    """
    own = extension.well_formed(model, group=True)
    readers = [
        ServiceReader(str(key), service or {}, model, values or {})
        for key, service in (model.get("services") or {}).items()
    ]
    body = _group(model, name, directory, own, keep_network_names)
    body["services"] = [reader.body for reader in readers]
    for service in body["services"]:
        if service["runtime"] != "docker" and service.get("working_dir") and directory:
            # A process's folder counts from the project's, as all paths of the file do.
            service["working_dir"] = posixpath.normpath(posixpath.join(directory, service["working_dir"]))
    problems = [*extension.problems(model.get("x-clos"), "x-clos", group=True)]
    problems += [Problem(key, reason) for key, reason in _NOT_DONE.items() if model.get(key)]
    problems += [Problem(each.path, each.text) for each in container.check_networks(body.get("networks") or {})]
    problems += [Problem(each.path, each.text) for each in container.check_volumes(body.get("volumes") or {})]
    for reader in readers:
        problems += reader.problems or list(_wrong(reader))
    problems += _of_the_group(body)
    warnings = [warning for reader in readers for warning in reader.warnings]
    return Imported(body, tuple(problems), tuple(warnings))


def _group(
    model: Mapping[str, Any], name: str, directory: str | None, own: Mapping[str, Any], keep: bool
) -> dict[str, Any]:
    project = str(model.get("name") or name)
    used = model.get("networks") or {}
    networks = {
        str(key): found
        for key, each in used.items()
        if not mounts.is_implicit(each)
        if (found := mounts.network_definition(str(key), each or {}, project, keep)) or key != "default"
    }
    volumes = {
        str(key): mounts.volume_definition(str(key), each or {})
        for key, each in (model.get("volumes") or {}).items()
        if not mounts.is_implicit(each)
    }
    networks |= _mapping(own.get("networks"))
    volumes |= _mapping(own.get("volumes"))
    body: dict[str, Any] = {"name": name, "directory": directory, "networks": networks, "volumes": volumes}
    if named := (networks.get("default") or {}).get("name"):
        body["network_name"] = named  # the group's own network
    body |= {key: own[key] for key in extension.GROUP_FIELDS if key in own}
    return {key: value for key, value in body.items() if value not in (None, {})}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _of_the_group(body: Mapping[str, Any]) -> Iterator[Problem]:
    if not _NAME.fullmatch(body["name"]) or len(body["name"]) > 50:
        yield Problem("name", f"{body['name'][:100]!r} is no group's name: at most 50 letters, digits, _ . -")
    if not body["services"]:
        yield Problem("services", "there is none")
    if len(body["services"]) > _MOST_SERVICES:
        yield Problem("services", f"more than {_MOST_SERVICES}")


def _wrong(reader: ServiceReader) -> Iterator[Problem]:
    """What Compose takes and CLOS's own rules do not (api/v2/service_schemas.py)."""
    body, path = reader.body, f"services.{reader.name}"
    if not _NAME.fullmatch(str(body["name"])) or len(body["name"]) > 100:
        yield Problem(
            path, "a service's name is at most 100 letters, digits, _ . - and begins with one of the first two"
        )
    if "image" in body and (not _IMAGE.fullmatch(body["image"]) or len(body["image"]) > 500):
        yield Problem(f"{path}.image", f"{body['image'][:100]!r} is no image's name")
    if reader.runtime == "docker" and not (body.get("image") or body.get("build")):
        yield Problem(path, "a container needs an image or a build")
    if reader.runtime == "process" and not body.get("command"):
        yield Problem(path, "a process needs a command")
    if "user" in body and not _USER.fullmatch(body["user"]):
        yield Problem(f"{path}.user", f"{body['user'][:100]!r} is no user's name")
    for key, value in (body["environment"] | (body.get("secrets") or {})).items():
        if not _VARIABLE.fullmatch(key) or len(key) > 255:
            yield Problem(f"{path}.environment.{key[:100]}", "no variable's name: letters, digits, _ . -")
        if len(value or "") > _LONGEST or "\x00" in (value or ""):
            yield Problem(f"{path}.environment.{key[:100]}", f"longer than {_LONGEST} characters, or with a NUL in it")
    for key in body["labels"]:
        if key.lower().startswith("clos."):
            yield Problem(f"{path}.labels.{key[:100]}", "labels that begin with clos. are CLOS's own")
    yield from _wrong_mounts(body, path)


def _wrong_mounts(body: Mapping[str, Any], path: str) -> Iterator[Problem]:
    for volume in body.get("volumes") or ():
        source = volume.partition(":")[0]
        if source == "/" or ".." in source.split("/"):
            yield Problem(f"{path}.volumes", f"{source} is not mounted: the host's root, or a path with ..")
    for address in body.get("dns_servers") or ():
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield Problem(f"{path}.dns", f"{address[:100]!r} is no IP address")

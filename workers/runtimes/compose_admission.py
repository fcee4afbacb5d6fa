"""What a Compose project may not have, by its model: files and folders elsewhere, and ports without end."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from domain.compose import extension, keys, ports
from domain.compose.problems import ComposeRefused, Problem
from domain.container_policy import ContainerPolicy, Violation, violations
from domain.specs import RuntimeKind, ServiceSpec
from workers.runtimes import compose_files
from workers.runtimes.compose_files import Roots


def refuse_read(model: Mapping[str, Any], policy: ContainerPolicy, roots: Roots, profiles: Collection[str]) -> None:
    """Look at a model before Compose has read what it names.

    Raises:
        ComposeRefused: a file that Compose would read lies outside, or a service has too many ports. What else is wrong
            with the services of these profiles is told along with it, so that nobody finds out one by one.
    """
    if wrong := [*_outside(read_by_compose(model), roots), *_too_many_ports(model)]:
        services = {name: each for name, each in (model.get("services") or {}).items() if _is_of(each, profiles)}
        rest = {**model, "services": services}
        raise ComposeRefused([*wrong, *_given_wrongly(rest, policy, roots), *denied(rest, policy)])


def refuse_given(model: Mapping[str, Any], policy: ContainerPolicy, roots: Roots) -> None:
    """Look at what a project's containers would be given.

    Raises:
        ComposeRefused: a folder or file of the host that neither the project nor the policy lets one have. What else
            the policy forbids is told along with it. By itself it is refused with what is written (`PolicyDenied`).
    """
    if wrong := list(_given_wrongly(model, policy, roots)):
        raise ComposeRefused([*wrong, *denied(model, policy)])


def _is_of(service: Mapping[str, Any], profiles: Collection[str]) -> bool:
    own = service.get("profiles") or ()
    return not own or "*" in profiles or any(each in profiles for each in own)


def _outside(named: Iterable[tuple[keys.Path, str]], roots: Roots) -> Iterator[Problem]:
    for path, text in named:
        if not text:
            yield Problem(keys.written(path), "it names no file")
        elif not compose_files.is_remote(text) and not roots.hold(Path(text)):
            yield Problem(keys.written(path), compose_files.outside(Path(text), roots))


def _too_many_ports(model: Mapping[str, Any]) -> Iterator[Problem]:
    """From several files, or from variables."""
    for name, service in (model.get("services") or {}).items():
        if reason := ports.too_many(service.get("ports")):
            yield Problem(keys.written(("services", name, "ports")), reason)


def _given_wrongly(model: Mapping[str, Any], policy: ContainerPolicy, roots: Roots) -> Iterator[Problem]:
    yield from _outside(given_to_containers(model), roots)
    for name, service in (model.get("services") or {}).items():
        for place, mount in enumerate(service.get("volumes") or ()):
            source = mount.get("source")
            if mount.get("type") != "bind" or not source or roots.hold(Path(source)):
                continue
            read_only = bool(mount.get("read_only"))
            if denial := policy.binds.denial(source, str(roots.folders[0]), os.path.realpath, read_only=read_only):
                reason = f"{compose_files.outside(Path(source), roots)}; {denial.reason}"
                yield Problem(keys.written(("services", name, "volumes", place)), reason)


def denied(model: Mapping[str, Any], policy: ContainerPolicy) -> Iterator[Problem]:
    """All that the policy forbids of a project's containers, mounts and builds apart."""
    for name, wrong in violations_of(model, policy).items():
        for each in wrong:
            path = each.path.removeprefix("container.")
            yield Problem(f"{keys.written(('services', name))}.{path}", f"{each.reason} ({each.allow})")


def violations_of(model: Mapping[str, Any], policy: ContainerPolicy) -> dict[str, list[Violation]]:
    """The same, by the name of the service that asks for it."""
    asked = {name: _as_asked(name, service, model) for name, service in (model.get("services") or {}).items()}
    return {name: wrong for name, spec in asked.items() if (wrong := violations(spec, policy))}


def _as_asked(name: str, service: Mapping[str, Any], model: Mapping[str, Any]) -> ServiceSpec:
    """A service without what it mounts and builds from: that was looked at by itself."""
    process = extension.of(service).get("runtime") not in (None, "docker")
    attached = service.get("networks") or {}
    defined = model.get("networks") or {}
    return ServiceSpec(
        id=name,
        name=name,
        group="",
        runtime=RuntimeKind.PROCESS if process else RuntimeKind.DOCKER,
        build={"network": (service.get("build") or {}).get("network")},
        network_mode=service.get("network_mode") or "bridge",
        container={key: value for key, value in service.items() if key not in ("volumes", "secrets", "configs")},
        definitions={"networks": {key: defined.get(key) or {} for key in attached}},
    )


def read_by_compose(model: Mapping[str, Any]) -> Iterator[tuple[keys.Path, str]]:
    """Files that Compose reads for its services: where each is named, and its path."""
    for name, service in (model.get("services") or {}).items():
        for key in ("env_file", "label_file"):
            for place, each in enumerate(service.get(key) or ()):
                named = each.get("path") if isinstance(each, dict) else each
                yield ("services", name, key, place), str(named or "")


def given_to_containers(model: Mapping[str, Any]) -> Iterator[tuple[keys.Path, str]]:
    """Files and folders that containers and builds would be given, mounts apart."""
    for name, service in (model.get("services") or {}).items():
        yield from _of_build(("services", name, "build"), service.get("build") or {})
    for kind in ("secrets", "configs"):
        for name, each in (model.get(kind) or {}).items():
            if (each or {}).get("file"):
                yield (kind, name, "file"), each["file"]
    for name, volume in (model.get("volumes") or {}).items():
        options = (volume or {}).get("driver_opts") or {}
        if "bind" in re.split(r"[,\s]+", str(options.get("o", ""))) and options.get("device"):
            yield ("volumes", name, "driver_opts", "device"), str(options["device"])


def _of_build(path: keys.Path, build: Mapping[str, Any]) -> Iterator[tuple[keys.Path, str]]:
    context = build.get("context")
    if context:
        yield (*path, "context"), context
        if build.get("dockerfile"):
            yield (*path, "dockerfile"), os.path.join(context, build["dockerfile"])
    for name, each in (build.get("additional_contexts") or {}).items():
        if not str(each).startswith("service:"):
            yield (*path, "additional_contexts", name), str(each)

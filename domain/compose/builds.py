"""How an image is built, as Compose says it and as CLOS does."""

from collections.abc import Mapping
from typing import Any

from domain.compose.problems import Problem

CARRIED = {"context", "dockerfile", "target", "args"}
_REASONS = {
    "additional_contexts": "the engine's own builder has one context",
    "cache_to": "the engine's own builder keeps its cache itself",
    "entitlements": "the engine's own builder has none",
    "no_cache_filter": "the engine's own builder cannot",
    "privileged": "nothing is built with privileges",
    "provenance": "the engine's own builder writes none",
    "sbom": "the engine's own builder writes none",
    "secrets": "the engine's own builder has none",
    "ssh": "no key is handed to a build",
    "tags": "CLOS names what it builds",
}


def read(build: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[Problem], list[str]]:
    """The `build` of a service, what is refused of it, and what is to be said."""
    found: dict[str, Any] = {}
    problems, warnings = [], []
    for key, value in build.items():
        if value in (None, {}, [], False):
            continue
        if key == "args":
            found["args"] = {name: str(each) for name, each in value.items() if each is not None}
            if unset := sorted(name for name, each in value.items() if each is None):
                warnings.append(f"{path}.args: {', '.join(unset)} have no value here and are left out")
        elif key in CARRIED:
            found[key] = value
        else:
            problems.append(Problem(f"{path}.{key}", _REASONS.get(key, "CLOS does not carry it out")))
    if "context" in found and _is_remote(str(found["context"])):
        problems.append(Problem(f"{path}.context", "it lies on another machine: get it, and name the folder"))
    return found, problems, warnings


def _is_remote(context: str) -> bool:
    return not context.startswith("/")

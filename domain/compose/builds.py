"""How an image is built, as Compose says it and as CLOS does."""

from collections.abc import Mapping
from typing import Any

from domain.build import KEYS, REFUSED
from domain.compose.problems import Problem


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
        elif key in KEYS:
            found[key] = value
        else:
            problems.append(Problem(f"{path}.{key}", REFUSED.get(key, "CLOS does not carry it out")))
    if "context" in found and _is_remote(str(found["context"])):
        problems.append(Problem(f"{path}.context", "it lies on another machine: get it, and name the folder"))
    return found, problems, warnings


def _is_remote(context: str) -> bool:
    return not context.startswith("/")

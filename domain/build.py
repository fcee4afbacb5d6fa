"""How an image is built: the `build` field, under Compose's names, for the builder that every engine has (its own, not
BuildKit's)."""

from collections.abc import Mapping
from typing import Any

from domain.shapes import (
    Problem,
    Shape,
    either,
    flag,
    list_of,
    map_of,
    one_of,
    size,
    text,
    unknown,
    whole,
)

_WORD = text(r"[^\x00\s]+", "a word without spaces", 4096)
_IMAGES = list_of(text(r"[^\x00\s]+", "an image's name", 500), 50)

KEYS: dict[str, Shape] = {
    "args": map_of(text(longest=4096), 100),
    "cache_from": _IMAGES,
    "context": text(r"/[^\x00]*", "the absolute path of a folder", 4096),
    "dockerfile": text(r"[^\x00]+", "a path in the context", 4096),
    "dockerfile_inline": text(longest=100_000),
    "extra_hosts": list_of(text(r"[^=:\s]+[=:]\S+", "as name=address")),
    "isolation": one_of("default"),
    "labels": map_of(text(longest=4096)),
    "network": _WORD,
    "no_cache": flag,
    "platforms": list_of(_WORD, 1),
    "pull": flag,
    "shm_size": size,
    "tags": _IMAGES,
    "target": text(r"[^\x00\s]+", "a stage's name", 200),
    "ulimits": map_of(either("a number or soft and hard", whole(-1), map_of(whole(-1), 3))),
}

REFUSED = {
    "additional_contexts": "the engine's own builder has one context",
    "cache_to": "the engine's own builder keeps its cache itself",
    "entitlements": "the engine's own builder has none",
    "no_cache_filter": "the engine's own builder cannot: take no_cache",
    "privileged": "nothing is built with privileges",
    "provenance": "the engine's own builder writes none",
    "sbom": "the engine's own builder writes none",
    "secrets": "the engine's own builder has none: what a build needs must be in its context or its args",
    "ssh": "no key is handed to a build",
}


def check(build: Any) -> list[Problem]:
    """All that is wrong with a `build` mapping; nothing, if it can be carried out."""
    if not isinstance(build, Mapping):
        return [Problem("build", "must be a folder, or a mapping with its `context`")]
    found = []
    for key, value in build.items():
        path = f"build.{key}"
        if key in REFUSED:
            found.append(Problem(path, f"is not carried out: {REFUSED[key]}"))
        elif key not in KEYS:
            found.append(unknown("build", str(key), KEYS))
        elif value is not None:
            found += KEYS[key](value, path)
    if not build.get("context"):
        found.append(Problem("build.context", "is missing"))
    if build.get("dockerfile") and build.get("dockerfile_inline"):
        found.append(Problem("build.dockerfile_inline", "cannot be given beside `dockerfile`"))
    return found

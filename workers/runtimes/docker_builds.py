"""What the engine's own builder is told, and what is sent to it."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from docker.api.build import process_dockerfile
from docker.utils import build as packing

from domain.shapes import as_whole
from domain.specs import ServiceSpec
from workers.runtimes.docker_resources import ulimits


def parameters(spec: ServiceSpec, build: Mapping[str, Any], ref: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The query of `POST /build`, without the Dockerfile's name. Its image gets all names that it is given."""
    names = dict.fromkeys([ref, *([spec.image] if spec.image else []), *(build.get("tags") or ())])
    found: dict[str, Any] = {"t": list(names), "rm": "1", "forcerm": "1"}
    found |= {name: "1" for key, name in (("no_cache", "nocache"), ("pull", "pull")) if build.get(key)}
    texts = {
        "target": build.get("target"),
        "networkmode": build.get("network"),
        "platform": (build.get("platforms") or [spec.container.get("platform")])[0],
        "shmsize": as_whole(build.get("shm_size")),
        "extrahosts": [each.replace("=", ":", 1) for each in build.get("extra_hosts") or ()],
    }
    found |= {name: value for name, value in texts.items() if value}
    mappings = {
        "buildargs": {str(name): str(value) for name, value in (build.get("args") or {}).items()},
        "labels": {str(name): str(value) for name, value in (build.get("labels") or {}).items()} | dict(labels),
        "cachefrom": list(build.get("cache_from") or ()),
        "ulimits": ulimits(build.get("ulimits") or {}),
    }
    return found | {name: json.dumps(value) for name, value in mappings.items() if value}


def packed(build: Mapping[str, Any]) -> tuple[IO[bytes], str]:
    """The folder as a tar without what its .dockerignore leaves out, and the Dockerfile's name in it.

    Raises:
        OSError: something in it cannot be read.
    """
    folder = str(build["context"])
    name: str | None = f".dockerfile.{secrets.token_hex(8)}"
    text = build.get("dockerfile_inline")
    if text is None:
        name, text = process_dockerfile(str(build.get("dockerfile") or "Dockerfile"), folder)
    ignored = Path(folder) / ".dockerignore"
    lines = ignored.read_text().splitlines() if ignored.exists() else []
    exclude = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    pack: Any = packing.tar  # the stubs want a PathLike
    return pack(folder, exclude=exclude, dockerfile=(name, text)), str(name)

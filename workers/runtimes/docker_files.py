"""Secrets and configs whose text the service has: written into its container before the first start.

So no file of the host holds them, and they go with the container. What comes from a file of the host is mounted
(`docker_mounts.py`).
"""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.observation import Instance, Phase
from domain.shapes import as_whole
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_mounts import FOLDERS, mode_of, target_of
from workers.runtimes.fence import before_effect


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file that is written into the container before its first start. `owned`: its uid and gid were given."""

    path: str
    text: str
    mode: int
    uid: int = 0
    gid: int = 0
    owned: bool = False


def fill(client: EngineClient, instance: Instance, spec: ServiceSpec) -> None:
    """Write the files whose text the service has into a container that never ran. Doing it again changes nothing.

    An archive of our own making, never compressed and never a user's (moby GHSA-x86f-5xw2-fm2r), as Compose does.
    """
    if instance.phase is not Phase.CREATED or not instance.ref:
        return
    for file in inline_files(spec):
        before_effect()
        client.request(
            "PUT",
            f"/containers/{instance.ref}/archive",
            params={"path": "/", "noOverwriteDirNonDir": "true"} | ({"copyUIDGID": "true"} if file.owned else {}),
            data=archive(file),
            headers={"Content-Type": "application/x-tar"},
        )


def inline_files(spec: ServiceSpec) -> list[InlineFile]:
    """The files whose text the service has: written into the container, so that no file of the host holds them."""
    found = []
    for kind in FOLDERS:
        for each in spec.container.get(kind) or ():
            text = each.get("content")
            if each.get("environment") is not None:
                text = spec.environment.get(each["environment"], "")
            if text is not None:
                found.append(_inline(target_of(kind, each), text, each))
    return found


def _inline(path: str, text: str, file: Mapping[str, Any]) -> InlineFile:
    uid, gid = as_whole(file.get("uid")), as_whole(file.get("gid"))
    mode = mode_of(file["mode"]) if file.get("mode") is not None else 0o444
    return InlineFile(path, text, mode, uid or 0, gid or 0, owned=uid is not None or gid is not None)


def archive(file: InlineFile) -> bytes:
    """The file as the only one of a tar, under its path from the root."""
    buffer = io.BytesIO()
    data = file.text.encode(errors="surrogatepass")
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(file.path.lstrip("/"))
        entry.size, entry.mode, entry.uid, entry.gid = len(data), file.mode, file.uid, file.gid
        tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()

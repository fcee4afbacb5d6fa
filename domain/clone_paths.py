"""A clone's paths: what lies inside its original's directory lies inside its own, what lies outside is shared."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.clone_remarks import Remarks

# What a path may go on with: so `/srv/web` is not found in `/srv/website`.
_END = r"(?=[/:,;\s'\"]|\Z)"
_BEFORE = r"(?<![\w./-])"


@dataclass(frozen=True, slots=True)
class Directory:
    """From where to where; both absolute, without a slash at the end."""

    source: str
    target: str

    @classmethod
    def of(cls, source: str | None, target: str | None) -> "Directory | None":
        """None where either is unknown, or where they are the same."""
        if not source or not target or _clean(source) == _clean(target):
            return None
        return cls(_clean(source), _clean(target))

    def holds(self, path: str) -> bool:
        """Whether a path lies in the original's directory."""
        clean = _clean(path)
        return clean == self.source or clean.startswith(f"{self.source}/")

    def path(self, path: str) -> str:
        """A path, moved if it lies inside."""
        return self.target + _clean(path)[len(self.source) :] if self.holds(path) else path

    def text(self, text: str) -> str:
        """A text in which paths may stand (`--config=/srv/web/a.yml`), each of them moved."""
        return re.sub(f"{_BEFORE}{re.escape(self.source)}{_END}", lambda _: self.target, text)


def _clean(path: str) -> str:
    return posixpath.normpath(path)


def moved(service: Mapping[str, Any], directory: Directory | None, remarks: Remarks) -> dict[str, Any]:
    """A service's definition with its paths moved; what it goes on sharing with the original is remarked on."""
    made, name = dict(service), str(service["name"])
    if service.get("working_dir") and service["runtime"] == "process":
        # Inside a container it is a path of the image.
        made["working_dir"] = _path(service["working_dir"], name, "working_dir", directory, remarks)
    if service.get("build"):
        build = dict(service["build"])
        build["context"] = _path(str(build.get("context") or "/"), name, "build.context", directory, remarks)
        made["build"] = {key: value if key == "context" else _deep(value, directory) for key, value in build.items()}
    made["volumes"] = [_volume(each, name, directory, remarks) for each in service.get("volumes") or ()]
    if service.get("command"):
        made["command"] = [_text(word, directory) for word in service["command"]]
    if (service.get("health_check") or {}).get("test"):
        check = service["health_check"]
        made["health_check"] = {**check, "test": [_text(word, directory) for word in check["test"]]}
    if service.get("container"):
        made["container"] = _container(service["container"], name, directory, remarks)
    _remark_on_texts(service, directory, remarks)
    return made


def _path(path: str, service: str, field: str, directory: Directory | None, remarks: Remarks) -> str:
    if directory is not None and directory.holds(path):
        return directory.path(path)
    if "://" not in path:
        remarks.add(service, field, f"{path} is shared with the original")
    return path


def _text(text: str, directory: Directory | None) -> str:
    return text if directory is None else directory.text(text)


def _volume(volume: str, service: str, directory: Directory | None, remarks: Remarks) -> str:
    source, colon, rest = volume.partition(":")
    if not colon or not source.startswith("/"):
        return volume
    return f"{_path(source, service, 'volumes', directory, remarks)}{colon}{rest}"


def _container(
    container: Mapping[str, Any], service: str, directory: Directory | None, remarks: Remarks
) -> dict[str, Any]:
    for each in container.get("volumes") or ():
        source = str(each.get("source") or "")
        if each.get("type") == "bind" and (directory is None or not directory.holds(source)):
            remarks.add(service, "container.volumes", f"{source} is shared with the original")
    found = _deep(container, directory)
    return dict(found)


def _deep(value: Any, directory: Directory | None) -> Any:
    """Every text inside a value."""
    if directory is None:
        return value
    if isinstance(value, Mapping):
        return {key: _deep(each, directory) for key, each in value.items()}
    if isinstance(value, list):
        return [_deep(each, directory) for each in value]
    return directory.text(value) if isinstance(value, str) else value


def _remark_on_texts(service: Mapping[str, Any], directory: Directory | None, remarks: Remarks) -> None:
    if directory is None:
        return
    for field in ("environment", "secrets"):
        for key, value in (service.get(field) or {}).items():
            if directory.text(value) != value:
                text = f"the text names {directory.source}: the clone says the same"
                remarks.add(str(service["name"]), f"{field}.{key}", text)

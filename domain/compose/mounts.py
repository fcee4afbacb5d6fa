"""Mounts, files and networks of a Compose service as CLOS defines them."""

from collections.abc import Mapping
from typing import Any

from domain.compose.problems import Problem

_SHORT = {"type", "source", "target", "read_only", "bind", "volume"}
_NO_WORD: tuple[Any, ...] = ({}, None)


def volumes(mounts: list[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Mounts in CLOS's short form, and those that only the long form can say."""
    short: list[str] = []
    long: list[dict[str, Any]] = []
    for mount in mounts:
        text = _short(mount)
        if text is not None:
            short.append(text)
        else:
            long.append({key: value for key, value in mount.items() if value not in _NO_WORD})
    return short, long


def _short(mount: Mapping[str, Any]) -> str | None:
    source, target = str(mount.get("source") or ""), str(mount["target"])
    if mount["type"] not in ("bind", "volume") or not source or ":" in source + target:
        return None
    if not set(mount) <= _SHORT or mount.get("volume") not in _NO_WORD:
        return None
    # The engine makes a folder that is missing, which is what `create_host_path` asks for.
    if mount.get("bind") not in (*_NO_WORD, {"create_host_path": True}):
        return None
    return f"{source}:{target}" + (":ro" if mount.get("read_only") else "")


def mount(volume: str) -> dict[str, Any]:
    """The long form of a short one, as Compose prints it."""
    source, target, *mode = volume.split(":")
    kind = "bind" if source.startswith("/") else "volume"
    found: dict[str, Any] = {"type": kind, "source": source, "target": target}
    return found | ({"read_only": True} if mode == ["ro"] else {})


class Files:
    """The `secrets` and `configs` of one service, with where each comes from."""

    def __init__(
        self, model: Mapping[str, Any], values: Mapping[str, str], service: str, environment: Mapping[str, Any]
    ) -> None:
        self._environment = environment
        self._model = model
        self._values = values
        self._service = service
        self.secrets: dict[str, str | None] = {}
        self.problems: list[Problem] = []

    def of(self, kind: str, references: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The entries of `container.secrets` or `container.configs`."""
        return [found for place, each in enumerate(references) if (found := self._one(kind, place, each)) is not None]

    def _one(self, kind: str, place: int, reference: Mapping[str, Any]) -> dict[str, Any] | None:
        source = str(reference["source"])
        definition = (self._model.get(kind) or {}).get(source) or {}
        found = {key: value for key, value in reference.items() if value is not None}
        found.setdefault("target", f"/{source}" if kind == "configs" else f"/run/secrets/{source}")
        if definition.get("file"):
            return found | {"file": definition["file"]}
        if definition.get("content") is not None:
            return found | {"content": definition["content"]}
        if (variable := definition.get("environment")) is not None:
            return found | self._from_variable(source, str(variable))
        reason = "it is kept in a swarm: name a file, or a variable" if definition.get("external") else "it has no file"
        self.problems.append(Problem(f"services.{self._service}.{kind}[{place}]", reason))
        return None

    def _from_variable(self, source: str, variable: str) -> dict[str, Any]:
        # A key of the service's own secrets; as it is a file in the container, it is no variable there.
        key = variable
        if key in self._environment:
            key = "FILE_" + "".join(letter if letter.isalnum() else "_" for letter in source)
        self.secrets[key] = self._values.get(variable)
        return {"environment": key}


def networks(service: Mapping[str, Any], names: list[str]) -> tuple[list[str], dict[str, Any] | None]:
    """The networks beside the group's own, or, where that does not say it, all of them with their options.

    `names` are those under which it is to be found in each, beside its own.
    """
    attached = {str(name): dict(options or {}) for name, options in (service.get("networks") or {}).items()}
    if not attached:
        return [], None
    for options in attached.values():
        if names:
            options["aliases"] = sorted({*(options.get("aliases") or ()), *names})
    if "default" in attached and not any(attached.values()):
        return sorted(set(attached) - {"default"}), None
    return [], {name: options or None for name, options in attached.items()}


def network_definition(name: str, definition: Mapping[str, Any], project: str, keep_names: bool) -> dict[str, Any]:
    """A network as its group defines it; the name that Compose makes up stays only where it is to be kept."""
    found = {key: value for key, value in definition.items() if value not in (None, {}, [], False)}
    if found.get("name") == f"{project}_{name}" and not keep_names and not found.get("external"):
        del found["name"]
    return found


def volume_definition(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """A volume as its group defines it, under the engine's name that Compose gives it: its data is kept under that."""
    found = {key: value for key, value in definition.items() if value not in (None, {}, [], False)}
    if found.get("name") == name:  # which is what it is called without saying so
        del found["name"]
    return found


def is_implicit(definition: Mapping[str, Any] | None) -> bool:
    """Whether it only stands in the file because Compose wants every name defined (`writing`)."""
    own = (definition or {}).get("x-clos")
    return isinstance(own, Mapping) and own.get("implicit") is True

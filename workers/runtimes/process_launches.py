"""What each launch of a process service was made from, so that an update can go back to exactly that.

The files hold secrets: they are their owner's alone (0600), in the service's folder (0700). All but reading only under
the service's lock.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from domain.specs import (
    CheckType,
    Condition,
    Dependency,
    HealthCheck,
    PortRequest,
    RestartPolicy,
    RuntimeKind,
    ServiceSpec,
)
from workers.runtimes.process_state import Identity, StateFolder

_PREVIOUS = "previous.json"


@dataclass(frozen=True, slots=True)
class Previous:
    """The launch that an update goes back to."""

    ref: str
    spec: ServiceSpec


class Launches:
    """The specs of launches, beside their identities."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state

    def keep(self, identity: Identity, spec: ServiceSpec) -> None:
        """Keep what a launch is made from; before the launch itself."""
        self._write(identity.service_id, f"launch.{identity.launch}", {"spec": asdict(spec)})

    def clear(self, identity: Identity) -> None:
        """Drop what earlier launches were made from; what is remembered stays."""
        for path in self._state.of(identity.service_id).glob("launch.*"):
            if path.name != f"launch.{identity.launch}":
                path.unlink(missing_ok=True)

    def of(self, identity: Identity) -> ServiceSpec | None:
        """What a launch was made from; None where that is not known."""
        kept = self._read(identity.service_id, f"launch.{identity.launch}")
        return _spec(kept["spec"]) if kept else None

    def remember(self, identity: Identity) -> None:
        """Keep this launch to go back to it, whatever is launched until it is forgotten."""
        spec = self.of(identity)
        if spec is not None and identity.ref is not None:
            self._write(identity.service_id, _PREVIOUS, {"ref": identity.ref, "spec": asdict(spec)})

    def remembered(self, service_id: str) -> Previous | None:
        """The launch to go back to."""
        kept = self._read(service_id, _PREVIOUS)
        spec = _spec(kept["spec"]) if kept else None
        return Previous(str(kept["ref"]), spec) if kept and spec else None

    def forget(self, service_id: str) -> None:
        """There is no way back any more."""
        (self._state.of(service_id) / _PREVIOUS).unlink(missing_ok=True)

    def _write(self, service_id: str, name: str, kept: Mapping[str, Any]) -> None:
        folder = self._state.of(service_id)
        draft = folder / f"{name}.{os.getpid()}.new"
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            json.dump(kept, file, default=dict)
        draft.replace(folder / name)

    def _read(self, service_id: str, name: str) -> dict[str, Any] | None:
        try:
            kept = json.loads((self._state.of(service_id) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and isinstance(kept.get("spec"), dict) else None


_TUPLES = ("command", "volumes", "networks", "dns_servers", "extra_hosts")


def _spec(kept: Mapping[str, Any]) -> ServiceSpec | None:
    """A spec as it was written; None if another version of CLOS wrote something that this one cannot read."""
    try:
        made = dict(kept) | {name: tuple(kept[name]) for name in _TUPLES if name in kept}
        made["runtime"] = RuntimeKind(kept["runtime"])
        made["restart_policy"] = RestartPolicy(kept["restart_policy"])
        made["ports"] = tuple(PortRequest(**each) for each in kept["ports"])
        made["joins"] = tuple((each[0], each[1]) for each in kept["joins"])
        made["depends_on"] = tuple(
            Dependency(**(each | {"condition": Condition(each["condition"])})) for each in kept["depends_on"]
        )
        if (check := kept["health_check"]) is not None:
            made["health_check"] = HealthCheck(
                **(check | {"type": CheckType(check["type"]), "test": tuple(check["test"])})
            )
        return ServiceSpec(**made)
    except (KeyError, TypeError, ValueError, IndexError):
        return None

"""The labels and names by which CLOS knows what is its own on an engine."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.specs import ServiceSpec

_NOT_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_SLUG = 100


def slug(text: str) -> str:
    """`text` as part of an engine's name. Two texts never share a slug: a changed one carries its hash."""
    kept = _NOT_NAME.sub("-", text).strip("-._")[:_MAX_SLUG]
    if kept == text and text:
        return kept
    return f"{kept}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}".lstrip("-")


@dataclass(frozen=True, slots=True)
class Marks:
    """The labels and names that tell what is ours from what is foreign."""

    instance_id: str
    prefix: str = "clos"

    def label(self, what: str) -> str:
        """The full name of one of our labels."""
        return f"{self.prefix}.{what}"

    def ours(self, labels: Mapping[str, str] | None) -> bool:
        """Whether these labels are of this installation."""
        return (labels or {}).get(self.label("instance")) == self.instance_id

    def hash_of(self, labels: Mapping[str, str] | None) -> str | None:
        """The hash of the spec that a container of these labels was made from."""
        return (labels or {}).get(self.label("spec_hash"))

    def filters(self, **also: str) -> dict[str, list[str]]:
        """The engine's filter for what is ours, and has these labels too."""
        wanted = {"instance": self.instance_id} | also
        return {"label": [f"{self.label(name)}={value}" for name, value in wanted.items()]}

    def container_name(self, service_id: str) -> str:
        """The name of a service's container, distinct between installations on one engine."""
        return f"{self.prefix}-{slug(self.instance_id[:8])}-{slug(service_id)}"

    def replacement_name(self, spec: ServiceSpec) -> str:
        """The name of a container until it has taken another one's place."""
        return f"{self.container_name(spec.id)}-{spec.hash()[:8]}"

    def of(self, spec: ServiceSpec, networks: Sequence[str]) -> dict[str, str]:
        """All labels of a service's container; ours win over the service's own."""
        return dict(spec.labels) | {
            self.label("instance"): self.instance_id,
            self.label("service"): spec.id,
            self.label("group"): spec.group,
            self.label("spec_hash"): spec.hash(),
            self.label("networks"): ",".join(networks),
        }

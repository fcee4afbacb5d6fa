"""What is said about a clone beside its definition: what it shares with its original, and what it had to lose."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence about one field; `service` is its name, None where it is the group's."""

    service: str | None
    field: str
    text: str

    def as_dict(self) -> dict[str, str | None]:
        """The form in which an answer shows it."""
        return {"service": self.service, "field": self.field, "text": self.text}


@dataclass(slots=True)
class Remarks:
    """Collects them, each once."""

    _found: dict[Remark, None] = field(default_factory=dict)

    def add(self, service: str | None, field_name: str, text: str) -> None:
        """Remark on a field. Values of secrets must not stand in `text`."""
        self._found[Remark(service, field_name, text)] = None

    def all(self) -> tuple[Remark, ...]:
        """In the order in which they were made."""
        return tuple(self._found)

"""What is wrong with a Compose file, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domain.errors import ClosError

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `path` is where in the model (`services.web.ports[0]`), `line` counts from 1."""

    path: str
    reason: str
    file: str | None = None
    line: int | None = None

    def text(self) -> str:
        """As one line: `compose.yaml:12: services.web.prots: unknown key`."""
        place = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.path}: {self.reason}" if self.path else f"{place}{self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"path": self.path, "reason": self.reason, "file": self.file, "line": self.line}


def told(problems: Sequence[Problem]) -> tuple[str, list[dict[str, Any]]]:
    """As the message of an error, which is the first of them, and as its `problems`."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0].text()}{more}", [problem.as_dict() for problem in problems[:_SHOWN]]


class ComposeRefused(ClosError):
    """A Compose file that is not taken: it is not well formed, asks for what CLOS does not do, or reaches outside of
    its project. `problems` says where; nothing was written."""

    code = "compose_refused"

    def __init__(self, problems: Sequence[Problem], hint: str | None = None) -> None:
        message, shown = told(problems)
        super().__init__(message, hint=hint, problems=shown)
        self.problems = tuple(problems)

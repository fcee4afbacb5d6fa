"""What went wrong, as an exit code (interface.md, CLI) and as sentences for a person."""

from collections.abc import Mapping
from typing import Any, NoReturn

DONE, FAILED, USAGE, CONFLICT, NOT_FOUND, DENIED, UNREACHABLE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130

_BY_CODE = {
    "port_held": CONFLICT,
    "unresolved_conflict": CONFLICT,
    "timeout": TIMED_OUT,
    "logs_timeout": TIMED_OUT,
    "overloaded": UNREACHABLE,
    "database_busy": UNREACHABLE,
}
_BY_STATUS = {
    400: USAGE,
    401: DENIED,
    403: DENIED,
    404: NOT_FOUND,
    405: USAGE,
    413: USAGE,
    415: USAGE,
    422: USAGE,
    502: UNREACHABLE,
    503: UNREACHABLE,
    504: TIMED_OUT,
}


class CliError(Exception):
    """Ends the command. `lines` follow the message, `hint` says what to do; an empty message says nothing."""

    def __init__(self, message: str, exit_code: int = FAILED, *, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.lines = lines


class Unreachable(CliError):
    """No CLOS answers at the address; `refused` says that nobody listens there."""

    def __init__(self, message: str, *, hint: str = "", refused: bool = False) -> None:
        super().__init__(message, UNREACHABLE, hint=hint)
        self.refused = refused


class ApiError(CliError):
    """CLOS refused: an `application/problem+json` answer."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        code = str(problem.get("code") or "")
        message = problem.get("detail") or problem.get("title") or f"CLOS answered {status}"
        exit_code = _BY_CODE.get(code) or _BY_STATUS.get(status, FAILED)
        super().__init__(str(message), exit_code, hint=str(problem.get("hint") or ""), lines=tuple(_facts(problem)))
        self.status = status
        self.code = code
        self.problem = dict(problem)


def of_operation(error: Mapping[str, Any] | None) -> int:
    """The exit code of an operation that ended with this error."""
    return _BY_CODE.get(str((error or {}).get("code")), FAILED)


def not_found(message: str, *, hint: str = "") -> NoReturn:
    """Raise what ends with exit code 4."""
    raise CliError(message, NOT_FOUND, hint=hint)


def _facts(problem: Mapping[str, Any]) -> list[str]:
    lines = []
    if problem.get("operation_id"):
        lines.append(f"operation: {problem['operation_id']}")
    lines.extend(_fields(problem.get("errors"), ""))
    if problem.get("holder"):
        lines.append(f"held by {holder_name(problem['holder'])}")
    return lines


def _fields(errors: Any, path: str) -> list[str]:
    if isinstance(errors, Mapping):
        inner = [(f"{path}.{name}" if path else str(name), value) for name, value in errors.items()]
        return [line for name, value in inner for line in _fields(value, name)]
    if isinstance(errors, list):
        return [line for value in errors for line in _fields(value, path)]
    return [f"{path}: {errors}" if path else str(errors)] if errors else []


def holder_name(holder: Mapping[str, Any]) -> str:
    """A holder in a sentence: `postgres (pid 812, user app): postgres -D /data`."""
    kind = holder.get("kind")
    name = holder.get("service_id") or holder.get("name") or holder.get("command")
    if not name:
        name = "an unknown holder" if kind in (None, "unknown") else f"a {kind}"
    known = [f"{key} {holder[key]}" for key in ("pid", "user") if holder.get(key) not in (None, "")]
    if kind in ("container", "service", "clos"):
        known.insert(0, str(kind))
    text = f"{name} ({', '.join(known)})" if known else str(name)
    command = holder.get("command")
    return f"{text}: {command}" if command and command != name else text

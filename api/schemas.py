"""What all bodies and queries have in common: fields that take no wrong type for a right one."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate

MAX_INT = 2**63 - 1
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Strict(Schema):
    """Unknown and read-only fields are refused by name."""

    class Meta:
        unknown = RAISE


class Text(fields.String):
    """A string of at most `longest` characters, without NUL. `smallest=1` refuses the empty one."""

    def __init__(self, *, longest: int = 1000, smallest: int = 0, pattern: str | None = None, **kwargs: Any) -> None:
        checks = [validate.Length(min=smallest, max=longest), *_listed(kwargs.pop("validate", None))]
        if pattern:
            checks.append(validate.Regexp(pattern + r"\Z"))
            kwargs.setdefault("metadata", {})["pattern"] = f"^(?:{pattern})$"
        super().__init__(validate=checks, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if isinstance(text, str) and "\x00" in text:
            raise ValidationError("Must not contain NUL.")
        return text


def _listed(checks: Any) -> list[Any]:
    if checks is None:
        return []
    return list(checks) if isinstance(checks, list | tuple) else [checks]


class Whole(fields.Integer):
    """A JSON integer: neither `1.9` nor `"12"` nor `true`, and within the range."""

    def __init__(self, *, low: int = -MAX_INT - 1, high: int = MAX_INT, **kwargs: Any) -> None:
        super().__init__(validate=[validate.Range(low, high), *_listed(kwargs.pop("validate", None))], **kwargs)

    def _validated(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("Not a valid integer.")
        return value


class Number(fields.Float):
    """A JSON number within the range, neither text nor `true`."""

    def __init__(self, *, low: float | None = None, high: float | None = None, **kwargs: Any) -> None:
        super().__init__(validate=[validate.Range(low, high), *_listed(kwargs.pop("validate", None))], **kwargs)

    def _validated(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Not a valid number.")
        return float(value)


class Flag(fields.Boolean):
    """`true` or `false`, nothing that looks like it."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:  # noqa: ARG002
        if not isinstance(value, bool):
            raise ValidationError("Not a valid boolean.")
        return value


class QueryWhole(fields.Integer):
    """An integer in a query: digits only."""

    def __init__(self, *, low: int = 0, high: int = MAX_INT, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(low, high), **kwargs)

    def _validated(self, value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
            return int(value)
        raise ValidationError("Not a valid integer.")


class QueryFlag(fields.Boolean):
    """`true` or `false` in a query."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:  # noqa: ARG002
        if value not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return bool(value == "true")


class Choices(fields.String):
    """Names with commas between them, meaning *or*. Loads as a list; `known` limits what may stand there."""

    def __init__(self, known: list[str] | None = None, *, longest: int = 250, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.known = known
        self.longest = longest
        if known:
            names = "|".join(re.escape(name) for name in known)
            self.metadata = {**self.metadata, "pattern": f"^({names})(,({names}))*$"}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        names = str(super()._deserialize(value, attr, data, **kwargs)).split(",")
        if len(names) > 50 or any(not 1 <= len(name) <= self.longest for name in names):
            raise ValidationError(f"Names with commas between them, at most 50 of {self.longest} characters.")
        wrong = [name for name in names if self.known is not None and name not in self.known]
        if wrong:
            raise ValidationError(f"Must be among: {', '.join(self.known or [])}.")
        return names


class Since(fields.String):
    """A time (RFC 3339) or an age (`15m`). Loads as an aware datetime."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        text = str(super()._deserialize(value, attr, data, **kwargs))
        return parse_since(text)


def parse_since(text: str) -> datetime:
    """`15m` ago, or the time of that name, in UTC.

    Raises:
        ValidationError: it is neither.
    """
    age = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if age:
        return datetime.now(UTC) - timedelta(seconds=int(age[1]) * _UNITS_S[age[2]])
    # A `+` in a query that was not quoted arrives as a space.
    found = moment(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text))
    if found is None:
        raise ValidationError("Must be a time such as 2026-05-04T10:00:00Z or an age such as 15m.")
    return found


def moment(text: str) -> datetime | None:
    """The time of that name (RFC 3339, with its zone), in UTC; None where it is none."""
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", text):
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def rfc3339(at: datetime | None) -> str | None:
    """A time as every answer writes it: UTC, six fraction digits, `Z`."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Time(fields.DateTime):
    """A time in an answer."""

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return value if value is None or isinstance(value, str) else rfc3339(value)


class Empty(Strict):
    """The body of a call that takes none: `{}` or nothing."""


class WaitingSchema(Schema):
    """What keeps a service or an operation from going on."""

    kind = fields.String(required=True)
    ref = fields.String(required=True, allow_none=True)
    text = fields.String(required=True)


class ProblemSchema(Schema):
    """RFC 9457, with our `code`, `request_id` and, where a field is wrong, `errors`. Facts may stand beside."""

    class Meta:
        unknown = INCLUDE

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True)
    request_id = fields.String(required=True, allow_none=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    hint = fields.String()


def read_only(body: Mapping[str, Any], names: set[str]) -> None:
    """Refuse fields that only CLOS sets.

    Raises:
        ValidationError: naming each.
    """
    wrong = sorted(names & body.keys())
    if wrong:
        raise ValidationError({name: ["This field is read-only."] for name in wrong})

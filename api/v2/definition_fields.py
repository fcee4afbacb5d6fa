"""Fields and the base schema of everything that a person defines: services, groups, ranges."""

import difflib
import ipaddress
import posixpath
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, validate

from api.schemas import Strict, Text, Whole
from domain.shapes import Problem

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
ENVIRONMENT_KEY = r"[A-Za-z_][A-Za-z0-9_.-]*"
IMAGE = (
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?:\.[A-Za-z0-9-]+|:[0-9]{1,5})/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
URL_OR_PATH = r"(?:https?://[^\s/?#@]+(?:[/?#][^\s]*)?|/[^\s]*)"
ABSOLUTE = r"/[^\x00]*"
VOLUME = r"[^:\x00]+:/[^:\x00]*(?::(?:ro|rw))?"
_LONGEST_ARGUMENT = 32_768
_MOST_ARGUMENTS = 256
_MOST_PROBLEMS = 50


class Definition(Strict):
    """A body in which every field that is not known is named, with a guess at what was meant."""

    # What CLOS itself sets; it stands in answers, so it is often sent back.
    read_only: ClassVar[frozenset[str]] = frozenset()

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **_kwargs: Any) -> None:
        """Say more than "Unknown field."; marshmallow raises what is left in `error`."""
        if many or not isinstance(data, Mapping) or not isinstance(error.messages, dict):
            return
        for name in [key for key, texts in error.messages.items() if texts == ["Unknown field."]]:
            error.messages[name] = [self._unknown(str(name))]

    def _unknown(self, name: str) -> str:
        if name in self.read_only:
            return "This field is read-only."
        near = difflib.get_close_matches(name, list(self.load_fields), 1)
        return "Unknown field." + (f" Did you mean {near[0]!r}?" if near else "")


def name_field(longest: int, **kwargs: Any) -> Text:
    """The name of a service, a group or what is named like them."""
    return Text(longest=longest, smallest=1, pattern=NAME, **kwargs)


def port_field(**kwargs: Any) -> Whole:
    """A port's number."""
    return Whole(low=1, high=65535, **kwargs)


def list_of(field: Any, longest: int, **kwargs: Any) -> fields.List[Any]:
    """A list of at most `longest`."""
    return fields.List(field, validate=validate.Length(max=longest), **kwargs)


def map_of(keys: Any, values: Any, longest: int, **kwargs: Any) -> fields.Dict:
    """A mapping of at most `longest` entries."""
    return fields.Dict(keys=keys, values=values, validate=validate.Length(max=longest), **kwargs)


def one_of(*choices: str, **kwargs: Any) -> fields.String:
    """One of these words."""
    return fields.String(validate=validate.OneOf(choices, error="Must be one of: {choices}."), **kwargs)


def is_address(text: str) -> None:
    """Raises: ValidationError: it is not an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValidationError("Not an IP address.") from None


def is_label(text: str) -> None:
    """Raises: ValidationError: it is one of CLOS's own labels."""
    if text.lower().startswith("clos."):
        raise ValidationError("Labels that begin with clos. are CLOS's own.")


def is_safe_volume(text: str) -> None:
    """Raises: ValidationError: it would mount the host's root, or climbs out of where it begins."""
    source = text.partition(":")[0]
    if ".." in source.split("/") or (source.startswith("/") and posixpath.normpath(source).strip("/") == ""):
        raise ValidationError("The host's root and paths with .. are not mounted.")


def _arguments(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValidationError("Must be a string or a list of strings.")
    if len(value) > _MOST_ARGUMENTS or any(len(each) > _LONGEST_ARGUMENT for each in value):
        raise ValidationError(f"At most {_MOST_ARGUMENTS} arguments of {_LONGEST_ARGUMENT} characters.")
    if any("\x00" in each for each in value):
        raise ValidationError("Must not contain NUL.")
    return value


class Command(fields.Field[list[str]]):
    """A command line as a string, split as a shell would, or its arguments as they are. Loads as a list."""

    def __init__(self, **kwargs: Any) -> None:
        text = {"type": "string", "minLength": 1, "maxLength": _LONGEST_ARGUMENT}
        listed = {"type": "array", "minItems": 1, "maxItems": _MOST_ARGUMENTS, "items": {"type": "string"}}
        super().__init__(metadata={"anyOf": _nullable([text, listed], kwargs)}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_kwargs: Any) -> list[str]:  # noqa: ARG002
        if isinstance(value, str):
            if len(value) > _LONGEST_ARGUMENT:
                raise ValidationError(f"Longer than maximum length {_LONGEST_ARGUMENT}.")
            try:
                value = shlex.split(value)
            except ValueError as wrong:
                raise ValidationError(f"Not a command line: {wrong}.") from None
        if value == [] or (isinstance(value, list) and value[0] == ""):
            raise ValidationError("Must name a program.")
        return _arguments(value)


class Arguments(fields.Field[list[str]]):
    """A health check's arguments; Docker's `CMD` and `CMD-SHELL` in front are understood. Loads without them."""

    def __init__(self, **kwargs: Any) -> None:
        listed = {"type": "array", "minItems": 1, "maxItems": _MOST_ARGUMENTS, "items": {"type": "string"}}
        super().__init__(metadata={"anyOf": _nullable([listed], kwargs)}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_kwargs: Any) -> list[str]:  # noqa: ARG002
        test = _arguments(value) if isinstance(value, list) else _arguments(None)
        if test[:1] == ["CMD-SHELL"]:
            test = ["/bin/sh", "-c", " ".join(test[1:])] if test[1:] else []
        elif test[:1] == ["CMD"]:
            test = test[1:]
        if not test or not test[0]:
            raise ValidationError("Must name a program.")
        return test


class Short(fields.Field[dict[str, Any]]):
    """An object, or a string that stands for one with only its member `name`. Loads as the object."""

    def __init__(self, schema: type[Schema], name: str, text: Text, **kwargs: Any) -> None:
        self._schema, self._name, self._text = schema, name, text
        super().__init__(metadata={"anyOf": _nullable([self._text_schema(), {"type": "object"}], kwargs)}, **kwargs)

    def _text_schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, **{k: v for k, v in self._text.metadata.items() if k == "pattern"}}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        if isinstance(value, str):
            return {self._name: self._text.deserialize(value)}
        loaded: dict[str, Any] = self._schema().load(value)
        return loaded


class Described(fields.Field[dict[str, Any]]):
    """An object whose form the domain knows: `check` names all that is wrong with it, by path.

    With `short`, a text stands for an object with only that member.
    """

    def __init__(self, check: Callable[[Any], list[Problem]], short: str | None = None, **kwargs: Any) -> None:
        self._check, self._short = check, short
        texts: list[dict[str, Any]] = [{"type": "string", "minLength": 1}] if short else []
        super().__init__(metadata={"anyOf": _nullable([*texts, {"type": "object"}], kwargs)}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        if self._short is not None and isinstance(value, str):
            value = {self._short: value}
        if wrong := self._check(value):
            raise ValidationError(_by_path(wrong[:_MOST_PROBLEMS]))
        return dict(value)


def _by_path(problems: Sequence[Problem]) -> Any:
    """Problems as marshmallow has them: below the field's own name."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        _, _, below = problem.path.partition(".")
        if not below:
            return [problem.text]
        found.setdefault(below, []).append(problem.text)
    return found


def _nullable(kinds: list[dict[str, Any]], kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*kinds, {"type": "null"}] if kwargs.get("allow_none") else kinds

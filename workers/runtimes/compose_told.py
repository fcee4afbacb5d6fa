"""Words about a project that was given as a text: the folder in which Compose read it is one of our own, is gone by the
time that anybody hears of it, and is another one each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from domain.errors import ClosError

# The text's own file, as it is told: as one would call it oneself.
NAME = "compose.yaml"
_FOLDER = "the text's folder"


def as_given(value: Any, folder: str) -> Any:
    """A value, however deep, without that folder: its file is `compose.yaml`, and the rest counts from there."""
    if not folder:
        return value
    if isinstance(value, str):
        return value.replace(f"{folder}/{NAME}", NAME).replace(f"{folder}/", "./").replace(folder, _FOLDER)
    if isinstance(value, dict):
        return {as_given(key, folder): as_given(inner, folder) for key, inner in value.items()}
    return [as_given(inner, folder) for inner in value] if isinstance(value, list | tuple) else value


def tell_as_given(refusal: ClosError, folder: str) -> None:
    """Let a refusal speak of the text, and of no folder of ours."""
    refusal.message, refusal.hint = as_given(refusal.message, folder), as_given(refusal.hint, folder)
    refusal.facts = as_given(refusal.facts, folder)


@contextmanager
def told_as_given(folder: str) -> Iterator[None]:
    """Let whatever is refused inside the block do so."""
    try:
        yield
    except ClosError as refusal:
        tell_as_given(refusal, folder)
        raise

"""What an operation left behind that did not get to its end, in lines: what was undone, what stays, what runs."""

from collections.abc import Mapping
from typing import Any

from cli.live import Operation


def lines_of(operation: Operation) -> list[str]:
    """A line for each thing that was undone or is left as it is, and for each that could not be undone."""
    result = operation.get("result") or {}
    takes_over = "runs" in result
    lines = [f"runs now: {result['runs']}"] if takes_over else []
    lines += _listed("undone", result.get("undone"))
    lines += _of_compose(result) if takes_over else _listed("left as it is", result.get("left"))
    return lines + _not_undone(result, takes_over)


def _listed(what: str, found: Any) -> list[str]:
    """Of a start or a stop each has its text; an update only names the services that it has taken back."""
    texts = [f"{what}: {each.get('target')}: {each.get('text')}" for each in found or () if isinstance(each, Mapping)]
    names = [str(each) for each in found or () if not isinstance(each, Mapping)]
    return texts + ([f"{what}: {', '.join(names)}"] if names else [])


def _of_compose(result: Mapping[str, Any]) -> list[str]:
    left = [str(each.get("name")) for each in result.get("left") or () if each.get("name")]
    done = [each for each in result.get("left") or () if not each.get("name")]
    return ([f"left of Compose's: {', '.join(left)}"] if left else []) + _listed("left as it is", done)


def _not_undone(result: Mapping[str, Any], takes_over: bool) -> list[str]:
    which = "may stand still" if takes_over else "could not be taken back"
    return [
        f"{name} {which}: {(error or {}).get('message') or 'no reason given'}"
        for name, error in sorted((result.get("not_undone") or {}).items())
    ]

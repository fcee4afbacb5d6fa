"""How an update ended: which version of each service runs."""

from collections.abc import Mapping
from typing import Any

from cli.live import Operation
from cli.output import Column, Printer

_CHANGES = {"exchange": "exchanged", "replace": "replaced, stopped", "run": "run", "restart": "restarted"}


def _gap(one: Mapping[str, Any]) -> str:
    """How long nothing served."""
    if one.get("unavailable_s") is None:
        return "since " + str(one.get("unavailable_from"))[11:19] if one.get("unavailable_from") else "-"
    return f"{one['unavailable_s']:.1f} s"


def _change(one: Mapping[str, Any]) -> Any:
    """What was done to it: nothing, where the old one runs and was never interrupted."""
    if one.get("runs") == "old" and one.get("unavailable_s") == 0 and not one.get("unavailable_from"):
        return "untouched"
    return _CHANGES.get(str(one.get("change")), one.get("change"))


COLUMNS: list[Column] = [
    ("SERVICE", lambda one: one.get("service_id")),
    ("RUNS", lambda one: one.get("runs")),
    ("IMAGE", lambda one: one.get("image")),
    ("CHANGE", _change),
    ("UNAVAILABLE", _gap),
]


def say(printer: Printer, ended: Operation) -> None:
    """Which version of each of its services runs."""
    result = ended.get("result") or {}
    services = result.get("services") or []
    if not services:
        printer.say("nothing to update" if ended.get("status") == "completed" else "nothing was changed")
        return
    printer.table(services, COLUMNS)

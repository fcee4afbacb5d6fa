"""Conflicts, plans and resolutions in words."""

from collections.abc import Mapping
from typing import Any

from cli.client import Client
from cli.errors import holder_name
from cli.live import Operation
from cli.output import Column, Printer, inert, local_time

KINDS = {
    "duplicate_claim": "two services claim it",
    "foreign_container": "a container that is not CLOS's has it",
    "latent_claim": "a stopped container will want it",
    "foreign_process": "a process that is not CLOS's has it",
    "stray_instance": "an instance that nobody wants has it",
    "out_of_range": "it lies outside of its project's ranges",
    "reserved": "it is reserved",
}
STEPS: list[Column] = [
    ("STEP", lambda step: step.get("action")),
    ("TARGET", lambda step: step.get("target")),
    ("AFTER", lambda step: ", ".join(step.get("depends_on") or [])),
    ("WHY", lambda step: step.get("cause")),
]
# These only warn: nothing fails for them.
WARNINGS = frozenset({"out_of_range", "reserved"})


def where(one: Mapping[str, Any]) -> str:
    """A conflict's port: `9311/tcp`."""
    return f"{one.get('port')}/{one.get('protocol')}"


def held_by(one: Mapping[str, Any]) -> str:
    """Who has a conflict's port, if anybody was seen."""
    holder = one.get("holder")
    return holder_name(holder) if isinstance(holder, dict) else ""


def resolution(one: Mapping[str, Any]) -> str:
    """What was done about a conflict."""
    done = one.get("resolution") or {}
    if not done:
        return ""
    moved = f" {done['from_port']} to {done['to_port']}" if done.get("to_port") else ""
    undone = ", undone" if done.get("undone_by") else ""
    return f"{done.get('strategy')}{moved}{undone}"


COLUMNS: list[Column] = [
    ("ID", lambda one: str(one.get("id"))),
    ("PORT", where),
    ("KIND", lambda one: one.get("kind")),
    ("STATUS", lambda one: one.get("status")),
    ("CLAIMED BY", lambda one: ", ".join(one.get("claimants") or [])),
    ("HELD BY", held_by),
    ("SINCE", lambda one: local_time(one.get("detected_at"))),
]
WIDE: list[Column] = [
    ("ADDRESS", lambda one: one.get("host_ip")),
    ("OPTIONS", lambda one: ", ".join(dict.fromkeys(str(each.get("strategy")) for each in one.get("options") or []))),
    ("RESOLUTION", resolution),
]


def say_plan(printer: Printer, ended: Operation) -> None:
    """What a dry run would do, and why."""
    if printer.machine:
        return
    plan = (ended.get("result") or {}).get("plan") or {}
    for conflict in plan.get("conflicts") or []:
        text = conflict.get("detail") or f"port {where(conflict)} ({inert(conflict.get('kind'))})"
        printer.say(f"conflict: {inert(text)}")
    for chosen in plan.get("resolutions") or []:
        printer.say(f"resolution: {inert(chosen.get('description'))} ({inert(chosen.get('risk_level'))} risk)")
        for effect in chosen.get("effects") or []:
            printer.say(f"  {inert(effect)}")
    if not plan.get("steps"):
        printer.say("nothing to do")
        return
    printer.table(plan["steps"], STEPS)
    if len(plan.get("critical_path") or []) > 1:
        printer.say(f"what it takes at least: {inert(', '.join(map(str, plan['critical_path'])))}")


def settled_by(client: Client, operation: Operation) -> list[dict[str, Any]]:
    """The conflicts that an operation has resolved, the first one first."""
    if not any(step.get("action") in ("migrate_port", "terminate", "stop") for step in operation.get("steps") or []):
        return []
    events = client.get("/events", type="port.conflict_resolved", limit=50)["items"]
    found = [event.get("data") or {} for event in events]
    mine = [one for one in found if (one.get("resolution") or {}).get("operation_id") == operation["id"]]
    return mine[::-1]


def resolved_by(client: Client, operation: Operation) -> list[str]:
    """What an operation did about conflicts, a line each, with the way back where there is one."""
    lines = []
    for one in settled_by(client, operation):
        done = one["resolution"]
        holder = one.get("holder") or {}
        shortly = {key: value for key, value in holder.items() if key != "command" or not holder.get("name")}
        text = f"port {where(one)} was held by {holder_name(shortly) if holder else 'another'}"
        if done.get("to_port"):
            moved = f"{', '.join(one.get('claimants') or [])} moved to {done['to_port']}"
            lines.append(f"{text}: {moved} (back: clos conflicts undo {one.get('id')})")
        else:
            lines.append(f"{text} and is free now ({done.get('strategy')})")
    return lines

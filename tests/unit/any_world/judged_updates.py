"""What an update says runs is what runs; and one that went back left everything as it was."""

from collections.abc import Iterable
from typing import Any

from domain.states import OperationStatus
from models.operations import Operation
from tests.unit.any_world.judged_operations import disturbed
from tests.unit.any_world.world import World


def ended(operation: Operation, world: World) -> list[str]:
    """Once it has ended."""
    kept = operation.compensation or {}
    changes: dict[str, dict[str, Any]] = kept.get("changes") or {}
    if not operation.type.endswith(".update") or not changes:
        return []
    name = f"{operation.type} {operation.id[-4:]}"
    told = {each["service_id"]: each for each in (operation.result or {}).get("services") or ()}
    if any("last_seen_at" in each for each in told.values()):
        return []  # nobody was left to go back: it tells what was seen last, and when
    wrong = [] if set(told) == set(changes) else [f"{name} was about {set(changes)}, and tells of {set(told)}"]
    for service_id, each in told.items():
        if disturbed(operation, world, service_id):
            continue
        of = f"{name}: {service_id} ({each}, {operation.status}, {kept['direction']})"
        wrong += [f"{of} {what}" for what in _told(operation, world, changes[service_id], each)]
        wrong += [f"{of} {what}" for what in _went_back(operation, world, changes[service_id])]
        wrong += [f"{of} {what}" for what in _kept(operation, world, changes[service_id])]
        wrong += [f"{of} {what}" for what in _ran_twice(operation, world, changes[service_id])]
    return wrong + _followers(operation, world, changes, name)


def left_beside(every: Iterable[Operation]) -> set[str]:
    """Of which services some update has said that it could not clear up after itself."""
    found: set[str] = set()
    for operation in every:
        if operation.type.endswith(".update"):
            found |= set((operation.result or {}).get("not_undone") or {})
            found |= {step.target for step in operation.steps if step.action == "remove" and step.status == "failed"}
    return found


def _told(operation: Operation, world: World, change: dict[str, Any], told: dict[str, Any]) -> list[str]:
    instance = world.machine.instance(change["service_id"])
    old = instance.spec_hash == change["hash"]
    restarts = change["kind"] == "restart"
    wrong = []
    if told["runs"] == "unknown":
        return []  # its engine did not answer
    if (told["runs"] != "none") != instance.alive:
        wrong.append(f"is {instance.phase.value}")
    elif instance.alive and not restarts and (told["runs"] == "old") != old:
        wrong.append(f"runs as {instance.spec_hash}")
    elif restarts and told["runs"] == "new" and old and (operation.compensation or {})["direction"] == "back":
        wrong.append("was taken back, and is said to be new")
    if operation.status == OperationStatus.COMPLETED and old and not restarts:
        wrong.append("was not updated")
    if told["unavailable_s"] is None and instance.alive and operation.status == OperationStatus.COMPLETED:
        wrong.append("serves, and nothing says since when")
    return wrong


def _went_back(operation: Operation, world: World, change: dict[str, Any]) -> list[str]:
    if (operation.compensation or {}).get("direction") != "back":
        return []
    if change["service_id"] in ((operation.result or {}).get("not_undone") or {}):
        return []
    instance = world.machine.instance(change["service_id"])
    wrong = []
    if change["kind"] != "restart" and instance.ref != change["ref"]:
        wrong.append(f"is {instance.ref}, and was {change['ref']} before")
    if instance.alive != change["ran"]:
        wrong.append(f"is {instance.phase.value}, and {'ran' if change['ran'] else 'did not run'} before")
    return wrong


def _kept(operation: Operation, world: World, change: dict[str, Any]) -> list[str]:
    """What ran, and of which a kept update has started no new one, runs."""
    service_id = change["service_id"]
    started = {step.id: step.status for step in operation.steps}.get(f"start:{service_id}")
    if (operation.compensation or {}).get("direction") != "keep" or not change["ran"]:
        return []
    if started in ("completed", "failed") or service_id in ((operation.result or {}).get("not_undone") or {}):
        return []
    instance = world.machine.instance(service_id)
    return [] if instance.alive else [f"ran before, and is {instance.phase.value}; its start is {started}"]


def _ran_twice(operation: Operation, world: World, change: dict[str, Any]) -> list[str]:
    """What does its work and ends did so once, however many workers died meanwhile; and once more where people have
    defined it anew meanwhile."""
    service_id = change["service_id"]
    if service_id in world.people.redefined:
        return []
    instance = world.machine.instance(service_id)
    if instance.alive or instance.exit_code != 0 or (operation.compensation or {}).get("direction") == "back":
        return []
    starts = world.machine.happened.count(("start", service_id, operation.id))
    return [f"is done, and was started {starts} times"] if starts > 1 else []


def _followers(operation: Operation, world: World, changes: dict[str, dict[str, Any]], name: str) -> list[str]:
    """Who asks to be restarted with what was exchanged was."""
    if operation.status != OperationStatus.COMPLETED:
        return []
    wrong = []
    for service_id in (operation.parameters or {}).get("services") or ():
        instance = world.machine.instance(service_id)
        spec = world.machine.memory_of(service_id)._specs.get(service_id)
        if spec is None or not instance.alive or disturbed(operation, world, service_id):
            continue
        for need in spec.depends_on:
            if need.restart and need.service in changes and changes[need.service]["kind"] != "replace":
                began = operation.start_time
                if instance.started_at and began and instance.started_at < began:
                    wrong.append(f"{name}: {service_id} was not restarted with {need.service}")
    return wrong

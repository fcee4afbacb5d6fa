"""What an update finds on the machine before it, and what it says of it after."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from domain.observation import Instance, ObservedState, Phase
from domain.specs import RuntimeKind, ServiceSpec
from domain.updating import Change, Direction, Kind, changes, ports_of
from workers.carrying import Subject
from workers.context import Context
from workers.update_record import UpdateRecord


def drifted(context: Context, subject: Subject, observed: ObservedState, named: set[str]) -> dict[str, Change]:
    """What is to be changed of what was asked for, each with the ports that it has now."""
    found = changes(subject.specs, observed, named)
    for service_id, change in found.items():
        if change.kind is Kind.EXCHANGE:
            spec = subject.by_id[service_id]
            has = ports_of(context.runtimes[spec.runtime.value].as_made(spec))
            found[service_id] = replace(change, ports=tuple(sorted(has)))
    return found


def prepared(context: Context, subject: Subject, wanted: Mapping[str, Change]) -> set[str]:
    """Which of these need no pull or build. Unlike in a start, one that runs is asked about too: it runs another."""
    docker = [spec for spec in subject.specs if spec.runtime is RuntimeKind.DOCKER and spec.id in wanted]
    return {spec.id for spec in docker if context.runtimes[RuntimeKind.DOCKER].prepared(spec)}


def told(kept: UpdateRecord, spec: ServiceSpec, change: Change, instance: Instance, restarted: bool) -> dict[str, Any]:
    """Which version of a service runs, and how long none did. `restarted`: the way forward has started it."""
    began, ended = kept.window(spec.id)
    return {
        "service_id": spec.id,
        "change": change.kind.value,
        "runs": _which(change, instance, restarted and kept.direction is not Direction.BACK),
        "image": instance.image if instance.alive else None,
        "unavailable_s": kept.unavailable_s(spec.id),
        "unavailable_from": began,
        "unavailable_until": ended,
    }


def _which(change: Change, instance: Instance, restarted: bool) -> str:
    if instance.phase is Phase.UNKNOWN:
        return "unknown"  # its engine does not answer now: never guessed
    if not instance.alive:
        return "none"
    if change.kind is Kind.RESTART and restarted:
        return "new"  # the same version, and another run of it: one that was never touched, or is back, is the old one
    # It may have been defined anew since: what is not the one of before is what this update has brought.
    return "old" if instance.spec_hash == change.hash else "new"

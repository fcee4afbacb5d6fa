"""Thirty services that all claim one port are started at once. Done when 2 of the ports part."""

import time
from collections import Counter
from typing import Any

from domain.states import FINAL
from tests.faults.world import container_copies, process_copies
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.waiting import wait_until


def thirty_starts(docker: bool, count: int = 30) -> dict[str, Any]:
    """One wins, the others end `failed` with `port_held` naming the winner; nothing half made is left."""
    with rig() as clos:
        clos.scheduler()
        clos.worker()
        clos.worker()
        port = free_port()
        make = container_service if docker else web_service
        names = [f"rival{number:02}" for number in range(count)]
        for name in names:
            clos.add_group(name, [make("main", port)])
        ids = {name: clos.ask("start", name, send=False) for name in names}
        began = time.monotonic()
        for operation_id in ids.values():
            clos.outbox.operation(operation_id, "group.start")
        wait_until(lambda: all(clos.operation(each).status in FINAL for each in ids.values()), 180, "all ends")
        took_s = time.monotonic() - began
        ended = {name: clos.operation(operation_id) for name, operation_id in ids.items()}
        winners = [f"{name}-main" for name, operation in ended.items() if operation.status == "completed"]
        named = Counter(_named(operation.error) for operation in ended.values() if operation.status == "failed")
        return {
            "ended": dict(Counter(operation.status for operation in ended.values())),
            "named": {f"{code} by {holder}": number for (code, holder), number in named.items()},
            "winner": winners,
            "took_s": round(took_s, 1),
            "running": _running(clos, docker),
            "well": len(winners) == 1
            and named == {("port_held", winners[0]): count - 1}
            and _running(clos, docker) == [winners[0]],
        }


def _named(error: dict[str, Any] | None) -> tuple[str, str]:
    found = error or {}
    holder = found.get("holder") or {}
    return str(found.get("code")), str(holder.get("service_id") or holder.get("name") or found.get("message"))


def _running(clos: Rig, docker: bool) -> list[str]:
    """What is there in fact; a container that was merely created counts as well."""
    if docker:
        running, created = container_copies(clos)
        return sorted([*running.elements(), *(f"{each} (created)" for each in created)])
    return sorted(process_copies(clos).elements())

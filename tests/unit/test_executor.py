"""Random graphs, faults and cancels on the in-memory machine: what must hold whatever happens."""

import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import StartFailed
from domain.states import FINAL
from models import operation_requests, operations
from tests.unit.worker_kit import Kit, checked, plain, status
from workers import runner
from workers.runtimes.in_memory import Behaviour

FAULTS = {
    "none": Behaviour(),
    "refused": Behaviour(fail_on={"start": StartFailed("refused")}),
    "dies": Behaviour(ends_with=1),
    "ill": Behaviour(unhealthy=True),
    "broken": Behaviour(fail_on={"start": ZeroDivisionError("defect")}),  # type: ignore[dict-item]
    "slow": Behaviour(delay_s=0.02),
    "unstoppable": Behaviour(fail_on={"stop": StartFailed("it does not end")}),
}


@st.composite
def _worlds(draw):
    count = draw(st.integers(1, 6))
    services, faults = [], {}
    for number in range(count):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        make = draw(st.sampled_from([plain, checked]))
        services.append(make(f"s{number}", *sorted(f"s{need}" for need in needs)))
        faults[f"shop-s{number}"] = draw(st.sampled_from(["none", "none", "none", *FAULTS]))
    verbs = draw(st.lists(st.sampled_from(["start", "stop", "restart"]), min_size=1, max_size=3))
    return services, faults, verbs, draw(st.sampled_from([None, 0.0, 0.02, 0.06])), draw(st.integers(1, 4))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(_worlds())
def test_whatever_happens_an_operation_ends_with_the_truth(world):
    services, faults, verbs, cancel_after_s, parallel = world
    with tempfile.TemporaryDirectory(prefix="clos-prop-") as folder:
        kit = Kit(Path(folder), parallel=parallel)
        try:
            kit.group("shop", *services)
            for service_id, fault in faults.items():
                kit.memory.behave(service_id, FAULTS[fault])
            for verb in verbs:
                operation_id = kit.ask(verb, timeout=0.5)
                canceller = threading.Timer(cancel_after_s or 0.0, _cancel, (kit, operation_id))
                if cancel_after_s is not None:
                    canceller.start()
                runner.run(kit.context, operation_id)
                if cancel_after_s is not None:
                    canceller.join()
                _judge(kit, operation_id)
        finally:
            kit.close()


def _cancel(kit: Kit, operation_id: str) -> None:
    with kit.record.write() as session:
        operation = operations.get(session, operation_id)
        if operation.status not in FINAL:
            operation_requests.cancel(session, operation)
    kit.context.claims._beat()


def _judge(kit: Kit, operation_id: str) -> None:
    ended = kit.operation(operation_id)
    assert ended.status in FINAL
    assert kit.locks() == []
    assert kit.context.claims.held() == 0
    steps = status(ended)
    assert set(steps.values()) <= {"completed", "failed", "skipped"}
    if ended.status == "completed":
        assert set(steps.values()) <= {"completed"}
    if ended.status == "failed":
        assert "failed" in steps.values()
    for step in ended.steps:
        # A dependent of what was not done was not done; only a stop goes on without its dependents' stop.
        for need in step.depends_on if step.action != "stop" else ():
            if steps[need] in ("failed", "skipped") and steps[step.id] == "completed":
                later = next(each for each in ended.steps if each.id == need)
                assert later.action == "wait", f"{step.id} was done though {need} was not"
    progress = [e["data"]["progress"] for e in kit.events("operation.progress") if e["operation_id"] == operation_id]
    assert progress == sorted(progress)
    seen = kit.memory.observe()
    for step_id, how in steps.items():
        action, service_id = step_id.split(":", 1)
        if action == "wait" and how == "completed":
            assert seen[service_id].alive
            assert kit.service(service_id.removeprefix("shop-")).status == "running"
        if action == "stop" and how == "completed" and not ended.type.endswith("restart"):
            assert not seen[service_id].alive
    for service_id in seen:
        recorded = kit.service(service_id.removeprefix("shop-")).status
        assert recorded not in ("starting", "stopping"), f"{service_id} is left {recorded}"

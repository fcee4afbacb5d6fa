"""A start that is planned again because of a port: what the first plan had seen fail."""

from domain.errors import PortHeld
from models import operation_requests, operations
from tests.unit.test_conflict_work import STRANGER, kit  # noqa: F401 - the fixture
from tests.unit.worker_kit import plain
from workers.journal import Journal
from workers.port_guard import PortGuard
from workers.runtimes.in_memory import Behaviour


def _moves_away(kit, monkeypatch, port):  # noqa: F811
    """`web` finds its port taken once, and starts well on another one."""
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": PortHeld(port, "tcp", "0.0.0.0", STRANGER)}))
    again = PortGuard.may_plan_again

    def then_well(guard, *words):
        kit.memory.behave("shop-web", Behaviour())
        return again(guard, *words)

    monkeypatch.setattr(PortGuard, "may_plan_again", then_well)


def test_what_was_not_ready_is_not_forgotten_because_another_one_had_to_move(kit, monkeypatch):  # noqa: F811
    kit.group(
        "shop",
        plain("db"),
        plain("web", ports=[{"container_port": 23460, "host_port": 23460}], conflicts={"on_start": "migrate"}),
    )
    kit.memory.behave("shop-db", Behaviour(unhealthy=True))
    _moves_away(kit, monkeypatch, 23460)
    ended = kit.run(kit.ask("start", step_timeout=0.3, on_conflict="migrate"))
    assert (ended.status, ended.error["code"], ended.error["step"]) == ("failed", "timeout", "wait:shop-db")
    assert kit.memory.calls.count(("start", "shop-db")) == 1


def test_a_job_that_ran_is_not_run_again_because_another_one_had_to_move(kit, monkeypatch):  # noqa: F811
    needs = [{"service": "job", "condition": "completed"}]
    web = plain("web", ports=[{"container_port": 23461, "host_port": 23461}], conflicts={"on_start": "migrate"})
    kit.group("shop", plain("job", restart_policy="no"), web | {"depends_on": needs})
    kit.memory.behave("shop-job", Behaviour(ends_with=0))
    _moves_away(kit, monkeypatch, 23461)
    ended = kit.run(kit.ask("start", only=["shop-job", "shop-web"], on_conflict="migrate"))
    assert ended.status == "completed", ended.error
    assert kit.memory.calls.count(("start", "shop-job")) == 1


def test_what_was_refused_and_is_not_reached_again_is_skipped_like_what_never_began(kit, monkeypatch):  # noqa: F811
    kit.group("shop", plain("web", ports=[{"container_port": 23457, "host_port": 23457}]))
    kit.memory.behave("shop-web", Behaviour(fail_on={"start": PortHeld(23457, "tcp", "0.0.0.0")}))
    operation_id = kit.ask("start", on_conflict="migrate")
    begin, plans = Journal.begin, []

    def and_cancelled(journal, *plan, **how):
        begin(journal, *plan, **how)
        plans.append(plan)
        if len(plans) == 2:
            with kit.record.write() as session:
                operation_requests.cancel(session, operations.get(session, operation_id))

    monkeypatch.setattr(Journal, "begin", and_cancelled)
    steps = {step.id: step for step in kit.run(operation_id).steps}

    assert len(plans) == 2
    assert (steps["start:shop-web"].status, steps["start:shop-web"].error) == ("skipped", None)

"""A take-over that is cancelled at each of its steps, on made-up containers: what its list says is what was done."""

from dataclasses import replace

import pytest

from domain.planning import Action
from models import operation_requests, operations
from tests.unit.worker_kit import Kit, plain
from workers import adopting, adoption_record, runner
from workers.adoption_record import Foreign
from workers.journal import Journal
from workers.port_steps import PortSteps


class Project:
    """The containers that Compose had started, and what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *services: str) -> None:
        made = [Foreign(name * 64, f"shop-{name}-1", name, running=True) for name in services]
        self.there = {each.target: each for each in made}
        self.done: list[str] = []
        monkeypatch.setattr(adoption_record, "find", lambda *_words, **_how: list(self.there.values()))
        monkeypatch.setattr(PortSteps, "does", lambda _steps, step: step.target.startswith("container:"))
        monkeypatch.setattr(PortSteps, "run", lambda _steps, step, _spec: self._do(step))

    def _do(self, step) -> None:
        self.done.append(step.id)
        if step.action is Action.REMOVE:
            del self.there[step.target]
        else:
            self.there[step.target] = replace(self.there[step.target], running=step.action is Action.START)


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _asked(kit, project):
    box = {"runtime": "docker", "image": "x", "command": None}
    kit.group("shop", *(plain(each.service, **box) for each in project.there.values()))
    with kit.record.write() as session:
        made = operations.create(session, "group.import", group_name="shop", initiated_by="test")
        containers = [each.as_dict() for each in project.there.values()]
        made.compensation = {
            "group": "shop", "project": "shop", "containers": containers, "result": {"group": "shop"},
        }  # fmt: skip
        made.parameters = {}
        return made.id


@pytest.mark.parametrize("action", ["pull", "create", "stop", "start", "wait", "remove"])
def test_its_list_says_what_was_done_and_its_result_what_runs(kit, monkeypatch, action):
    project = Project(monkeypatch, "d", "e")
    operation_id = _asked(kit, project)
    started = Journal.started

    def then_cancelled(journal, steps, anyway=False):
        goes_on = started(journal, steps, anyway)
        if not anyway and any(step.action == action for step in steps):
            with kit.record.write() as session:
                operation_requests.cancel(session, operations.get(session, operation_id))
            journal._claim.cancelled.set()
        return goes_on

    monkeypatch.setattr(Journal, "started", then_cancelled)
    runner.run(kit.context, operation_id, adopting.take_over)

    ended = kit.operation(operation_id)
    steps = {step.id: step for step in ended.steps}
    told = {step.id for step in ended.steps if step.status == "completed" and step.target.startswith("container:")}
    assert told == set(project.done)
    assert not [step.id for step in ended.steps if (step.error or {}).get("code") == "cut_off"]
    if ended.result["runs"] == adopting.THEIRS:
        assert ended.status == "cancelled"
        assert all(each.running for each in project.there.values())
        assert not [each for each in kit.memory.observe().values() if each.alive]
    else:
        assert all(each.alive for each in kit.memory.observe().values())
        assert all(steps[f"wait:shop-{name}"].status == "completed" for name in "de")

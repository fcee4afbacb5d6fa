"""A take-over that is cancelled at each of its steps, on made-up containers: what its list says is what was done."""

import pytest

from domain.planning import Action
from tests.unit.takeover_kit import Project, asked, cancel, cancel_during
from tests.unit.worker_kit import Kit, status
from workers import adopting, runner
from workers.journal import Journal


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("action", ["pull", "create", "stop", "start", "wait", "remove"])
def test_its_list_says_what_was_done_and_its_result_what_runs(kit, monkeypatch, action):
    project = Project(monkeypatch, "d", "e")
    operation_id = asked(kit, project)
    started = Journal.started

    def then_cancelled(journal, steps, anyway=False):
        goes_on = started(journal, steps, anyway)
        if not anyway and any(step.action == action for step in steps):
            cancel(kit, operation_id)
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


def test_a_cancel_that_comes_as_the_last_old_container_goes_finds_it_taken_over(kit, monkeypatch):
    project = Project(monkeypatch, "d")
    operation_id = asked(kit, project)
    cancel_during(kit, monkeypatch, operation_id, Action.REMOVE)

    runner.run(kit.context, operation_id, adopting.take_over)

    ended = kit.operation(operation_id)
    assert (ended.status, ended.error, set(status(ended).values())) == ("completed", None, {"completed"})
    assert [each["service"] for each in ended.result["taken_over"]] == ["d"]
    assert "left" not in ended.result

"""A take-over whose worker dies on the way, on made-up containers: who goes on waits for what was started."""

import pytest

from tests.unit.takeover_kit import Project, asked, dies_after
from tests.unit.worker_kit import Kit, status
from workers import adopting, runner


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def test_no_old_container_goes_before_somebody_has_waited_for_the_one_in_its_place(kit, monkeypatch):
    project = Project(monkeypatch, "d")
    operation_id = asked(kit, project)
    dies_after(monkeypatch, "start:shop-d")
    runner.run(kit.context, operation_id, adopting.take_over)
    assert project.there
    kit.change(operation_id, heartbeat_at=None)

    runner.run(kit.context, operation_id, adopting.take_over)

    ended = kit.operation(operation_id)
    steps = {step.id: step for step in ended.steps}
    assert (ended.status, set(status(ended).values()), project.there) == ("completed", {"completed"}, {})
    waited, removed = steps["wait:shop-d"], steps["remove:container:dddddddddddd"]
    assert waited.started_at is not None  # what nobody did has no beginning
    assert waited.ended_at <= removed.started_at

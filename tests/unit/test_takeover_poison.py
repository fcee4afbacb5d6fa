"""Take-overs over which their workers fell silent: they go back, or say what stands; the next one knows who ran."""

import pytest

from cli.aftermath import lines_of
from models import operation_takeovers, operations
from models.operation_rows import OperationStep
from models.operation_takeovers import OURS, PART, THEIRS
from tests.unit.worker_kit import Kit

DB = {"container_id": "d" * 64, "name": "shop-db-1", "service": "db", "running": True}
WEB = {"container_id": "e" * 64, "name": "shop-web-1", "service": "web", "running": True}
JOB = {"container_id": "f" * 64, "name": "shop-job-1", "service": "job", "running": False}
STOP, REMOVE = f"stop:container:{'e' * 12}", f"remove:container:{'e' * 12}"


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _promised(kit, status="in_progress", result=None, **steps):
    """A take-over that has written down its promise; `steps`: how the stop and the removal of `web` stand."""
    kept = {"group": "shop", "project": "shop", "containers": [DB, WEB, JOB], "result": {"group": "shop"}}
    with kit.record.write() as session:
        made = operations.create(session, "group.import", group_name="shop", initiated_by="test")
        made.compensation, made.status, made.result = kept, status, result
        for place, (action, stands) in enumerate(steps.items()):
            target = f"container:{'e' * 12}"
            made.steps.append(
                OperationStep(
                    id=f"{action}:{target}", position=place, action=action, target=target, status=stands, depends_on=[]
                )
            )
        return made.id


def _silent(kit, operation_id, workers):
    for _ in range(workers):
        kit.change(operation_id, heartbeat_at=None)
        assert kit.make_context("dying").claims.take(operation_id) is not None
    kit.change(operation_id, heartbeat_at=None)


def test_the_fourth_worker_is_given_it_to_go_back_alone(kit):
    operation_id = _promised(kit, stop="running", remove="pending")
    _silent(kit, operation_id, 4)

    found = kit.operation(operation_id)

    assert (found.compensation["back"]["status"], found.compensation["back"]["error"]["code"]) == ("failed", "poison")
    assert found.compensation["back"]["error"]["attempts"] == 3
    assert {step.id: step.status for step in found.steps} == {STOP: "running", REMOVE: "skipped"}


def test_one_that_kills_six_workers_ends_and_names_what_may_stand_still(kit):
    operation_id = _promised(kit, stop="running")
    _silent(kit, operation_id, 6)

    assert kit.make_context("last").claims.take(operation_id) is None

    ended = kit.operation(operation_id)
    assert (ended.status, ended.error["code"], ended.error["attempts"]) == ("failed", "poison", 6)
    assert (ended.result["group"], ended.result["runs"]) == ("shop", PART)
    assert set(ended.result["not_undone"]) == {"shop-db-1", "shop-web-1"}
    assert [line.partition(":")[0] for line in lines_of({"result": ended.result})] == [
        "runs now", "shop-db-1 may stand still", "shop-web-1 may stand still",
    ]  # fmt: skip


@pytest.mark.parametrize(("stands", "may_stand"), [("running", ["db", "web", "job"]), ("completed", ["db", "job"])])
def test_past_the_first_removal_there_is_no_way_back_and_what_is_left_is_told(kit, stands, may_stand):
    operation_id = _promised(kit, stop="completed", remove=stands)
    _silent(kit, operation_id, 3)

    assert kit.make_context("last").claims.take(operation_id) is None

    ended = kit.operation(operation_id)
    assert (ended.status, ended.error["code"], ended.result["runs"]) == ("failed", "poison", OURS)
    # A removal that was begun may not have been done.
    assert [each["service"] for each in ended.result["left"]] == may_stand


@pytest.mark.parametrize(
    ("status", "result", "ran"),
    [
        ("failed", None, {"d" * 64, "e" * 64}),
        ("failed", {"runs": PART, "not_undone": {"shop-web-1": {}}}, {"d" * 64, "e" * 64}),
        ("failed", {"runs": THEIRS}, set()),
        ("cancelled", {"runs": THEIRS}, set()),
        ("completed", {"runs": OURS}, set()),
    ],
)
def test_the_next_one_knows_who_ran_before_one_that_kept_no_promise(kit, status, result, ran):
    _promised(kit, status, result)
    with kit.record.write() as session:  # one that never came to promise anything tells nothing
        operations.create(session, "group.import", group_name="shop", initiated_by="test").status = "failed"

    with kit.record.read() as session:
        assert operation_takeovers.ran_before(session, "shop") == ran
        assert operation_takeovers.ran_before(session, "other") == set()

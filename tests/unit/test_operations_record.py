from datetime import timedelta

import pytest

from domain.errors import ClaimLost, OperationFinal, OperationInProgress, OperationNotFound, ValidationFailed
from domain.states import OperationStatus
from models import events, operation_requests, operations, questions
from models.base import now
from models.operations import Operation
from models.record import outside_transaction
from tests.unit.worker_kit import Kit, plain

ME = {"host": "h", "pid": 1}


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def _make(session, *targets: str, **fields) -> Operation:
    return operations.create(session, "service.start", targets=targets, **fields)


def test_ids_are_in_the_order_of_time():
    made = [operations.new_id() for _ in range(50)]
    assert len(set(made)) == 50
    assert [each[14] for each in made] == ["7"] * 50
    assert [each[:13] for each in made] == sorted(each[:13] for each in made)


def test_a_target_belongs_to_one_active_operation_and_is_free_at_its_end(kit):
    with kit.record.write() as session:
        first = _make(session, "service:a", "service:b")
        with pytest.raises(OperationInProgress) as refusal:
            _make(session, "service:b", "service:c")
        assert refusal.value.operation_id == first.id
        operations.finish(session, first, OperationStatus.COMPLETED)
        assert _make(session, "service:b").status == "pending"


def test_what_was_made_just_now_can_be_changed_in_the_same_transaction(kit):
    with kit.record.write() as session:
        made = _make(session, "service:a", parameters={"named": ["a"]})
        assert (made.status, made.progress, made.attempt, made.steps) == ("pending", 0, 0, [])
        made.retry_of = "before"
    with kit.record.read() as session:
        kept = operations.get(session, made.id)
        assert (kept.retry_of, kept.parameters, kept.error, kept.sends) == ("before", {"named": ["a"]}, None, 0)
        assert kept.created_at == made.created_at


def test_a_refused_operation_writes_nothing_and_its_transaction_goes_on(kit):
    with kit.record.write() as session:
        first = _make(session, "service:a")
        with pytest.raises(OperationInProgress):
            _make(session, "service:a", "service:b")
        second = _make(session, "service:b")
    with kit.record.read() as session:
        assert [each.id for each in operations.due(session, now())] == sorted((first.id, second.id))


def test_an_operation_ends_once(kit):
    with kit.record.write() as session:
        made = _make(session)
        operations.finish(session, made, OperationStatus.FAILED, error={"code": "x"})
        with pytest.raises(ClaimLost):
            operations.finish(session, made, OperationStatus.COMPLETED)
        with pytest.raises(OperationFinal):
            operation_requests.cancel(session, made)


def test_a_write_with_an_old_fence_is_refused(kit):
    with kit.record.write() as session:
        made = _make(session)
        old = operations.claim(session, made.id, ME, now()).fence
        made.heartbeat_at = None
        session.flush()
        operations.claim(session, made.id, ME, now())
        with pytest.raises(ClaimLost):
            operations.held(session, made.id, old)
        assert operations.heartbeat(session, [(made.id, old)], now()) == [made.id]
        with pytest.raises(ClaimLost):
            operations.held(session, "none", 1)


def test_a_hand_back_is_no_attempt(kit):
    with kit.record.write() as session:
        made = _make(session)
        for _ in range(5):
            assert operations.claim(session, made.id, ME, now()).attempt == 1
            operations.hand_back(made)
            session.flush()


def test_not_before_is_honoured(kit):
    with kit.record.write() as session:
        made = _make(session, not_before=now() + timedelta(seconds=60))
        assert operations.claim(session, made.id, ME, now()) is None
        assert operations.claim(session, made.id, ME, now() + timedelta(seconds=61)) is not None
        assert operations.claim(session, "none", ME, now()) is None


def test_due_finds_work_behind_any_number_of_operations_that_wait(kit):
    with kit.record.write() as session:
        for _ in range(210):
            session.add(Operation(id=operations.new_id(), type="x", status="waiting", created_at=now()))
        session.flush()
        behind = _make(session)
        assert [each.id for each in operations.due(session, now())] == [behind.id]


def test_a_cancel_asked_twice_changes_nothing(kit):
    with kit.record.write() as session:
        made = _make(session)
        operations.claim(session, made.id, ME, now())
        operation_requests.cancel(session, made)
        asked_at = made.cancel_requested_at
        operation_requests.cancel(session, made)
        assert (made.status, made.cancel_requested_at) == ("cancelling", asked_at)


def test_a_retry_asks_again_for_the_same_targets(kit):
    with kit.record.write() as session:
        first = _make(session, "service:a", service_id="a", group_name="g", parameters={"services": ["a"]})
        operations.finish(session, first, OperationStatus.FAILED)
        again = operation_requests.retry(session, first, initiated_by="me")
        assert (again.retry_of, again.parameters) == (first.id, {"services": ["a"]})
        with pytest.raises(OperationInProgress):
            _make(session, "service:a")


def test_only_a_choice_is_an_answer(kit):
    choices = [{"choice": "migrate_service"}, {"choice": "change_port"}]
    with kit.record.write() as session:
        made = _make(session, status="waiting", question={"key": "k", "choices": choices})
        for wrong in ("destroy", "change_port", "change_port:0", "change_port:22:22", "migrate_service:9400"):
            with pytest.raises(ValidationFailed):
                questions.chosen(made, wrong)
        assert questions.chosen(made, "change_port:9400") == choices[1]
        questions.answer(session, made, "change_port:9400", "me")
        assert (made.status, made.question) == ("pending", None)
        assert made.parameters == {
            "answer": "change_port:9400", "answers": {"k": "change_port:9400"}, "answered_by": "me",
        }  # fmt: skip


def test_a_question_that_nobody_answered_in_time_is_found(kit):
    past, future = (now() + timedelta(seconds=each) for each in (-1, 60))
    with kit.record.write() as session:
        late = _make(session, status="waiting", question={"choices": [], "expires_at": past.isoformat()})
        _make(session, status="waiting", question={"choices": [], "expires_at": future.isoformat()})
        _make(session, status="waiting")
        assert [each.id for each in questions.expired(session)] == [late.id]


def test_operations_are_listed_by_what_they_are(kit):
    with kit.record.write() as session:
        one = _make(session, service_id="a", group_name="g")
        two = _make(session, service_id="b", group_name="g")
        wanted = operation_requests.Filter(
            statuses=["pending"], types=["service.start"], group_names=["g"], since=now() - timedelta(seconds=60)
        )
        assert [x.id for x in operation_requests.page(session, wanted, edge=None, ascending=False, limit=9)] == sorted(
            [one.id, two.id], reverse=True
        )
        oldest = min(one.id, two.id)
        after = operation_requests.page(session, wanted, edge=oldest, ascending=True, limit=9)
        assert [x.id for x in after] == [max(one.id, two.id)]
        only = operation_requests.Filter(service_ids=["a"])
        assert [x.id for x in operation_requests.page(session, only, edge=None, ascending=True, limit=9)] == [one.id]


def test_an_unknown_operation_is_not_found(kit):
    with kit.record.read() as session, pytest.raises(OperationNotFound):
        operations.get(session, "none")


def test_events_are_read_from_an_id_on_and_narrowed(kit):
    kit.group("shop", plain("web"))
    kit.does("start")
    with kit.record.read() as session:
        last, first = events.last_id(session), events.first_id(session)
        assert len(events.after(session, 0)) == last - first + 1
        assert events.after(session, last) == []
        wanted = events.Filter(
            readable=["service.status_changed", "operation.progress"], types=["service.status_changed"],
            severities=["info"], service_ids=["shop-web"], group_names=["shop"], since=now() - timedelta(seconds=60),
        )  # fmt: skip
        newest = events.page(session, wanted, edge=None, ascending=False, limit=10)
        assert [each.data["to"] for each in newest] == ["running", "starting"]
        assert [e.id for e in events.page(session, wanted, edge=first, ascending=True, limit=1)] == [newest[-1].id]


def test_no_machine_is_touched_inside_a_write_transaction(kit):
    outside_transaction()
    with kit.record.write(), pytest.raises(AssertionError):
        outside_transaction()


def test_a_write_that_fails_leaves_nothing(kit):
    def half():
        with kit.record.write() as session:
            _make(session, "service:a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    with kit.record.read() as session:
        assert events.last_id(session) == 0
    with kit.record.write() as session:
        _make(session, "service:a")


def test_an_event_can_not_be_changed(kit):
    kit.group("shop", plain("web"))
    kit.ask("start")
    with pytest.raises(Exception, match="append-only"), kit.record.write() as session:
        session.get(events.Event, 1).type = "other"

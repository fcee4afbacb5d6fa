"""What people see of an operation that did not get to its end: what was undone, what is left, what could not be."""

import json

import pytest

LISTS = {
    "undone": [{"step": "create:shop-db", "target": "shop-db", "text": "what was made for it is removed again"}],
    "left": [{"step": "start:shop-web", "target": "shop-web", "text": "it was started and is left running"}],
}
CANCELLED = {
    "code": "cancelled",
    "message": "it was cancelled; result.undone and result.left say what was undone and what is left",
}
UNDONE = "undone: shop-db: what was made for it is removed again"
LEFT = "left as it is: shop-web: it was started and is left running"


@pytest.fixture
def ends(clos):
    """Have each operation end so."""

    begin = clos.operation

    def end(status, error, result):
        clos.end = {"status": status, "error": error}
        clos.operation = lambda type_, **fields: begin(type_, **fields | {"result": result})

    return end


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_who_watches_is_told_what_a_cancel_has_undone_and_what_it_leaves(ends, run, verb):
    ends("cancelled", CANCELLED, LISTS)

    code, _, err = run(verb, "shop")

    assert code == 1
    assert [line.strip() for line in err.splitlines()][-3:] == [f"Error: {verb} shop was cancelled", UNDONE, LEFT]


def test_an_operation_that_is_watched_later_is_told_alike(ends, run):
    ends("cancelled", CANCELLED, LISTS)
    run("start", "shop", "--no-wait")

    assert f"  {UNDONE}\n  {LEFT}\n" in run("ops", "watch", "op-0001")[2]


def test_a_cancelled_operation_is_shown_with_both_lists_and_sends_nobody_to_its_json(ends, run):
    ends("cancelled", CANCELLED, LISTS)
    run("start", "shop")

    shown = run("ops", "show", "op-0001")[1]

    assert f"outcome:  {UNDONE}\n          {LEFT}\n" in shown
    assert "error:    it was cancelled\n" in shown
    assert "result." not in shown


def test_a_program_is_given_the_message_and_the_lists_as_they_are(ends, run):
    ends("cancelled", CANCELLED, LISTS)
    run("start", "shop")

    one = json.loads(run("ops", "show", "op-0001", "-o", "json")[1])

    assert (one["error"], one["result"]) == (CANCELLED, LISTS)


def test_an_operation_that_ended_well_is_shown_without_an_outcome(run):
    run("start", "shop")

    assert "outcome" not in run("ops", "show", "op-0001")[1]


def test_who_watches_a_cancelled_batch_is_told_where_the_lists_of_its_operations_are(ends, run):
    ends("cancelled", None, {"operations": {}})

    code, _, err = run("stop", "shop", "--each")

    assert code == 130
    assert "Hint: what each of its operations has undone and left: clos ops list --parent op-0001" in err


def test_who_cancels_is_told_what_was_undone_and_what_is_left(clos, ends, run):
    ends("completed", CANCELLED, LISTS)
    clos.held.clear()
    run("start", "shop", "--no-wait")

    code, _, err = run("ops", "cancel", "op-0001")

    assert (code, err.endswith(f"op-0001: cancelled\n  {UNDONE}\n  {LEFT}\n")) == (0, True)


def test_who_cancels_without_waiting_is_told_no_more_than_that_it_is_asked_for(clos, ends, run):
    ends("completed", CANCELLED, LISTS)
    clos.held.clear()
    run("start", "shop", "--no-wait")

    assert run("ops", "cancel", "op-0001", "--no-wait")[2] == "op-0001: cancelling\n"


def test_a_cancel_whose_way_back_failed_says_of_whom_and_why_and_fails(clos, ends, run):
    ends("completed", CANCELLED, {"undone": ["shop-api"], "not_undone": {"shop-db": {"message": "it is not healthy"}}})
    clos.held.clear()
    run("update", "shop", "--no-wait")

    code, _, err = run("ops", "cancel", "op-0001")

    assert code == 1
    assert err.endswith("  undone: shop-api\n  shop-db could not be taken back: it is not healthy\n")
    assert "shop-db could not be taken back: it is not healthy" in run("ops", "show", "op-0001")[1]
    assert "shop-db could not be taken back: it is not healthy" in run("ops", "watch", "op-0001")[2]


def test_who_cancels_what_fails_by_itself_is_told_why(clos, ends, run):
    ends("failed", {"code": "unhealthy", "message": "shop-web is not healthy"}, {})
    run("start", "shop")
    clos.too_late = True

    code, _, err = run("ops", "cancel", "op-0001")

    assert code == 0
    assert "shop-web is not healthy" in err


def test_an_update_that_went_back_tells_of_each_once(ends, run):
    told = {"service_id": "shop-db", "runs": "none", "image": None, "change": "exchange", "unavailable_s": None}
    error = {"code": "unhealthy", "message": "shop-web is not healthy after 3 checks"}
    ends("failed", error, {"services": [told], "not_undone": {"shop-db": {"message": "its container is gone"}}})

    code, _, err = run("update", "shop")

    assert code == 1
    assert err.count("shop-db could not be taken back: its container is gone") == 1


def test_a_take_over_names_the_containers_that_are_left_and_those_that_may_stand_still(ends, run):
    left = [{"container_id": "a" * 64, "name": "shop-db-1", "service": "db", "running": False}]
    ends("cancelled", CANCELLED, {"runs": "the containers that CLOS made", "left": left})
    run("start", "shop")
    ends("failed", CANCELLED, {"runs": "not all", "not_undone": {"shop-web-1": {"message": "it does not start"}}})
    run("start", "shop")

    assert "left of Compose's: shop-db-1\n" in run("ops", "show", "op-0001")[1]
    assert "shop-web-1 may stand still: it does not start\n" in run("ops", "show", "op-0002")[1]


def test_what_an_operation_leaves_behind_is_inert_on_a_terminal(clos, ends, run):
    ends("completed", CANCELLED, {"left": [{"step": "x", "target": "shop-web\x1b[2J", "text": "it\nstays"}]})
    clos.held.clear()
    run("start", "shop", "--no-wait")

    assert "left as it is: shop-web: it stays\n" in run("ops", "cancel", "op-0001")[2]
    assert "\x1b" not in run("ops", "show", "op-0001")[1]

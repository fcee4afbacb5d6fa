"""States, and which may follow which."""

import pytest

from domain.errors import IllegalTransition
from domain.states import (
    FINAL,
    OPERATION_TRANSITIONS,
    STEP_TRANSITIONS,
    GroupStatus,
    OperationStatus,
    ServiceStatus,
    StepStatus,
    advance,
    group_status,
)


@pytest.mark.parametrize("current", list(OperationStatus))
@pytest.mark.parametrize("new", list(OperationStatus))
def test_an_operation_advances_only_along_its_table(current, new):
    if new in OPERATION_TRANSITIONS[current]:
        assert advance(current, new) is new
    else:
        with pytest.raises(IllegalTransition) as refusal:
            advance(current, new)
        assert refusal.value.facts == {"current": current.value, "new": new.value}


@pytest.mark.parametrize("current", list(StepStatus))
@pytest.mark.parametrize("new", list(StepStatus))
def test_a_step_advances_only_along_its_table(current, new):
    if new in STEP_TRANSITIONS[current]:
        assert advance(current, new) is new
    else:
        with pytest.raises(IllegalTransition):
            advance(current, new)


def test_nothing_follows_an_end():
    assert all(not OPERATION_TRANSITIONS[status] for status in FINAL)


S = ServiceStatus


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], GroupStatus.STOPPED),
        ([S.STOPPED, S.STOPPED], GroupStatus.STOPPED),
        ([S.RUNNING, S.RUNNING], GroupStatus.RUNNING),
        ([S.RUNNING, S.STARTING, S.FAILED], GroupStatus.STARTING),
        ([S.RUNNING, S.STOPPING], GroupStatus.STOPPING),
        ([S.RUNNING, S.FAILED], GroupStatus.PARTIAL),
        ([S.RUNNING, S.UNHEALTHY], GroupStatus.PARTIAL),
        ([S.FAILED, S.STOPPED], GroupStatus.FAILED),
        ([S.UNKNOWN, S.UNKNOWN], GroupStatus.UNKNOWN),
        ([S.UNKNOWN, S.STOPPED], GroupStatus.UNKNOWN),
    ],
)
def test_a_group_is_what_its_services_are_worst_news_first(statuses, expected):
    assert group_status(statuses) is expected

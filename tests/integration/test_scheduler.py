import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from models.installation import TickSlot
from tests.integration.rig import Rig, rig
from tests.waiting import wait_until


@pytest.fixture
def clos() -> Iterator[Rig]:
    with rig() as made:
        yield made


def _slots(clos: Rig, name: str = "watchdog") -> int:
    with clos.record.read() as session:
        return session.scalar(select(func.count()).select_from(TickSlot).where(TickSlot.name == name)) or 0


def test_of_two_schedulers_one_leads_and_when_it_is_killed_the_other_goes_on(clos):
    clos.worker()
    first = clos.scheduler()
    wait_until(lambda: "scheduler.leads" in clos.log("scheduler.main"), 20)
    second = clos.scheduler()
    wait_until(lambda: clos.log("scheduler.main").count("scheduler.started") == 2, 20)
    wait_until(lambda: _slots(clos) >= 2, 20)
    assert clos.log("scheduler.main").count("scheduler.leads") == 1

    first.send_signal(signal.SIGKILL)
    first.wait(10)
    before = _slots(clos)
    wait_until(lambda: clos.log("scheduler.main").count("scheduler.leads") == 2, 15)
    wait_until(lambda: _slots(clos) > before, 10)

    second.terminate()
    assert second.wait(10) == 0

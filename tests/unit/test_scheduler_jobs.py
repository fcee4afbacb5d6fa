import redis
from apscheduler.schedulers.background import BackgroundScheduler

from bus import schedule
from bus.schedule import Periodic
from scheduler import jobs


class Refusing:
    def waiting(self, _queue):
        return 0

    def tick(self, _periodic, _slot):
        raise redis.ConnectionError("away")


class Heard:
    def __init__(self, waiting=0):
        self.ticks = []
        self._waiting = waiting

    def waiting(self, _queue):
        return self._waiting

    def tick(self, periodic, slot):
        self.ticks.append((periodic.name, slot))


def test_every_row_of_the_table_becomes_a_job_that_is_late_at_most_once():
    scheduler = BackgroundScheduler()
    jobs.add_jobs(scheduler, schedule.TABLE, Heard(), lambda: True)
    found = {job.id: job for job in scheduler.get_jobs()}
    assert set(found) == {each.name for each in schedule.TABLE}
    scheduler.start(paused=True)
    try:
        assert all(job.misfire_grace_time is None and job.coalesce for job in scheduler.get_jobs())
    finally:
        scheduler.shutdown(wait=False)


def test_only_a_leader_sends_and_a_tick_that_cannot_go_out_is_no_error():
    heard = Heard()
    assert jobs.send(schedule.STATE, heard, lambda: True)
    assert heard.ticks[0][0] == "state"
    assert not jobs.send(schedule.STATE, heard, lambda: False)
    assert not jobs.send(schedule.STATE, Refusing(), lambda: True)
    assert len(heard.ticks) == 1


def test_ticks_do_not_pile_up_where_nobody_works():
    heard = Heard(waiting=jobs.MAX_WAITING)
    assert not jobs.send(schedule.STATE, heard, lambda: True)
    assert heard.ticks == []


def test_a_slot_is_the_number_of_its_interval():
    each = Periodic("x", "collectors", 5.0)
    assert (each.slot(9.9), each.slot(10.0), each.slot(14.9)) == (1, 2, 2)


def test_a_job_fires_in_the_middle_of_its_slot_so_that_none_is_hit_twice_or_never():
    at = jobs.first_run_at(Periodic("x", "collectors", 2.0), 1001.3).timestamp()
    assert at > 1001.3
    assert at % 2.0 == 1.0


def test_settings_change_the_state_interval_only():
    assert schedule.table() == schedule.TABLE
    changed = {each.name: each.interval_s for each in schedule.table(0.5)}
    assert changed.pop("state") == 0.5
    assert changed == {each.name: each.interval_s for each in schedule.TABLE if each.name != "state"}

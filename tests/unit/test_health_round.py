import threading
from datetime import timedelta

import pytest

from models import operations
from models.base import now
from tests.unit.worker_kit import Kit, checked, every, plain
from tests.waiting import wait_until
from workers import health
from workers.runtimes.in_memory import Behaviour

ILL = Behaviour(unhealthy=True)


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


@pytest.fixture
def rounds(kit):
    made = health.Rounds(kit.context)
    yield made
    made.close()


def _due_again(kit: Kit, name: str = "web") -> None:
    kit.seen(name, last_health_check=now() - timedelta(seconds=60))


def _up(kit: Kit, **check) -> None:
    kit.group("shop", checked("web", health_check=every(5, **check)))
    assert kit.does("start").status == "completed"


def test_it_turns_unhealthy_after_its_retries_and_healthy_at_the_first_success(kit, rounds):
    _up(kit, retries=2)
    kit.memory.behave("shop-web", ILL)

    _due_again(kit)
    rounds.collect()
    assert (kit.service("web").health_status, kit.service("web").health_failures) == ("healthy", 1)
    _due_again(kit)
    rounds.collect()
    assert (kit.service("web").status, kit.service("web").health_status) == ("unhealthy", "unhealthy")

    kit.memory.behave("shop-web", Behaviour())
    _due_again(kit)
    rounds.collect()
    assert (kit.service("web").status, kit.service("web").health_status) == ("running", "healthy")

    told = [event["data"]["to"] for event in kit.events("service.health_changed")]
    assert told[-2:] == ["unhealthy", "healthy"]
    assert [event["severity"] for event in kit.events("service.health_changed")][-2:] == ["warning", "info"]


def test_what_is_not_due_or_held_or_stopped_is_not_checked(kit, rounds):
    _up(kit)
    checked_at = kit.service("web").last_health_check
    rounds.collect()
    assert kit.service("web").last_health_check == checked_at

    _due_again(kit)
    before = kit.service("web").last_health_check
    kit.ask("stop")
    rounds.collect()
    assert kit.service("web").last_health_check == before


def test_a_result_that_is_older_than_the_services_last_change_is_dropped(kit):
    _up(kit)
    kit.memory.behave("shop-web", ILL)
    with kit.record.read() as session:
        from models.services import Service

        spec = session.get(Service, "shop-web").spec()
    began = now() - timedelta(seconds=60)
    result = health.ProbeResult(False, "late", 1.0)
    with kit.record.write() as session:
        assert not health._note(session, spec, began, result)
    assert kit.service("web").health_failures == 0

    kit.does("stop")
    kit.seen("web", last_health_check=None, started_at=None)
    with kit.record.write() as session:
        assert not health._note(session, spec, now(), health.ProbeResult(True, "late", 1.0))
    assert kit.service("web").status == "stopped"


def test_a_slow_check_delays_no_other_and_is_not_begun_twice(kit, rounds, monkeypatch):
    kit.group("shop", checked("slow", health_check=every(5)), checked("quick", health_check=every(5)))
    kit.does("start")
    release = threading.Event()
    began = []

    def look(service_id):
        began.append(service_id)
        if service_id == "shop-slow":
            release.wait(10)
        return True

    kit.memory.simulated_health = look
    monkeypatch.setattr(health, "_ROUND_S", 0.1)
    _due_again(kit, "slow")
    _due_again(kit, "quick")
    due_at = kit.service("slow").last_health_check
    rounds.collect()
    assert kit.service("quick").last_health_check > due_at
    assert kit.service("slow").last_health_check == due_at
    rounds.collect()
    assert began.count("shop-slow") == 1

    release.set()
    wait_until(lambda: kit.service("slow").last_health_check > due_at, 5)


def test_a_service_in_its_start_period_is_starting_and_not_ill(kit, rounds):
    _up(kit, start_period=60, retries=1)
    kit.memory.behave("shop-web", ILL)
    kit.seen("web", health_status="starting")
    _due_again(kit)
    rounds.collect()
    assert kit.service("web").health_status == "starting"
    kit.seen("web", started_at=now() - timedelta(seconds=120))
    _due_again(kit)
    rounds.collect()
    assert kit.service("web").health_status == "unhealthy"


def test_an_external_service_is_running_or_stopped_as_its_check_says(kit, rounds):
    check = {"type": "http", "url": "http://127.0.0.1:9/", "retries": 1, "start_period": 0}
    kit.group("shop", {"name": "ext", "runtime": "external", "health_check": check})
    kit.memory.simulated_health = lambda _id: True
    rounds.collect()
    assert kit.service("ext").status == "running"
    kit.memory.simulated_health = lambda _id: False
    _due_again(kit, "ext")
    rounds.collect()
    assert (kit.service("ext").status, kit.service("ext").health_status) == ("stopped", "unhealthy")


def test_a_round_without_checks_does_nothing(kit, rounds):
    kit.group("shop", plain("web"))
    kit.does("start")
    before = len(kit.events())
    rounds.collect()
    assert len(kit.events()) == before
    assert operations.service_target("x") == "service:x"

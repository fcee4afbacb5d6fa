import threading
from datetime import timedelta

import pytest
import redis

from models.base import now
from tests.unit.worker_kit import Kit, plain
from tests.waiting import wait_until
from workers import logs


class HeardFeed:
    """A feed whose listeners are in this process."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.open = threading.Event()
        self.open.set()

    def publish(self, event):
        self.sent.append(event)

    def followed(self, _service_id):
        return self.open.is_set()

    def follow_as(self, _service_id, _worker):
        return True

    def wake(self, ends=True): ...

    def close(self): ...


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    made.group("shop", plain("web"))
    yield made
    made.close()


def test_a_reader_gets_the_last_lines_that_he_asked_for(kit):
    for number in range(5):
        kit.memory.write("shop-web", f"line {number}")

    assert [line["text"] for line in logs.read(kit.context, "shop-web", 2, None, None)["lines"]] == ["line 3", "line 4"]
    found = logs.read(kit.context, "shop-web", 10, None, "e 1")["lines"]
    assert [line["text"] for line in found] == ["line 1"]
    assert found[0]["at"].endswith("Z")
    later = (now() + timedelta(hours=1)).isoformat()
    assert logs.read(kit.context, "shop-web", 10, later, None) == {"lines": []}


def test_lines_of_several_services_come_in_the_order_of_their_times(kit):
    kit.group("more", plain("api"))
    for number in range(4):
        kit.memory.write("shop-web" if number % 2 else "more-api", f"line {number}")

    found = logs.read_many(kit.context, ["shop-web", "more-api", "gone"], 3, None, None)

    assert [(line["service_id"], line["text"]) for line in found["lines"]] == [
        ("shop-web", "line 1"),
        ("more-api", "line 2"),
        ("shop-web", "line 3"),
    ]
    assert found["failed"]["gone"]["code"] == "service_not_found"
    found = logs.read_many(kit.context, ["shop-web", "more-api"], 9, None, "line 2")
    assert [line["text"] for line in found["lines"]] == ["line 2"]


def test_a_tick_forgets_what_deleted_services_wrote(kit):
    kit.memory.write("shop-web", "mine")
    kit.memory.write("gone", "nobody's")
    logs.keep(kit.context)
    assert [line.text for line in kit.memory.logs("shop-web", 9)] == ["mine"]
    assert kit.memory.logs("gone", 9) == []


def test_an_unknown_service_is_an_answer_too(kit):
    assert logs.read(kit.context, "no-such", 10, None, None)["error"]["code"] == "service_not_found"


def test_a_reader_is_answered_even_when_something_breaks(kit, monkeypatch):
    monkeypatch.setattr(kit.memory, "logs", lambda *_: 1 / 0)
    assert logs.read(kit.context, "shop-web", 10, None, None)["error"]["code"] == "internal_error"


def test_lines_are_followed_once_per_service_while_somebody_listens(kit, monkeypatch):
    import dataclasses

    heard = HeardFeed()
    followers = logs.Followers(dataclasses.replace(kit.context, feed=heard))
    followers.follow("shop-web")
    followers.follow("shop-web")
    assert threading.active_count() >= 1

    def written():
        kit.memory.write("shop-web", "hello")
        return heard.sent

    wait_until(written, 5)
    assert {event["type"] for event in heard.sent} == {"log.line"}
    assert heard.sent[0]["group_name"] == "shop"
    heard.open.clear()
    kit.memory.write("shop-web", "bye")
    wait_until(lambda: not followers._following, 5)


def test_following_what_is_not_there_ends_and_their_number_is_bounded(kit, monkeypatch):
    followers = logs.Followers(kit.context)
    followers.follow("no-such")
    wait_until(lambda: not followers._following, 5)
    monkeypatch.setattr(logs, "MAX_FOLLOWERS", 0)
    followers.follow("shop-web")
    assert not followers._following


def test_both_actors_are_declared_on_their_queue(kit):
    logs.declare(kit.broker, kit.context)
    kit.context.sender.read_logs("r", "shop-web", 1, None, None)
    kit.context.sender.follow_logs("no-such")
    assert [message.actor_name for message in kit.sent("logs")] == ["read_logs", "follow_logs"]
    with pytest.raises(redis.RedisError):
        kit.broker.get_actor("read_logs")("r", "shop-web", 1, None, None)
    kit.broker.get_actor("follow_logs")("no-such")

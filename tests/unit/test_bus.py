import time

import pytest
import redis

from bus.broker import QUEUES, make_broker, wait_for_redis
from bus.feed import Feed
from bus.locks import LeaderLock
from bus.messages import Sender
from bus.outbox import Outbox
from bus.replies import Replies
from bus.schedule import LISTENERS, STATE
from tests.unit.worker_kit import NO_REDIS, Kit
from workers import collectors, notifications, operations, ports


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def test_every_message_goes_to_its_queue_with_ids_only(kit):
    sender = Sender(kit.broker)
    sender.operation("one", "group.start")
    sender.operation("two", "port.check")
    sender.tick(STATE, 7)
    sender.tick(LISTENERS, 8)
    assert [(m.actor_name, m.args) for m in kit.sent("operations")] == [("run_operation", ("one",))]
    assert [(m.actor_name, m.args) for m in kit.sent("ports")] == [
        ("run_port_operation", ("two",)), ("port_tick", ("listeners", 8))]  # fmt: skip
    assert [(m.actor_name, m.args) for m in kit.sent("collectors")] == [("tick", ("state", 7))]


def test_every_message_has_an_actor(kit):
    operations.declare(kit.broker, kit.context)
    ports.declare(kit.broker, kit.context)
    collectors.declare(kit.broker, kit.context, lambda: True)
    notifications.declare(kit.broker)
    for name in ("run_operation", "run_port_operation", "tick", "port_tick"):
        assert kit.broker.get_actor(name).queue_name in QUEUES
    kit.broker.get_actor("run_operation")("no-such")
    kit.broker.get_actor("run_port_operation")("no-such")
    kit.broker.get_actor("tick")("watchdog", 1)
    kit.broker.get_actor("tick")("state", 1)
    kit.broker.get_actor("tick")("health", 1)
    kit.broker.get_actor("tick")("retention", 1)


def test_without_redis_sending_is_quick_and_says_so():
    broker = make_broker(NO_REDIS)
    began = time.monotonic()
    assert not Outbox(Sender(broker)).operation("one", "group.start")
    with pytest.raises(redis.RedisError):
        Sender(broker).tick(STATE, 1)
    feed, replies = Feed(NO_REDIS), Replies(NO_REDIS)
    feed.wake()
    feed.publish({"type": "log.line"})
    assert not feed.followed("x")
    assert replies.wait("x", 1.0) is None
    lock = LeaderLock(NO_REDIS, "x", "me")
    assert not lock.hold()
    lock.release()
    assert not wait_for_redis(NO_REDIS, 0.1)
    assert time.monotonic() - began < 3
    for each in (broker, feed, replies):
        each.close()


def test_a_reader_without_redis_tries_on_and_can_be_closed():
    feed = Feed(NO_REDIS)
    subscription = feed.subscribe(lambda: None, lambda _event: None)
    assert not subscription.connected
    subscription.close()
    subscription._thread.join(5)
    assert not subscription._thread.is_alive()
    feed.close()


def test_no_delay_queue_is_declared():
    broker = make_broker(NO_REDIS)
    broker.declare_queue("operations")
    assert broker.queues == set(QUEUES)
    assert broker.get_declared_delay_queues() == set()
    broker.close()

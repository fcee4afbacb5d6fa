"""The wire on a real Redis: woken at once, polled when the wake-up is lost, shared between workers."""

import threading
import time
from collections.abc import Iterator

import dramatiq
import pytest
import redis

from bus.broker import WakingRedisBroker, make_broker
from bus.messages import Sender
from tests.integration.rig import RedisServer
from tests.waiting import wait_until


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.stop()


class Consumer:
    """A worker process's wire: its broker, and a worker of some threads that notes what it was given."""

    def __init__(self, url: str, threads: int = 2, hold: threading.Event | None = None) -> None:
        self.broker: WakingRedisBroker = make_broker(url)
        self.heard: list[str] = []

        @dramatiq.actor(actor_name="run_operation", queue_name="operations", broker=self.broker)
        def run_operation(operation_id: str) -> None:
            self.heard.append(operation_id)
            if hold is not None:
                hold.wait(20)

        self.worker = dramatiq.Worker(self.broker, queues={"operations"}, worker_threads=threads, worker_timeout=100)
        self.worker.queue_prefetch = threads
        self.worker.start()

    def close(self) -> None:
        threading.Timer(0.05, self.broker.ring_all).start()
        self.worker.stop(timeout=5000)
        self.broker.close()


@pytest.fixture
def consumers(server) -> Iterator[list[Consumer]]:
    made: list[Consumer] = []
    yield made
    for each in made:
        each.close()


def test_a_message_is_taken_at_once(server, consumers):
    consumers.append(consumer := Consumer(server.url))
    sender = Sender(make_broker(server.url))
    sender.operation("warm", "group.start")
    wait_until(lambda: consumer.heard == ["warm"], 5)

    began = time.monotonic()
    for number in range(10):
        sender.operation(str(number), "group.start")
        wait_until(lambda number=number: str(number) in consumer.heard, 5)
    assert time.monotonic() - began < 5  # by polls alone it would be up to ten seconds


def test_a_lost_wake_up_costs_one_poll(server, consumers):
    consumers.append(consumer := Consumer(server.url))
    consumer.broker._ring = lambda _queues: None  # deaf

    Sender(make_broker(server.url)).operation("one", "group.start")

    wait_until(lambda: consumer.heard == ["one"], 5)


def test_a_busy_worker_hoards_nothing_that_a_free_one_could_do(server, consumers):
    hold = threading.Event()
    consumers.append(busy := Consumer(server.url, threads=2, hold=hold))
    sender = Sender(make_broker(server.url))
    for number in range(6):
        sender.operation(str(number), "group.start")
    wait_until(lambda: len(busy.heard) == 2, 5)
    consumers.append(free := Consumer(server.url, threads=2))

    wait_until(lambda: len(free.heard) == 4, 10)
    hold.set()
    assert sorted(busy.heard + free.heard) == [str(number) for number in range(6)]


@pytest.mark.fault
def test_consumers_go_on_after_a_restart_of_redis(server, consumers):
    consumers.append(consumer := Consumer(server.url))
    Sender(make_broker(server.url)).operation("before", "group.start")
    wait_until(lambda: "before" in consumer.heard, 5)
    server.stop()
    server.start()

    Sender(make_broker(server.url)).operation("after", "group.start")

    wait_until(lambda: "after" in consumer.heard, 20)


def test_a_redis_that_has_forgotten_the_script_gets_each_message_once(server, consumers):
    consumers.append(consumer := Consumer(server.url))
    broker = make_broker(server.url)
    sender = Sender(broker)
    sender.operation("one", "group.start")
    broker.client.script_flush()
    sender.operation("two", "group.start")
    sender.operation("three", "group.start")
    wait_until(lambda: len(consumer.heard) >= 3 and sender.waiting("operations") == 0, 5)
    assert sorted(consumer.heard) == ["one", "three", "two"]


def test_what_could_not_be_enqueued_is_an_error_and_is_tried_once(server):
    broker = make_broker(server.url)
    sender = Sender(broker)
    sender.operation("one", "group.start")
    broker.client.config_set("maxmemory", 1)
    with pytest.raises(redis.RedisError):
        sender.operation("two", "group.start")
    broker.client.config_set("maxmemory", 0)
    assert sender.waiting("operations") == 1

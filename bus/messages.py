"""Every message, and the only place where an actor's name is spelled for sending.

A message carries an operation's id, or a tick's name and slot, or the request of a log reader: never a command.
"""

from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bus.schedule import Periodic
from domain.states import LOOKS

RUN_OPERATION = "run_operation"
RUN_PORT_OPERATION = "run_port_operation"
TICK = "tick"
PORT_TICK = "port_tick"
READ_LOGS = "read_logs"
READ_MANY_LOGS = "read_many_logs"
FOLLOW_LOGS = "follow_logs"


class Sender:
    """Puts messages on their queues. Every call may raise what redis-py raises."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self._broker = broker

    def _send(self, queue: str, actor: str, *args: Any) -> None:
        self._broker.enqueue(
            dramatiq.Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options={"max_retries": 0})
        )

    def operation(self, operation_id: str, type_: str) -> None:
        """There is an operation to be worked on."""
        if type_.startswith(LOOKS):
            self._send("ports", RUN_PORT_OPERATION, operation_id)
        else:
            self._send("operations", RUN_OPERATION, operation_id)

    def waiting(self, queue: str) -> int:
        """How many messages wait on a queue."""
        return int(self._broker.do_qsize(queue)) if isinstance(self._broker, RedisBroker) else 0

    def tick(self, periodic: Periodic, slot: int) -> None:
        """It is time for a periodic message."""
        self._send(periodic.queue, PORT_TICK if periodic.queue == "ports" else TICK, periodic.name, slot)

    def read_logs(self, request_id: str, service_id: str, lines: int, since: str | None, query: str | None) -> None:
        """Somebody waits at `reply:<request_id>` for a service's log lines."""
        self._send("logs", READ_LOGS, request_id, service_id, lines, since, query)

    def read_many_logs(
        self, request_id: str, service_ids: Sequence[str], lines: int, since: str | None, query: str | None
    ) -> None:
        """Somebody waits at `reply:<request_id>` for the log lines of several services, in one order."""
        self._send("logs", READ_MANY_LOGS, request_id, list(service_ids), lines, since, query)

    def follow_logs(self, service_id: str) -> None:
        """Somebody follows a service's log lines, as long as `follow:<service_id>` lives."""
        self._send("logs", FOLLOW_LOGS, service_id)

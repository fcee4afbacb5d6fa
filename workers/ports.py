"""The queue `ports`: who holds which port, asked for or by schedule."""

import dramatiq

from bus.messages import PORT_TICK, RUN_PORT_OPERATION
from bus.schedule import LISTENERS
from domain.errors import UnknownOperation
from domain.states import OperationStatus
from models.operations import Operation
from workers import conflicts, port_scan, runner
from workers.claims import Claim
from workers.collectors import Ticks
from workers.context import Context
from workers.journal import Journal


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""
    ticks = Ticks(context, {LISTENERS.name: lambda: conflicts.tick(context)})

    @dramatiq.actor(actor_name=RUN_PORT_OPERATION, queue_name="ports", broker=broker)
    def run_port_operation(operation_id: str) -> None:
        runner.run(context, operation_id, look)

    @dramatiq.actor(actor_name=PORT_TICK, queue_name="ports", broker=broker)
    def port_tick(name: str, slot: int) -> None:
        ticks.run(name, slot)


def look(context: Context, operation: Operation, claim: Claim, journal: Journal) -> None:
    """Look afresh, and end the operation with a port's verdict, or with the conflicts that there are.

    Raises:
        UnknownOperation: it is neither.
    """
    if operation.type == "port.check":
        journal.finish(OperationStatus.COMPLETED, port_scan.check(context, int((operation.parameters or {})["port"])))
    elif operation.type == "conflict.scan":
        conflicts.scan(context, operation, claim, journal)
    else:
        raise UnknownOperation(f"this worker knows no operation {operation.type}")

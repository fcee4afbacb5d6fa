"""The queue `ports`: who holds which port, asked for or by schedule."""

import dramatiq

from bus.messages import PORT_TICK, RUN_PORT_OPERATION
from bus.schedule import LISTENERS
from domain.errors import UnknownOperation
from domain.states import OperationStatus
from models.operations import Operation
from workers import port_scan, runner
from workers.claims import Claim
from workers.collectors import Ticks
from workers.context import Context
from workers.journal import Journal


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""
    ticks = Ticks(context, {LISTENERS.name: lambda: port_scan.scan(context)})

    @dramatiq.actor(actor_name=RUN_PORT_OPERATION, queue_name="ports", broker=broker)
    def run_port_operation(operation_id: str) -> None:
        runner.run(context, operation_id, check)

    @dramatiq.actor(actor_name=PORT_TICK, queue_name="ports", broker=broker)
    def port_tick(name: str, slot: int) -> None:
        ticks.run(name, slot)


def check(context: Context, operation: Operation, _claim: Claim, journal: Journal) -> None:
    """Look afresh and end the operation with the verdict.

    Raises:
        UnknownOperation: it is no check.
    """
    if operation.type != "port.check":
        raise UnknownOperation(f"this worker knows no operation {operation.type}")
    journal.finish(OperationStatus.COMPLETED, port_scan.check(context, int((operation.parameters or {})["port"])))

"""The queue `ports`: who holds which port, asked for or by schedule."""

from typing import Any

import dramatiq
from sqlalchemy import delete, insert, select

from bus.messages import PORT_TICK, RUN_PORT_OPERATION
from bus.schedule import LISTENERS
from domain.errors import PermissionRefused, UnknownOperation
from domain.observation import Listener
from domain.states import OperationStatus
from models import registry_verdicts
from models.base import now
from models.operations import Operation
from models.ports import SeenListener
from models.record import Record
from workers import runner
from workers.claims import Claim
from workers.collectors import Ticks
from workers.context import Context
from workers.journal import Journal
from workers.runtimes import listeners


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""
    ticks = Ticks(context, {LISTENERS.name: lambda: scan(context.record)})

    @dramatiq.actor(actor_name=RUN_PORT_OPERATION, queue_name="ports", broker=broker)
    def run_port_operation(operation_id: str) -> None:
        runner.run(context, operation_id, check)

    @dramatiq.actor(actor_name=PORT_TICK, queue_name="ports", broker=broker)
    def port_tick(name: str, slot: int) -> None:
        ticks.run(name, slot)


def check(context: Context, operation: Operation, _claim: Claim, journal: Journal) -> None:
    """Look afresh and end the operation with the verdict.

    Raises:
        PermissionRefused: the sockets cannot be read.
        UnknownOperation: it is no check.
    """
    if operation.type != "port.check":
        raise UnknownOperation(f"this worker knows no operation {operation.type}")
    try:
        scan(context.record)
    except OSError as refusal:
        raise PermissionRefused(f"the sockets cannot be read: {refusal}") from refusal
    with context.record.read() as session:
        verdict = registry_verdicts.verdict(session, (operation.parameters or {})["port"], context.own_ports)
    journal.finish(OperationStatus.COMPLETED, verdict)


def scan(record: Record) -> int:
    """Write down who listens now. An unchanged socket table costs no write. Returns how many sockets there are."""
    seen = {_key(each): each for each in listeners.listeners()}
    at = now()
    with record.read() as session:
        known = {_row_key(row): row.id for row in session.scalars(select(SeenListener))}
    gone = [known[key] for key in known.keys() - seen.keys()]
    new: list[dict[str, Any]] = [_columns(seen[key]) | {"observed_at": at} for key in seen.keys() - known.keys()]
    with record.write() as session:
        if gone:
            session.execute(delete(SeenListener).where(SeenListener.id.in_(gone)))
        if new:
            session.execute(insert(SeenListener), new)
        registry_verdicts.record_scan(session, at)
    return len(seen)


def _columns(each: Listener) -> dict[str, Any]:
    return {
        "host_ip": each.host_ip,
        "port": each.port,
        "protocol": each.protocol,
        "pid": each.pid,
        "name": each.name,
        "command": each.command,
        "user": each.user,
        "start_ticks": each.start_ticks,
    }


def _key(each: Listener) -> tuple[object, ...]:
    return (each.host_ip, each.port, each.protocol, each.pid, each.start_ticks)


def _row_key(row: SeenListener) -> tuple[object, ...]:
    return (row.host_ip, row.port, row.protocol, row.pid, row.start_ticks)

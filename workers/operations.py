"""The queue `operations`: whatever changes services."""

import dramatiq

from bus.messages import RUN_OPERATION
from workers import conflicts, importing, orphans, runner
from workers.context import Context


def declare(broker: dramatiq.Broker, context: Context) -> None:
    """Declare the queue's actors."""

    works = {**conflicts.WORK, **orphans.WORK, importing.IMPORT: importing.carry_out}

    @dramatiq.actor(actor_name=RUN_OPERATION, queue_name="operations", broker=broker)
    def run_operation(operation_id: str) -> None:
        runner.run(context, operation_id, lambda *parts: works.get(parts[1].type, runner.by_type)(*parts))

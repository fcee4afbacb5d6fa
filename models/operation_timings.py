"""How long things usually take, by what they took so far."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.planning import Action
from models.operations import StepTiming

_OF_A_START = (Action.CREATE, Action.START, Action.WAIT)


def of_services(session: Session, service_ids: Collection[str]) -> dict[str, float]:
    """How many seconds the start of each of these usually takes; what was never timed is left out."""
    by_step = {f"{action}:{service_id}": service_id for service_id in service_ids for action in _OF_A_START}
    rows = session.execute(select(StepTiming.step_id, StepTiming.seconds).where(StepTiming.step_id.in_(by_step)))
    found: dict[str, float] = {}
    for step_id, seconds in rows:
        found[by_step[step_id]] = found.get(by_step[step_id], 0.0) + seconds
    return found

"""What steps took in earlier runs: a moving average per step id, which is the same in every operation."""

from collections.abc import Collection, Mapping

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from domain.planning import Action
from domain.progress import NEWEST
from models.base import now, table_of
from models.operation_rows import StepTiming

_OF_A_START = (Action.CREATE, Action.START, Action.WAIT)
_timings = table_of(StepTiming)
_EXPECTED = select(_timings.c.step_id, _timings.c.seconds).where(
    _timings.c.step_id.in_(bindparam("ids", expanding=True))
)


def _learning(dialect: str) -> sqlite.Insert | postgresql.Insert:
    insert = sqlite.insert(_timings) if dialect == "sqlite" else postgresql.insert(_timings)
    newer = NEWEST * (insert.excluded.seconds - _timings.c.seconds)
    return insert.on_conflict_do_update(
        index_elements=[_timings.c.step_id],
        set_={
            "seconds": _timings.c.seconds + newer,
            "samples": _timings.c.samples + 1,
            "updated_at": insert.excluded.updated_at,
        },
    )


# Built once: every operation that ends learns.
_LEARN = {name: _learning(name) for name in ("sqlite", "postgresql")}


def expected(session: Session, step_ids: Collection[str]) -> dict[str, float]:
    """What these steps are expected to take, in seconds; those that never ran are left out."""
    if not step_ids:
        return {}
    return {row.step_id: row.seconds for row in session.execute(_EXPECTED, {"ids": list(step_ids)})}


def learn(session: Session, took: Mapping[str, float]) -> None:
    """Runs of these steps took so long, in seconds."""
    rows = [{"step_id": each, "seconds": took[each], "samples": 1, "updated_at": now()} for each in sorted(took)]
    if rows:
        connection = session.connection()
        connection.execute(_LEARN[connection.dialect.name], rows)


def of_services(session: Session, service_ids: Collection[str]) -> dict[str, float]:
    """How many seconds the start of each of these usually takes; what was never timed is left out."""
    by_step = {f"{action}:{service_id}": service_id for service_id in service_ids for action in _OF_A_START}
    found: dict[str, float] = {}
    for step_id, seconds in expected(session, by_step).items():
        found[by_step[step_id]] = found.get(by_step[step_id], 0.0) + seconds
    return found

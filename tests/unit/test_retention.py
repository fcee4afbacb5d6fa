from datetime import timedelta

import pytest
from sqlalchemy import select

from models import events, leases, operations
from models.base import now
from models.installation import IdempotencyKey, ServiceMetric, TickSlot
from models.operations import Operation, OperationStep
from models.ports import PortHistory, PortLease
from tests.unit.worker_kit import Kit, plain
from workers import retention


@pytest.fixture
def kit(tmp_path):
    made = Kit(tmp_path)
    yield made
    made.close()


def test_what_is_old_goes_and_what_is_young_or_active_stays(kit):
    long_ago = now() - timedelta(days=40)
    kit.group("shop", plain("web"), plain("api"))
    old = kit.does("start").id
    kit.change(old, end_time=long_ago)
    young = kit.does("stop").id
    active = kit.ask("start")
    with kit.record.write() as session:
        session.get(Operation, active).created_at = long_ago
        session.add_all(
            [
                events.Event(type="operation.progress", timestamp=long_ago),
                TickSlot(name="x", slot=1, at=long_ago),
                TickSlot(name="x", slot=2, at=now()),
                ServiceMetric(service_id="shop-web", timestamp=long_ago),
                ServiceMetric(service_id="shop-web", timestamp=now()),
                IdempotencyKey(principal="p", method="POST", path="/", key="k", body_hash="h", status_code=200, body="",
                               created_at=long_ago),
            ]
        )  # fmt: skip
        newest = events.last_id(session)

    retention.age_out(kit.context)

    with kit.record.write() as session:
        assert session.get(Operation, old) is None
        assert session.query(OperationStep).filter_by(operation_id=old).count() == 0
        assert {young, active} <= {each.id for each in session.query(Operation)}
        assert session.query(TickSlot).count() == 1
        assert session.query(ServiceMetric).count() == 1
        assert session.query(IdempotencyKey).count() == 0
        assert session.get(events.Event, newest) is None
        # The newest row is gone, and its id is not given again.
        operations.create(session, "x")
        assert events.last_id(session) == newest + 1


def test_leases_whose_time_is_over_end_and_old_holders_are_forgotten(kit):
    long_ago = now() - timedelta(days=400)
    with kit.record.write() as session:
        leases.grant(session, 7000, "p", expires_at=now() - timedelta(seconds=1))
        leases.grant(session, 7001, "p", expires_at=now() + timedelta(hours=1))
        leases.grant(session, 7002, "p")
        session.add(PortHistory(protocol="tcp", port=7003, project="p", released_at=long_ago))

    retention.age_out(kit.context)

    with kit.record.read() as session:
        assert sorted(session.scalars(select(PortLease.port))) == [7001, 7002]
        assert list(session.scalars(select(PortHistory.port))) == [7000]

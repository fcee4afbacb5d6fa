"""The event log over HTTP, and what a reader may see of it."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from domain.events import UNKEPT, EventType, Severity, permission_for
from models import events
from tests.unit.api_kit import Kit, api

__all__ = ["api"]
FIELDS = {"id", "type", "severity", "actor", "service_id", "group_name", "operation_id", "data", "timestamp"}
CONTRACT = {
    "service.status_changed", "service.health_changed", "service.down", "service.metrics_updated",
    "port.conflict_detected",
    "port.conflict_resolved", "operation.created", "operation.progress", "operation.waiting", "operation.completed",
    "group.operation_completed", "group.expiring", "system.resource_alert", "system.metrics_updated", "alert.fired",
    "alert.acknowledged", "alert.resolved", "log.line",
}  # fmt: skip


def tell(api: Kit, type_: EventType = EventType.SERVICE_STATUS_CHANGED, **facts: Any) -> int:
    with api.record.write() as session:
        return events.append(session, type_, facts.pop("data", {}), **facts)


def test_the_types_are_those_of_the_contract() -> None:
    assert {each.value for each in EventType} == CONTRACT
    assert set(UNKEPT) == {"service.metrics_updated", "system.metrics_updated", "log.line"}


def test_an_event_has_every_field_of_the_contract(api: Kit) -> None:
    data = {"from": "stopped", "to": "running", "reason": "started"}
    facts = {"service_id": "g-a", "group_name": "g", "operation_id": "o", "actor": "me"}
    event_id = tell(api, data=data, severity=Severity.WARNING, **facts)
    (event,) = api.get(f"/events?after={event_id - 1}")["items"]
    assert event.keys() == FIELDS
    assert event["timestamp"].endswith("Z")
    assert len(event["timestamp"]) == 27
    del event["timestamp"]
    assert event == facts | {"id": event_id, "type": "service.status_changed", "severity": "warning", "data": data}
    tell(api, data=None)
    assert api.get("/events?limit=1")["items"][0]["data"] == {}


def test_what_becomes_of_an_operation_is_told_in_order(api: Kit) -> None:
    made = api.operation()
    api.finish(made["id"])
    found = api.get(f"/events?group={made['group_name']}&after=0")["items"]
    assert [each["type"] for each in found] == [
        "operation.created", "operation.progress", "operation.completed", "group.operation_completed",
    ]  # fmt: skip
    assert {each["operation_id"] for each in found} == {made["id"]}
    assert {each["actor"] for each in found} == {made["initiated_by"]}
    assert [each["data"]["status"] for each in found] == ["pending", "in_progress", "completed", "completed"]
    assert all(each["data"].keys() >= {"status", "progress", "current_step"} for each in found)
    assert [each["id"] for each in found] == sorted(each["id"] for each in found)


def test_the_log_is_narrowed_by_every_filter_and_a_comma_means_or(api: Kit) -> None:
    group, other = api.name(), api.name()
    one = tell(api, group_name=group, service_id=f"{group}-a")
    two = tell(api, EventType.SERVICE_HEALTH_CHANGED, group_name=group, severity=Severity.ERROR)
    three = tell(api, group_name=other, service_id=f"{other}-a")

    def found(query: str) -> list[int]:
        return [each["id"] for each in api.get(f"/events?{query}")["items"]]

    assert found(f"group={group}") == [two, one]
    assert found(f"group={group},{other}") == [three, two, one]
    assert found(f"service={group}-a,{other}-a") == [three, one]
    assert found(f"group={group}&type=service.health_changed,alert.fired") == [two]
    assert found(f"group={group}&severity=error,warning") == [two]
    assert found(f"group={group}&after={one}") == [two]
    assert found(f"group={group}&since=1h") == [two, one]
    assert found(f"group={group}&since=2030-01-01T00:00:00Z") == []
    assert found(f"group={group}&type=nothing.like_it") == []


@pytest.mark.parametrize("type_", [each for each in EventType if each not in UNKEPT])
def test_events_whose_kind_one_may_not_see_are_left_out(api: Kit, type_: EventType) -> None:
    group = api.name()
    event_id = tell(api, type_, group_name=group)
    needed = permission_for(type_.value)
    may = api.user("admin", scopes=["events:read", needed])["key"]
    may_not = api.user("admin", scopes=["events:read", "users:read"])["key"]
    assert [each["id"] for each in api.get(f"/events?group={group}", key=may)["items"]] == [event_id]
    assert api.get(f"/events?group={group}", key=may_not)["items"] == []
    api.refused("GET", "/events", None, 403, "forbidden", key=api.user("admin", scopes=[needed])["key"])


def test_an_event_is_never_changed(api: Kit) -> None:
    tell(api)
    with pytest.raises(DBAPIError, match="append-only"), api.record.write() as session:
        session.execute(text("UPDATE system_events SET actor = 'x'"))


def test_an_id_is_never_given_twice(api: Kit) -> None:
    last = tell(api)
    with api.record.write() as session:
        session.execute(text("DELETE FROM system_events"))
    assert tell(api) == last + 1
    assert api.ask(events.first_id) == api.ask(events.last_id) == last + 1


def test_what_was_undone_told_nothing(api: Kit) -> None:
    before = api.ask(events.last_id)
    group = api.group()
    api.post(f"/groups/{group}/start", status=202)
    api.refused("POST", f"/groups/{group}/start", None, 409, "operation_in_progress")
    assert [each["type"] for each in api.get(f"/events?after={before}")["items"]] == ["operation.created"]

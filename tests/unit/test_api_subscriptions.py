"""What a client of the gateway may say, and which events it thereby asks for."""

from typing import Any

import pytest

from api.auth import Principal
from api.errors import MalformedJson
from api.v2.subscriptions import Wanted, is_kept, may_see, parse, types_of
from domain.errors import ValidationFailed
from domain.events import EventType

EVERYTHING = {each.value for each in EventType} - {"log.line"}


def event(**facts: Any) -> dict[str, Any]:
    known = {"id": 9, "type": "operation.created", "group_name": "g", "service_id": "s", "operation_id": "o"}
    return known | facts


def test_a_subscription_means_everything_unless_it_is_narrowed() -> None:
    assert parse(b'{"action": "subscribe"}') == {
        "action": "subscribe", "events": ["*"], "group": None, "service": None, "operation": None, "after": None,
    }  # fmt: skip
    narrowed = parse('{"action": "subscribe", "events": ["operation.*"], "group": "g", "after": 4711}')
    assert (narrowed["events"], narrowed["group"], narrowed["after"]) == (["operation.*"], "g", 4711)
    assert parse('{"action": "unsubscribe", "id": 3}') == {"action": "unsubscribe", "id": 3}
    assert parse('{"action": "ping"}') == {"action": "ping"}


@pytest.mark.parametrize("raw", ["", "{", "[]", "7", "null", '"ping"', b"\xff", "\ud800", '{"a": 1, "a": 2}'])
def test_what_is_no_object_is_malformed(raw: str | bytes) -> None:
    with pytest.raises(MalformedJson):
        parse(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ("{}", "action"), ('{"action": []}', "action"), ('{"action": "subscribe", "events": [7]}', "events.0"),
        ('{"action": "subscribe", "events": ["a b"]}', "events.0"), ('{"action": "subscribe", "after": 1.5}', "after"),
        ('{"action": "subscribe", "after": "7"}', "after"), ('{"action": "subscribe", "filter": 1}', "filter"),
        ('{"action": "subscribe", "service": ""}', "service"), ('{"action": "unsubscribe", "id": 0}', "id"),
        ('{"action": "unsubscribe", "id": true}', "id"), ('{"action": "subscribe", "events": null}', "events"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(raw: str, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse(raw)
    assert list(caught.value.errors) == [field]
    if field != "action":
        assert field in caught.value.message


@pytest.mark.parametrize(
    ("patterns", "service", "found"),
    [
        (["*"], None, EVERYTHING), (["*"], "s", EVERYTHING), (["*.*"], None, EVERYTHING),
        (["operation.*"], None, {f"operation.{each}" for each in ("created", "progress", "waiting", "completed")}),
        (["service.status_changed", "alert.fired"], None, {"service.status_changed", "alert.fired"}),
        (["log.line"], "s", {"log.line"}), (["log.*"], "s", {"log.line"}),
        (["port.*", "port.conflict_detected"], None, {"port.conflict_detected", "port.conflict_resolved"}),
    ],
)  # fmt: skip
def test_patterns_mean_types(patterns: list[str], service: str | None, found: set[str]) -> None:
    assert types_of(patterns, service) == found


@pytest.mark.parametrize(("pattern", "field"), [("nothing.*", "events"), ("log.line", "service"), ("log.*", "service")])
def test_a_pattern_that_means_nothing_is_refused(pattern: str, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        types_of([pattern], None)
    assert list(caught.value.errors) == [field]


def test_an_event_is_wanted_if_everything_about_it_fits() -> None:
    wanted = Wanted(1, frozenset({"operation.created"}), "g", "s", "o", 8)
    assert wanted.matches(event())
    for other in ({"id": 8}, {"type": "alert.fired"}, {"group_name": None}, {"service_id": "x"}, {"operation_id": "x"}):
        assert not wanted.matches(event(**other))
    assert wanted.matches(event(id=None))
    assert Wanted(1, frozenset({"operation.created"}), None, None, None, 0).matches(event(group_name=None))
    assert not wanted.follows_logs
    assert Wanted(1, frozenset({"log.line"}), None, "s", None, 0).follows_logs


def test_rights_follow_from_the_type() -> None:
    reader = Principal("a", "x", frozenset({"operations:read"}), 1)
    admin = Principal("a", "x", frozenset({"*"}), 1)
    for type_, permission in (("operation.created", "operations:read"), ("service.metrics_updated", "metrics:read"),
                              ("log.line", "services:logs"), ("group.operation_completed", "groups:read")):  # fmt: skip
        assert may_see(reader, event(type=type_)) == (permission == "operations:read")
        assert may_see(Principal("a", "x", frozenset({permission}), 1), event(type=type_))
    assert not may_see(reader, event(type="weather.changed"))
    assert may_see(admin, event(type="weather.changed"))
    assert is_kept(event())
    assert not is_kept(event(type="log.line"))

"""What a client of the gateway may say, and which events it thereby asks for."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, validate

from api.auth import Principal
from api.errors import MalformedJson, flatten
from api.json_provider import loads
from api.schemas import Strict, Text, Whole
from domain.errors import ValidationFailed
from domain.events import UNKEPT, EventType, permission_for

ACTIONS = ("subscribe", "unsubscribe", "ping")
_PATTERN = r"[a-z_*]+(\.[a-z_*]+)?"


class SubscribeMessage(Strict):
    """`{"action": "subscribe", "events": ["operation.*"], "group", "service", "operation", "after"}`."""

    action = fields.String(required=True)
    events = fields.List(
        Text(longest=60, smallest=1, pattern=_PATTERN), validate=validate.Length(1, 50), load_default=["*"]
    )
    group = Text(longest=50, smallest=1, load_default=None)
    service = Text(longest=160, smallest=1, load_default=None)
    operation = Text(longest=36, smallest=1, load_default=None)
    after = Whole(low=0, load_default=None)


class UnsubscribeMessage(Strict):
    """`{"action": "unsubscribe", "id"}`."""

    action = fields.String(required=True)
    id = Whole(low=1, required=True)


class PingMessage(Strict):
    """`{"action": "ping"}`."""

    action = fields.String(required=True)


_SCHEMAS: dict[str, Strict] = {
    "subscribe": SubscribeMessage(),
    "unsubscribe": UnsubscribeMessage(),
    "ping": PingMessage(),
}


def parse(raw: str | bytes) -> dict[str, Any]:
    """A client's message, checked.

    Raises:
        MalformedJson, ValidationFailed: it is not one.
    """
    message = loads(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
    if not isinstance(message, dict):
        raise MalformedJson("not an object")
    schema = _SCHEMAS.get(str(message.get("action")))
    if schema is None:
        raise ValidationFailed({"action": [f"Must be one of: {', '.join(ACTIONS)}."]}, "there is no such action")
    try:
        loaded: dict[str, Any] = schema.load(message)
    except ValidationError as wrong:
        errors = flatten(wrong.messages)
        raise ValidationFailed(errors, "; ".join(f"{name}: {texts[0]}" for name, texts in errors.items())) from wrong
    return loaded


@dataclass(frozen=True)
class Wanted:
    """Events of these types behind that id, and where given of this group, service or operation."""

    id: int
    types: frozenset[str]
    group: str | None
    service: str | None
    operation: str | None
    behind: int

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is asked for, and none of those that its client had before it subscribed."""
        return (
            event["type"] in self.types
            and (event["id"] is None or event["id"] > self.behind)
            and (self.group is None or event["group_name"] == self.group)
            and (self.service is None or event["service_id"] == self.service)
            and (self.operation is None or event["operation_id"] == self.operation)
        )

    @property
    def follows_logs(self) -> bool:
        """Whether it is a logs subscription."""
        return EventType.LOG_LINE.value in self.types


def types_of(patterns: list[str], whose: str | None) -> frozenset[str]:
    """The types that these patterns mean. Log lines come only where they are named, and of one service or group.

    Raises:
        ValidationFailed: a pattern means nothing.
    """
    known = [each.value for each in EventType]
    found: set[str] = set()
    for pattern in patterns:
        meant = fnmatch.filter(known, pattern)
        if not meant:
            raise ValidationFailed({"events": [f"{pattern!r} is no event."]}, f"{pattern!r} is no event")
        if EventType.LOG_LINE.value in meant and not (pattern.startswith("log.") and whose is not None):
            meant.remove(EventType.LOG_LINE.value)
            if pattern.startswith("log."):
                text = "log.line needs a service or a group"
                raise ValidationFailed({"service": [f"{text}."]}, text)
        found.update(meant)
    return frozenset(found)


def is_kept(event: Mapping[str, Any]) -> bool:
    """Whether an event stands in the log, so that it can be replayed."""
    return event["type"] not in UNKEPT


def may_see(principal: Principal, event: Mapping[str, Any]) -> bool:
    """Whether somebody has the right to an event."""
    try:
        return principal.may(permission_for(str(event["type"])))
    except KeyError:
        return principal.may("*")

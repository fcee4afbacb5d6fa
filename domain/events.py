"""The names of events, and what their `data` holds (interface.md, WebSocket)."""

from enum import StrEnum


class EventType(StrEnum):
    """Every type of event that CLOS sends."""

    SERVICE_STATUS_CHANGED = "service.status_changed"
    SERVICE_HEALTH_CHANGED = "service.health_changed"
    SERVICE_DOWN = "service.down"
    SERVICE_METRICS_UPDATED = "service.metrics_updated"
    PORT_CONFLICT_DETECTED = "port.conflict_detected"
    PORT_CONFLICT_RESOLVED = "port.conflict_resolved"
    OPERATION_CREATED = "operation.created"
    OPERATION_PROGRESS = "operation.progress"
    OPERATION_WAITING = "operation.waiting"
    OPERATION_COMPLETED = "operation.completed"
    GROUP_OPERATION_COMPLETED = "group.operation_completed"
    GROUP_EXPIRING = "group.expiring"
    SYSTEM_RESOURCE_ALERT = "system.resource_alert"
    SYSTEM_METRICS_UPDATED = "system.metrics_updated"
    ALERT_FIRED = "alert.fired"
    ALERT_ACKNOWLEDGED = "alert.acknowledged"
    ALERT_RESOLVED = "alert.resolved"
    LOG_LINE = "log.line"


class Severity(StrEnum):
    """How much an event matters to a person."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# Not kept in the log: they go over Redis alone and have no id.
UNKEPT = frozenset({EventType.SERVICE_METRICS_UPDATED, EventType.SYSTEM_METRICS_UPDATED, EventType.LOG_LINE})

# The right that one must have to read an event, by the first word of its type.
READ_PERMISSION: dict[str, str] = {
    "service": "services:read",
    "port": "ports:read",
    "operation": "operations:read",
    "group": "groups:read",
    "system": "system:read",
    "alert": "alerts:read",
    "log": "services:logs",
}
METRICS_PERMISSION = "metrics:read"


def permission_for(event_type: str) -> str:
    """The permission that reading an event of this type needs."""
    if event_type.endswith(".metrics_updated"):
        return METRICS_PERMISSION
    return READ_PERMISSION[event_type.split(".", 1)[0]]

"""Roles, and what each may do. A permission is `noun:verb`; `noun:*` and `*` cover more."""

from collections.abc import Iterable

_READABLE = (
    "services",
    "groups",
    "ports",
    "conflicts",
    "operations",
    "events",
    "metrics",
    "alerts",
    "system",
)
VIEWER = frozenset(f"{noun}:read" for noun in _READABLE)
OPERATOR = VIEWER | {
    *(f"services:{verb}" for verb in ("start", "stop", "restart", "update", "logs")),
    *(f"groups:{verb}" for verb in ("start", "stop", "restart", "update")),
    "ports:allocate",
    "conflicts:scan",
    "conflicts:resolve",
    "operations:cancel",
    "operations:answer",
    "alerts:acknowledge",
}
ADMIN = frozenset({"*"})
ROLES: dict[str, frozenset[str]] = {"viewer": VIEWER, "operator": frozenset(OPERATOR), "admin": ADMIN}

# Every permission that a route or an event may ask for. A test compares the routes with it.
KNOWN = frozenset(OPERATOR) | {
    "services:create",
    "services:change",
    "services:delete",
    "groups:create",
    "groups:change",
    "groups:delete",
    "groups:import",
    "ports:define",
    "ports:terminate",
    "users:read",
    "users:change",
    "keys:read",
    "keys:change",
    "config:read",
    "config:change",
    "audit:read",
}


def allows(granted: Iterable[str], wanted: str) -> bool:
    """Whether a set of permissions covers the wanted one. What is not granted is denied."""
    noun = wanted.split(":", 1)[0]
    return not {"*", wanted, f"{noun}:*"}.isdisjoint(granted)


def permissions_of(role: str) -> frozenset[str]:
    """What a role may do; an unknown role may nothing."""
    return ROLES.get(role, frozenset())

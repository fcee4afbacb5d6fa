"""Roles and permissions, and which right an event needs."""

import pytest

from domain.events import EventType, permission_for
from domain.permissions import ADMIN, KNOWN, OPERATOR, VIEWER, allows, permissions_of


@pytest.mark.parametrize(
    ("granted", "wanted", "expected"),
    [
        (ADMIN, "users:change", True),
        (VIEWER, "services:read", True),
        (VIEWER, "services:start", False),
        (OPERATOR, "services:start", True),
        (OPERATOR, "ports:terminate", False),
        ({"services:*"}, "services:delete", True),
        ({"services:*"}, "groups:read", False),
        (set(), "services:read", False),
    ],
)
def test_what_is_not_granted_is_denied(granted, wanted, expected):
    assert allows(granted, wanted) is expected


def test_an_unknown_role_may_nothing():
    assert permissions_of("emperor") == frozenset()
    assert permissions_of("viewer") == VIEWER


@pytest.mark.parametrize("type_", list(EventType))
def test_every_event_needs_a_known_right(type_):
    assert permission_for(type_.value) in KNOWN

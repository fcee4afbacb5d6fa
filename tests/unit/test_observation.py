"""From what was seen to a service's status, and from a spec to its hash."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from domain.observation import Instance, ObservedState, Phase, status_of
from domain.specs import Dependency, HealthCheck, PortRequest, RestartPolicy, ServiceSpec
from domain.states import HealthStatus, ServiceStatus

S, H = ServiceStatus, HealthStatus


@pytest.mark.parametrize(
    ("phase", "code", "wanted", "health", "expected"),
    [
        (Phase.RUNNING, None, True, H.HEALTHY, S.RUNNING),
        (Phase.RUNNING, None, True, H.UNHEALTHY, S.UNHEALTHY),
        (Phase.RUNNING, None, False, H.NONE, S.RUNNING),
        (Phase.EXITED, 0, True, H.NONE, S.STOPPED),
        (Phase.EXITED, 1, True, H.NONE, S.FAILED),
        (Phase.EXITED, None, True, H.NONE, S.FAILED),
        (Phase.EXITED, 143, False, H.NONE, S.STOPPED),
        (Phase.ABSENT, None, True, H.NONE, S.STOPPED),
        (Phase.CREATED, None, True, H.NONE, S.STOPPED),
        (Phase.UNKNOWN, None, True, H.HEALTHY, S.UNKNOWN),
    ],
)
def test_a_status_follows_from_what_was_seen(phase, code, wanted, health, expected):
    assert status_of(Instance("x", phase, exit_code=code), wanted, health) is expected


def test_what_was_not_seen_is_absent():
    observed = ObservedState(datetime(2026, 1, 1, tzinfo=UTC))

    assert observed.of("x") == Instance("x")
    assert not observed.of("x").alive


SPEC = ServiceSpec(id="g-x", name="x", group="g", ports=(PortRequest(host_port=9001),))


@pytest.mark.parametrize(
    "change",
    [
        {"image": "other"},
        {"environment": {"A": "1"}},
        {"ports": (PortRequest(host_port=9002),)},
        {"command": ("run",)},
        {"memory_limit": 64},
    ],
)
def test_what_an_instance_is_made_of_changes_its_hash(change):
    assert replace(SPEC, **change).hash() != SPEC.hash()


@pytest.mark.parametrize(
    "change",
    [
        {"depends_on": (Dependency("g-y"),)},
        {"health_check": HealthCheck()},
        {"restart_policy": RestartPolicy.NO},
        {"stop_timeout_s": 1.0},
    ],
)
def test_what_does_not_change_the_instance_leaves_its_hash(change):
    assert replace(SPEC, **change).hash() == SPEC.hash()


def test_the_first_port_is_the_one_that_counts():
    assert SPEC.first_port() == 9001
    assert replace(SPEC, ports=()).first_port() is None

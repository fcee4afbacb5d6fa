"""Errors carry their facts."""

import pytest

from domain.errors import (
    ClosError,
    GroupNotFound,
    OperationInProgress,
    PortHeld,
    ServiceNotFound,
    UnknownDependency,
    ValidationFailed,
    describe_holder,
)


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        ({"kind": "process", "name": "postgres", "pid": 812}, "postgres (pid 812)"),
        ({"kind": "process", "name": None, "command": "nc -l", "pid": 3}, "nc -l (pid 3)"),
        ({"kind": "container", "name": "db", "pid": None}, "db"),
        ({"kind": "unknown"}, "unknown"),
        (None, "an unknown holder"),
    ],
)
def test_a_holder_is_named_for_a_sentence(holder, name):
    assert describe_holder(holder) == name


def test_a_held_port_tells_who_holds_it_and_what_to_do():
    error = PortHeld(5432, "tcp", "127.0.0.1", {"kind": "process", "name": "postgres", "pid": 812})

    assert error.as_dict() == {
        "code": "port_held",
        "message": "port 5432/tcp is held by postgres (pid 812)",
        "hint": "stop postgres (pid 812), or give the service another port",
        "port": 5432,
        "protocol": "tcp",
        "host_ip": "127.0.0.1",
        "holder": {"kind": "process", "name": "postgres", "pid": 812},
    }


def test_not_found_is_coded_by_its_noun():
    assert ServiceNotFound("x").code == "service_not_found"
    assert GroupNotFound("x").message == "there is no group 'x'"


def test_a_rival_is_named():
    assert OperationInProgress("service:x", "7").facts["operation_id"] == "7"


def test_an_error_without_a_hint_shows_none():
    assert ClosError("it broke", port=1).as_dict() == {"code": "internal_error", "message": "it broke", "port": 1}


def test_what_is_invalid_names_its_fields():
    assert ValidationFailed({"port": ["too large"]}).errors == {"port": ["too large"]}
    assert UnknownDependency("web", "dbb").facts == {"service": "web", "dependency": "dbb"}

from typing import Any

import pytest
from marshmallow import ValidationError

from api.v2.service_schemas import NewService, ServiceChange, StartService

VALID: dict[str, Any] = {"name": "web", "group": "shop", "image": "shop/web:1.2"}


def refused(body: dict[str, Any], schema: Any = NewService) -> Any:
    with pytest.raises(ValidationError) as caught:
        schema().load(body)
    return caught.value.messages


def test_a_whole_service_is_accepted_and_normalised() -> None:
    loaded = NewService().load(
        VALID
        | {
            "runtime": "docker",
            "command": "python -m 'shop web'",
            "build": "/srv/shop",
            "environment": {"LEVEL": "info"},
            "secrets": {"TOKEN": "t"},
            "volumes": ["/srv/data:/data:ro", "cache:/cache"],
            "ports": [{"name": "http", "container_port": 80, "host_ip": "::1", "protocol": "tcp"}],
            "depends_on": ["db", {"service": "infra/redis", "condition": "healthy", "required": False}],
            "health_check": {"test": ["CMD-SHELL", "curl -f http://x"], "interval": 0.5},
            "stop_timeout": 2.5,
            "tags": ["edge"],
        }
    )
    assert loaded["command"] == ["python", "-m", "shop web"]
    assert loaded["build"] == {"context": "/srv/shop"}
    assert loaded["depends_on"][0] == {"service": "db"}
    assert loaded["health_check"]["test"] == ["/bin/sh", "-c", "curl -f http://x"]


def test_an_unknown_field_is_named_with_a_guess_at_what_was_meant() -> None:
    messages = refused(VALID | {"enviroment": {}, "zzz": 1, "ports": [{"hostport": 1}]})
    assert messages["enviroment"] == ["Unknown field. Did you mean 'environment'?"]
    assert messages["zzz"] == ["Unknown field."]
    assert messages["ports"][0]["hostport"] == ["Unknown field. Did you mean 'host_port'?"]


@pytest.mark.parametrize("name", ["id", "status", "health", "drift", "observed", "created_at", "spec_version"])
def test_a_read_only_field_is_refused_by_name(name: str) -> None:
    assert refused(VALID | {name: "x"})[name] == ["This field is read-only."]


def test_name_and_group_stay_what_they_were_at_creation() -> None:
    messages = refused({"name": "other", "group": "other"}, ServiceChange)
    assert messages == {"name": ["This field is read-only."], "group": ["This field is read-only."]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 1.9),
        ("port", "12"),
        ("port", 2**63),
        ("port", True),
        ("port", 0),
        ("port", 65536),
        ("memory_limit", 1.5),
        ("memory_limit", -1),
        ("cpu_limit", "1"),
        ("cpu_limit", 0),
        ("stop_timeout", 0),
        ("stop_timeout", 1e9),
        ("stop_timeout", "30s"),
        ("name", ""),
        ("name", "-web"),
        ("name", "web\n"),
        ("name", "w" * 101),
        ("name", 7),
        ("group", "g" * 51),
        ("group", "a/b"),
        ("image", "UPPER/case"),
        ("image", "a b"),
        ("image", "x" * 501),
        ("description", "a\x00b"),
        ("description", ["a"]),
        ("command", ""),
        ("command", []),
        ("command", "unclosed 'quote"),
        ("command", ["ok", 1]),
        ("command", {"a": 1}),
        ("command", ["a\x00b"]),
        ("runtime", "podman"),
        ("restart_policy", "sometimes"),
        ("environment", ["A=b"]),
        ("environment", {"1A": "b"}),
        ("environment", {"A": 1}),
        ("environment", {"A": "a\x00b"}),
        ("volumes", ["nocolon"]),
        ("volumes", ["/:/host"]),
        ("volumes", ["//./:/host"]),
        ("volumes", ["/srv/../..:/host"]),
        ("volumes", ["/a:relative"]),
        ("volumes", ["/a:/b:rwx"]),
        ("dns_servers", ["dns.local"]),
        ("labels", {"clos.instance": "x"}),
        ("labels", {"CLOS.x": "x"}),
        ("tags", ["a b"]),
        ("ports", [{"host_port": "80"}]),
        ("ports", [{"host_ip": "localhost"}]),
        ("ports", [{"protocol": "sctp"}]),
        ("ports", {"80": 80}),
        ("ports", [{}] * 1001),
        ("depends_on", ["a/b/c"]),
        ("depends_on", [{"condition": "healthy"}]),
        ("depends_on", [{"service": "a", "condition": "ready"}]),
        ("depends_on", [7]),
        ("health_check", {"interval": 0}),
        ("health_check", {"expected_status": 99}),
        ("health_check", {"url": "ftp://x"}),
        ("health_check", {"url": "http://user:secret@host/"}),
        ("health_check", {"test": "curl"}),
        ("health_check", {"type": "ping"}),
        ("health_url", "x"),
        ("build", "relative/path"),
        ("build", {"dockerfile": "Dockerfile"}),
        ("working_dir", "relative"),
        ("working_dir", 5),
    ],
)
def test_a_wrong_value_is_refused_where_it_stands(field: str, value: Any) -> None:
    assert list(refused(VALID | {field: value})) == [field]


@pytest.mark.parametrize("image", ["nginx", "nginx:1.25-alpine", "localhost:5000/a/b_c:x", "a.b/c@sha256:" + "0" * 64])
def test_an_image_may_name_its_host_its_tag_and_its_digest(image: str) -> None:
    assert NewService().load(VALID | {"image": image})["image"] == image


def test_port_is_the_short_form_and_does_not_stand_beside_other_ports() -> None:
    assert NewService().load(VALID | {"port": 8000})["port"] == 8000
    assert list(refused(VALID | {"port": 8000, "ports": [{"host_port": 8001}]})) == ["port"]


def test_health_url_is_the_short_form_of_the_checks_url() -> None:
    messages = refused(VALID | {"health_url": "/a", "health_check": {"url": "/b"}})
    assert list(messages) == ["health_url"]


def test_an_image_reference_that_makes_a_pattern_backtrack_is_refused_quickly() -> None:
    assert list(refused(VALID | {"image": "a" * 250 + "." * 249 + "!"})) == ["image"]


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in ([], "x", 1, None):
        refused(body, StartService)  # type: ignore[arg-type]

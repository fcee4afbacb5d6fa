from datetime import UTC, datetime

import pytest

from domain.observation import Listener
from domain.ports import Candidate, PortVerdict, holder, in_the_way, judge, merge_holders, overlap, plain_address

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def verdicts(*listeners: Listener, port: int = 8000) -> dict[tuple[str, str], str]:
    return {(each.host_ip, each.protocol): each.verdict.value for each in judge(port, listeners, NOW)}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "192.168.1.5", True),
        ("127.0.0.1", "::", True),
        ("0.0.0.0", "::", True),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "::1", False),
        ("::1", "::", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("fe80::1%eth0", "fe80::1", True),
    ],
)
def test_addresses_overlap_as_linux_has_it(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_what_is_no_address_is_compared_as_it_stands() -> None:
    assert plain_address("localhost") == "localhost"


def test_a_listener_on_loopback_leaves_ipv6_loopback_free_but_not_the_wildcards() -> None:
    found = verdicts(Listener("127.0.0.1", 8000, "tcp", 12))
    assert found["127.0.0.1", "tcp"] == "held"
    assert found["0.0.0.0", "tcp"] == "held"
    assert found["::", "tcp"] == "held"
    assert found["::1", "tcp"] == "free"


def test_tcp_says_nothing_of_udp() -> None:
    found = verdicts(Listener("0.0.0.0", 8000, "tcp"))
    assert {verdict for (_, protocol), verdict in found.items() if protocol == "udp"} == {"free"}
    assert found["127.0.0.1", "tcp"] == "held"


def test_a_socket_on_the_ipv6_wildcard_takes_ipv4_along() -> None:
    assert set(verdicts(Listener("::", 8000, "udp")).items()) >= {
        (("127.0.0.1", "udp"), "held"),
        (("0.0.0.0", "udp"), "held"),
        (("::1", "udp"), "held"),
    }


def test_beside_a_socket_on_ipv4_the_one_on_the_ipv6_wildcard_is_for_ipv6_only() -> None:
    listeners = [Listener("0.0.0.0", 8000, "tcp", 1), Listener("::", 8000, "tcp", 2)]
    assert [each.pid for each in in_the_way("127.0.0.1", "tcp", listeners)] == [1]
    assert [each.pid for each in in_the_way("::1", "tcp", listeners)] == [2]


def test_every_other_address_seen_gets_its_own_entries() -> None:
    entries = judge(8000, [Listener("192.168.1.5", 8000, "tcp"), Listener("10.0.0.1", 9, "tcp")], NOW)
    assert [each.host_ip for each in entries][::2] == ["127.0.0.1", "0.0.0.0", "::1", "::", "192.168.1.5"]
    assert len(entries) == 10


def test_never_looked_at_is_unknown_and_not_free() -> None:
    entries = judge(8000, [], None)
    assert {(each.verdict, each.reason) for each in entries} == {(PortVerdict.UNKNOWN, "not_observed")}


def candidate(**facts: object) -> Candidate:
    known = {"service_id": "shop-web", "name": "web", "runtime": "process", "container_id": None, "pid": 5,
             "started_at": None, "has_port": True} | facts  # fmt: skip
    return Candidate(**known)  # type: ignore[arg-type]


def test_a_listener_is_the_service_whose_process_it_is() -> None:
    found = holder(Listener("127.0.0.1", 8000, "tcp", 5, "python"), [candidate(has_port=False)])
    assert (found["kind"], found["service_id"], found["own"]) == ("service", "shop-web", True)


def test_a_published_port_belongs_to_the_service_of_the_container() -> None:
    docker = candidate(runtime="docker", pid=None, container_id="abc")
    assert holder(Listener("0.0.0.0", 8000, "tcp", 9, "docker-proxy"), [docker])["container_id"] == "abc"
    assert holder(Listener("0.0.0.0", 8000, "tcp", 9, "nginx"), [docker])["kind"] == "process"


def test_a_stranger_is_a_process_and_one_without_a_pid_is_unknown() -> None:
    known = holder(Listener("127.0.0.1", 8000, "tcp", 77, "nc", "nc -l", "root"), [])
    assert (known["kind"], known["pid"], known["command"], known["own"]) == ("process", 77, "nc -l", False)
    assert holder(Listener("127.0.0.1", 8000, "tcp"), [])["kind"] == "unknown"


def test_closs_own_port_is_closs() -> None:
    assert holder(Listener("127.0.0.1", 8081, "tcp", 3), [], own_ports=[8081])["kind"] == "clos"


def test_one_holder_with_two_sockets_is_named_once() -> None:
    both = [Listener("127.0.0.1", 8000, "tcp", 5, "x"), Listener("::1", 8000, "tcp", 5, "x")]
    assert len(merge_holders(both, lambda each: holder(each, []))) == 1

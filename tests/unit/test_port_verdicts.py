from dataclasses import replace
from datetime import UTC, datetime

import pytest

from domain.observation import Binding, Listener, PortFacts
from domain.ports import (
    PortVerdict,
    addresses,
    holder,
    holders,
    in_the_way,
    judge,
    latent,
    overlap,
    plain_address,
)

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def facts(*seen: Listener | Binding, **more: object) -> PortFacts:
    listeners = tuple(each for each in seen if isinstance(each, Listener))
    bindings = tuple(each for each in seen if isinstance(each, Binding))
    return PortFacts(NOW, listeners, bindings, **more)  # type: ignore[arg-type]


def verdicts(*seen: Listener | Binding) -> dict[tuple[str, str], str]:
    return {(each.host_ip, each.protocol): each.verdict.value for each in judge(8000, facts(*seen), {})}


def published(host_ip: str, **more: object) -> Binding:
    known = {"running": True} | more
    return Binding(host_ip, 8000, "tcp", "c" * 64, "shop_db_1", **known)  # type: ignore[arg-type]


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
        ("", "127.0.0.1", True),
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


def test_a_socket_for_ipv6_only_leaves_ipv4_free_and_one_that_takes_it_along_does_not() -> None:
    only = verdicts(Listener("::", 8000, "tcp"))
    assert (only["127.0.0.1", "tcp"], only["0.0.0.0", "tcp"]) == ("free", "free")
    assert (only["::1", "tcp"], only["::", "tcp"]) == ("held", "held")
    both = verdicts(Listener("::", 8000, "tcp"), Listener("0.0.0.0", 8000, "tcp"))
    assert {both[host_ip, "tcp"] for host_ip in ("127.0.0.1", "0.0.0.0", "::1", "::")} == {"held"}


def test_no_address_means_every_address() -> None:
    seen = facts(Listener("::1", 8000, "tcp", 1), Listener("127.0.0.2", 8000, "tcp", 2))
    assert len(in_the_way("", "tcp", 8000, seen)) == 2
    assert in_the_way("", "tcp", 8001, seen) == ()


def test_every_other_address_seen_gets_its_own_entries() -> None:
    seen = facts(Listener("192.168.1.5", 8000, "tcp"), Listener("10.0.0.1", 9, "tcp"), published("10.9.9.9"))
    entries = judge(8000, seen, {})
    assert [each.host_ip for each in entries][::2] == [
        "127.0.0.1", "0.0.0.0", "::1", "::", "10.9.9.9", "192.168.1.5",
    ]  # fmt: skip
    assert addresses(8000, None) == ("127.0.0.1", "0.0.0.0", "::1", "::")


def test_never_looked_at_is_unknown_and_not_free() -> None:
    entries = judge(8000, None, {})
    assert {(each.verdict, each.reason) for each in entries} == {(PortVerdict.UNKNOWN, "not_observed")}


def test_what_could_not_be_seen_is_unknown_with_its_reason_and_what_was_seen_stays_held() -> None:
    seen = facts(Listener("127.0.0.1", 8000, "tcp", 5), unseen={"containers": "Docker's engine does not answer"})
    found = {(each.host_ip, each.protocol): each for each in judge(8000, seen, {})}
    assert found["127.0.0.1", "tcp"].verdict is PortVerdict.HELD
    assert found["::1", "tcp"].verdict is PortVerdict.UNKNOWN
    assert found["::1", "tcp"].reason == "Docker's engine does not answer"


def test_a_running_containers_port_is_held_by_it_and_not_by_the_engines_proxy() -> None:
    proxy = Listener("0.0.0.0", 8000, "tcp", 9, "docker-proxy", "docker-proxy -proto tcp")
    (entry,) = [
        each
        for each in judge(8000, facts(published("0.0.0.0"), proxy), {})
        if (each.host_ip, each.protocol) == ("127.0.0.1", "tcp")
    ]
    assert (entry.verdict, entry.reason) == (PortVerdict.HELD, "published")
    assert [(each["kind"], each["name"], each["pid"]) for each in entry.holders] == [("container", "shop_db_1", None)]


def test_a_proxy_whose_container_is_not_known_is_a_container_that_nobody_can_end_by_pid() -> None:
    proxy = Listener("0.0.0.0", 8000, "tcp", 9, "docker-proxy", "docker-proxy -proto tcp", "root", 7)
    (found,) = holders("127.0.0.1", "tcp", 8000, facts(proxy), {})
    assert (found["kind"], found["name"], found["pid"], found["command"]) == ("container", None, None, None)


def test_a_stopped_containers_port_is_free_and_latent() -> None:
    stopped = published("0.0.0.0", running=False)
    assert verdicts(stopped)["127.0.0.1", "tcp"] == "free"
    assert latent("127.0.0.1", "tcp", 8000, facts(stopped)) == (stopped,)
    assert latent("::1", "tcp", 8000, facts(stopped)) == ()
    assert latent("127.0.0.1", "udp", 8000, facts(stopped)) == ()
    assert latent("", "tcp", 8000, facts(stopped, published("::1"))) == (stopped,)


def test_a_bind_that_met_what_no_table_shows_is_held_by_nobody_known() -> None:
    probes = {("127.0.0.1", "tcp"): ("held", "bound_not_listening"), ("0.0.0.0", "tcp"): ("held", "connected"),
              ("::1", "tcp"): ("free", "time_wait"),
              ("::1", "udp"): ("unknown", "permission_denied")}  # fmt: skip
    found = {(each.host_ip, each.protocol): each for each in judge(8000, facts(), {}, probes=probes)}
    held = found["127.0.0.1", "tcp"]
    assert (held.verdict, held.reason, held.holders[0]["kind"]) == (PortVerdict.HELD, "bound_not_listening", "unknown")
    connected = found["0.0.0.0", "tcp"]
    assert (connected.verdict, connected.reason, connected.holders) == (PortVerdict.HELD, "connected", [])
    assert (found["::1", "tcp"].verdict, found["::1", "tcp"].reason) == (PortVerdict.FREE, "time_wait")
    assert found["::1", "udp"].verdict is PortVerdict.UNKNOWN
    assert (found["::", "udp"].verdict, found["::", "udp"].reason) == (PortVerdict.FREE, None)


def test_a_service_is_named_with_its_process_and_its_container() -> None:
    process = Listener("127.0.0.1", 8000, "tcp", 5, "python", service_id="shop-web", own=True)
    found = holder(process, {"shop-web": "web"})
    assert (found["kind"], found["name"], found["service_id"], found["pid"]) == ("service", "web", "shop-web", 5)
    container = holder(published("0.0.0.0", own=True, service_id="shop-db"), {"shop-db": "db"})
    assert (container["kind"], container["name"], container["container_id"]) == ("service", "db", "c" * 64)
    assert holder(process, {})["name"] == "shop-web"


def test_a_process_on_the_hosts_network_in_a_container_is_that_container() -> None:
    inside = Listener("0.0.0.0", 8000, "tcp", 5, "nginx", container_id="c" * 64, container_name="edge")
    found = holder(inside, {})
    assert (found["kind"], found["name"], found["container_id"], found["pid"]) == ("container", "edge", "c" * 64, 5)
    assert holder(replace(inside, container_name=None), {})["name"] == "c" * 12


def test_a_stranger_is_a_process_and_one_without_a_pid_is_unknown() -> None:
    known = holder(Listener("127.0.0.1", 8000, "tcp", 77, "nc", "nc -l", "root", 12, ((1, "init"),)), {})
    assert (known["kind"], known["pid"], known["command"], known["own"]) == ("process", 77, "nc -l", False)
    assert (known["start_ticks"], known["parents"]) == (12, [{"pid": 1, "name": "init"}])
    hidden = holder(Listener("127.0.0.1", 8000, "tcp", user="www-data"), {})
    assert (hidden["kind"], hidden["pid"], hidden["user"]) == ("unknown", None, "www-data")


def test_closs_own_processes_and_ports_are_closs() -> None:
    assert holder(Listener("127.0.0.1", 6399, "tcp", 3, "valkey-server", own=True), {})["kind"] == "clos"
    port = holder(Listener("127.0.0.1", 8081, "tcp", 3), {}, own_ports=[8081])
    assert (port["kind"], port["own"]) == ("clos", True)


def test_one_holder_with_two_sockets_is_named_once_and_five_workers_are_five() -> None:
    both = [Listener("127.0.0.1", 8000, "tcp", 5, "x"), Listener("::1", 8000, "tcp", 5, "x")]
    assert len(holders("", "tcp", 8000, facts(*both), {})) == 1
    workers = [Listener("127.0.0.1", 8000, "tcp", pid, "gunicorn") for pid in range(5)]
    assert [each["pid"] for each in holders("127.0.0.1", "tcp", 8000, facts(*workers), {})] == [0, 1, 2, 3, 4]

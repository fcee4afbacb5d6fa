"""Which conflicts are found in claims and in what was seen."""

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.conflicts import Claim, ConflictKind, World, before_start, detect
from domain.observation import Binding, Listener, PortFacts

AT = datetime(2026, 11, 27, tzinfo=UTC)
RANGES = {"development": [(9000, 9999)]}


def facts(*seen: Listener | Binding, **more: Any) -> PortFacts:
    listeners = tuple(each for each in seen if isinstance(each, Listener))
    bindings = tuple(each for each in seen if isinstance(each, Binding))
    return PortFacts(AT, listeners, bindings, **more)


def world(*claims: Claim, seen: PortFacts | None = None, **more: Any) -> World:
    names = {claim.service_id: claim.service_id.split("-", 1)[1] for claim in claims}
    return World(claims, seen if seen is not None else facts(), names, RANGES, **more)


def stranger(port: int = 9311, host_ip: str = "127.0.0.1", **more: Any) -> Listener:
    known = {"pid": 812, "name": "postgres", "command": "postgres -D /data", "user": "ann", "start_ticks": 77} | more
    return Listener(host_ip, port, "tcp", **known)


def container(port: int = 9311, running: bool = True, **more: Any) -> Binding:
    return Binding("127.0.0.1", port, "tcp", "c0ffee" * 10, "theirs", running, **more)


API, WEB = Claim("shop-api", 9311), Claim("shop-web", 9310)


def kinds(found: list[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.kind.value, each.claimants) for each in found]


def test_claims_that_nobody_disturbs_are_no_conflict():
    assert detect(world(API, WEB)) == []


def test_two_services_that_claim_one_port_are_a_duplicate_which_names_who_has_the_lease():
    (found,) = detect(world(API, Claim("other-api", 9311, leased=False)))

    assert (found.kind, found.claimants) == (ConflictKind.DUPLICATE_CLAIM, ("other-api", "shop-api"))
    assert found.holder is not None
    assert found.holder["service_id"] == "shop-api"
    assert "shop-api has the lease" in found.detail


def test_the_same_number_on_tcp_and_udp_is_no_duplicate():
    assert detect(world(API, Claim("other-dns", 9311, protocol="udp"))) == []


@pytest.mark.parametrize(("first", "second", "clash"), [
    ("127.0.0.1", "0.0.0.0", True),
    ("127.0.0.1", "::", True),
    ("127.0.0.1", "127.0.0.2", False),
    ("::1", "0.0.0.0", False),
])  # fmt: skip
def test_addresses_that_overlap_are_a_duplicate_and_others_are_not(first, second, clash):
    found = detect(world(Claim("a-a", 9311, first), Claim("b-b", 9311, second, leased=False)))
    assert [each.kind for each in found] == ([ConflictKind.DUPLICATE_CLAIM] if clash else [])


def test_three_of_which_one_overlaps_both_others_are_one_duplicate():
    (found,) = detect(
        world(Claim("a-a", 9311, "127.0.0.1"), Claim("b-b", 9311, "127.0.0.2"), Claim("c-c", 9311, "0.0.0.0"))
    )
    assert found.claimants == ("a-a", "b-b", "c-c")


def test_a_foreign_process_on_a_claimed_port_is_named():
    (found,) = detect(world(API, seen=facts(stranger())))

    assert (found.kind, found.port, found.claimants) == (ConflictKind.FOREIGN_PROCESS, 9311, ("shop-api",))
    assert found.holder is not None
    assert (found.holder["kind"], found.holder["pid"], found.holder["user"]) == ("process", 812, "ann")
    assert "postgres (pid 812)" in found.detail


def test_a_service_that_listens_on_its_own_port_is_no_conflict():
    assert detect(world(API, seen=facts(stranger(service_id="shop-api", own=True)))) == []
    assert detect(world(API, seen=facts(container(service_id="shop-api", own=True)))) == []


def test_the_workers_of_a_pre_fork_server_are_one_conflict_that_names_their_parent():
    parent = stranger(pid=100, name="nginx")
    children = [stranger(pid=100 + n, name="nginx", parents=((100, "nginx"), (1, "init"))) for n in range(1, 5)]
    (found,) = detect(world(API, seen=facts(*children, parent)))

    assert found.holder is not None
    assert found.holder["pid"] == 100


def test_a_running_foreign_container_is_the_holder_and_a_stopped_one_a_latent_claim():
    (running,) = detect(world(API, seen=facts(container())))
    (stopped,) = detect(world(API, seen=facts(container(running=False))))

    assert (running.kind, stopped.kind) == (ConflictKind.FOREIGN_CONTAINER, ConflictKind.LATENT_CLAIM)
    assert running.holder is not None
    assert running.holder["name"] == "theirs"
    assert stopped.holder is not None
    assert stopped.holder["running"] is False


def test_an_instance_of_ours_on_a_port_that_is_another_ones_is_a_stray():
    (found,) = detect(world(API, seen=facts(stranger(service_id="gone-old", own=True))))
    assert found.kind is ConflictKind.STRAY_INSTANCE


def test_a_duplicate_that_runs_is_told_of_once():
    other = Claim("other-api", 9311, leased=False, up=True)
    found = detect(world(API, other, seen=facts(stranger(service_id="other-api", own=True))))
    assert kinds(found) == [("duplicate_claim", ("other-api", "shop-api"))]


def test_a_port_outside_of_the_projects_ranges_only_warns():
    found = detect(world(Claim("shop-api", 7000)))
    assert kinds(found) == [("out_of_range", ("shop-api",))]
    assert before_start(world(Claim("shop-api", 7000)), ["shop-api"]) == []
    assert detect(world(Claim("lab-x", 7000, project="lab"))) == []  # a project without ranges has no outside


def test_consecutive_ports_that_only_warn_are_one_conflict_and_others_are_not():
    numbers = [7000, 7001, 7002, 7004]
    found = detect(world(*(Claim("shop-api", each) for each in numbers), Claim("shop-api", 7000, protocol="udp")))
    assert [(each.port, each.protocol) for each in found] == [(7000, "tcp"), (7000, "udp"), (7004, "tcp")]
    assert found[0].detail.startswith("each of the ports 7000-7002 (tcp) of shop-api lies outside of the ranges")
    assert found[2].detail.startswith("port 7004/tcp of shop-api lies outside of the ranges")
    ephemeral = world(*(Claim("shop-api", each, project="lab") for each in range(40_000, 40_600)))
    assert kinds(detect(ephemeral)) == [("reserved", ("shop-api",))]


@pytest.mark.parametrize(("port", "more"), [
    (8081, {"own_ports": {8081}}),
    (9400, {"seen": facts(reserved=((9400, 9410),))}),
    (40000, {}),
])  # fmt: skip
def test_reserved_ports_are_said_to_be_so(port, more):
    found = detect(world(Claim("shop-api", port, project="lab"), **more))
    assert kinds(found) == [("reserved", ("shop-api",))]


def test_nothing_that_was_never_looked_at_is_called_held():
    assert detect(World([API], None)) == []


def test_what_is_in_the_way_of_a_start_are_holders_alone():
    seen = world(API, WEB, seen=facts(stranger(), container(9310, running=False)))
    assert [each.kind for each in before_start(seen, ["shop-api"])] == [ConflictKind.FOREIGN_PROCESS]
    assert before_start(seen, ["shop-web"]) == []


def test_a_duplicate_is_in_the_way_of_a_start_where_the_other_runs_or_starts_as_well():
    running, idle = Claim("other-api", 9311, up=True), Claim("other-api", 9311)
    mine = Claim("shop-api", 9311, leased=False)
    listens = facts(stranger(service_id="other-api", own=True))
    assert kinds(before_start(world(mine, running, seen=listens), ["shop-api"])) == [
        ("duplicate_claim", ("other-api", "shop-api"))
    ]
    assert before_start(world(mine, idle), ["shop-api"]) == []
    assert len(before_start(world(mine, idle), ["shop-api", "other-api"])) == 1

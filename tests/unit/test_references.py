"""What a reference is, and what it means for who says it."""

from dataclasses import replace
from typing import Any

import pytest

from domain import references
from domain.reachability import Provider
from domain.specs import CheckType, HealthCheck, PortRequest, RuntimeKind, ServiceSpec
from workers.runtimes.docker_config import container_config
from workers.runtimes.docker_endpoints import Joined, aliases
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_network_names import names_of, only_joined

HTTP = PortRequest("http", "127.0.0.1", 9311, 80)
ADMIN = PortRequest("admin", "127.0.0.1", 9312, 8081)
OPEN = replace(HTTP, host_ip="0.0.0.0")
PROCESS, DOCKER, EXTERNAL = RuntimeKind.PROCESS, RuntimeKind.DOCKER, RuntimeKind.EXTERNAL
UDP = PortRequest("dns", host_port=53, protocol="udp")


def provider(name: str = "api", group: str = "shop", *ports: PortRequest, **facts: Any) -> Provider:
    return Provider(f"{group}-{name}", name, group, ports=ports or (HTTP, ADMIN), **facts)


def known(*providers: Provider) -> references.Providers:
    return {(each.group, each.name): each for each in providers}


def spec(*words: str, **facts: Any) -> ServiceSpec:
    return replace(ServiceSpec("shop-web", "web", "shop", command=words), **facts)


def said(text: str, *providers: Provider, **facts: Any) -> str:
    """What a text becomes in a service of that kind."""
    return references.resolved(spec(text, **facts), known(*providers)).command[0]


def why(text: str, *providers: Provider, **facts: Any) -> str:
    """Why a reference in it means nothing."""
    found = references.resolved(spec(text, **facts), known(*providers))
    assert found.command[0] == text
    return next(iter(found.unresolved.values()))


@pytest.mark.parametrize(
    "text",
    [
        "${port:-8080}", "${port:=80}", "${host:0:3}", "${url:}", "${port}", "$port:api", "${PORT:api}", "${ports:api}",
        "${port:api/http/x/y}", "${port:/api}", "${port:api/}", "${port: api}", "{port:api}", "${port:a b}",
        "${port:${x}}", "${url:api", "a$b", "",
    ],
)  # fmt: skip
def test_a_text_that_is_no_reference_stays_as_it_is(text: str) -> None:
    assert references.find([text]) == []
    assert said(text, provider(), provider("http")) == text


def test_several_references_in_one_text_are_put_in_beside_what_is_around_them() -> None:
    text = "a=${port:api}&b=${port:api/admin};${host:api}${port:-1}"
    assert said(text, provider(), runtime=PROCESS) == "a=9311&b=9312;127.0.0.1${port:-1}"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("$${port:api}", "${port:api}"), ("$$${port:api}", "$${port:api}"), ("$${port:-80}", "$${port:-80}"),
        ("$${HOME}", "$${HOME}"), ("$${url:unknown} ${port:api}", "${url:unknown} 9311"),
    ],
)  # fmt: skip
def test_a_second_dollar_makes_a_reference_its_text_and_is_itself_no_other_text(text: str, becomes: str) -> None:
    assert said(text, provider(), runtime=PROCESS) == becomes


@pytest.mark.parametrize(
    ("runtime", "mode", "becomes"),
    [
        (DOCKER, "bridge", ("api", "80", "http://api:80")),
        (DOCKER, "host", ("127.0.0.1", "9311", "http://127.0.0.1:9311")),
        (PROCESS, "bridge", ("127.0.0.1", "9311", "http://127.0.0.1:9311")),
    ],
)
def test_a_container_is_found_by_its_alias_inside_and_by_its_published_port_outside(
    runtime: RuntimeKind, mode: str, becomes: tuple[str, str, str]
) -> None:
    found = [
        said(f"${{{kind}:api}}", provider(), runtime=runtime, network_mode=mode) for kind in ("host", "port", "url")
    ]
    assert tuple(found) == becomes


@pytest.mark.parametrize(
    ("host_ip", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9311"), ("0.0.0.0", "http://127.0.0.1:9311"), ("::", "http://[::1]:9311"),
        ("::1", "http://[::1]:9311"), ("10.1.2.3", "http://10.1.2.3:9311"), ("127.0.0.7", "http://127.0.0.7:9311"),
    ],
)  # fmt: skip
def test_a_process_asks_the_address_on_which_it_listens(host_ip: str, url: str) -> None:
    other = provider("api", "shop", replace(HTTP, host_ip=host_ip), runtime=PROCESS)
    assert said("${url:api}", other, runtime=PROCESS) == url


def test_only_a_url_has_brackets_around_an_address_of_version_6() -> None:
    other = provider("api", "shop", replace(HTTP, host_ip="::1"), runtime=PROCESS)
    assert said("${host:api}", other, runtime=PROCESS) == "::1"


def test_a_container_in_the_engines_own_bridge_meets_others_at_the_gateway() -> None:
    open_port = provider("api", "shop", OPEN)
    for consumer_mode, provider_mode in (("default", "bridge"), ("bridge", "default"), ("default", "default")):
        other = provider("api", "shop", OPEN, network_mode=provider_mode)
        found = references.resolved(replace(spec("${url:api}"), network_mode=consumer_mode), known(other))
        assert found.command == ("http://host.docker.internal:9311",)
        assert found.joins == ()
    assert references.resolved(spec("${url:api}"), known(open_port)).extra_hosts == ()


@pytest.mark.parametrize(("runtime", "mode"), [(PROCESS, "bridge"), (EXTERNAL, "bridge"), (DOCKER, "host")])
def test_a_container_goes_through_the_gateway_to_what_runs_on_the_host(runtime: RuntimeKind, mode: str) -> None:
    other = provider("api", "shop", OPEN, runtime=runtime, network_mode=mode)
    found = references.resolved(spec("${url:api}"), known(other))
    assert found.command == ("http://host.docker.internal:9311",)
    assert found.extra_hosts == ("host.docker.internal:host-gateway",)
    config = container_config(replace(found, image="x"), Marks("i"), {"clos-shop": Joined("id", "default")})
    assert config["HostConfig"]["ExtraHosts"] == ["host.docker.internal:host-gateway"]


def test_a_service_that_listens_on_one_address_is_asked_there_also_by_a_container() -> None:
    other = provider("api", "shop", replace(HTTP, host_ip="10.1.2.3"), runtime=PROCESS)
    found = references.resolved(spec("${url:api}"), known(other))
    assert (found.command, found.extra_hosts) == (("http://10.1.2.3:9311",), ())


@pytest.mark.parametrize("host_ip", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "fd00::1"])
def test_a_container_does_not_reach_loopback_or_version_6(host_ip: str) -> None:
    other = provider("api", "shop", replace(HTTP, host_ip=host_ip), runtime=PROCESS)
    assert host_ip in why("${url:api}", other)


@pytest.mark.parametrize(
    ("consumer", "other", "lonely"),
    [("none", "bridge", "shop-web"), ("bridge", "none", "shop-api"), ("host", "none", "shop-api")],
)
def test_without_a_network_nobody_is_reached(consumer: str, other: str, lonely: str) -> None:
    assert why("${url:api}", provider(network_mode=other), network_mode=consumer).startswith(f"{lonely} has no network")


def test_another_groups_container_is_found_in_its_groups_network_by_a_name_that_only_it_has() -> None:
    found = references.resolved(
        spec("${url:bank/api}", "${url:store}"), known(provider(group="bank"), provider("store"))
    )
    # In two networks, a plain name may be that of either group's service.
    assert found.command == ("http://api.bank:80", "http://store.shop:80")
    assert found.joins == (("bank", ""),)
    assert names_of(found) == ["clos-shop", "clos-bank"]
    assert only_joined(found) == {"clos-bank"}
    assert aliases(ServiceSpec("bank-api", "api", "bank"))[-1] == "api.bank"


def test_a_network_that_is_named_as_well_is_more_than_joined() -> None:
    found = references.resolved(spec("${url:bank/api}", networks=("clos-bank",)), known(provider(group="bank")))
    assert (names_of(found), only_joined(found)) == (["clos-shop", "clos-bank"], set())


def test_a_groups_own_name_for_its_network_is_the_one_that_is_joined() -> None:
    found = references.resolved(spec("${url:bank/api}"), known(provider(group="bank", network_name="vault")))
    assert names_of(found) == ["clos-shop", "vault"]


@pytest.mark.parametrize("shared", [{"network_name": "everybody"}, {"networks": ("everybody",)}])
def test_where_others_may_have_names_too_a_service_of_the_same_group_is_named_in_full(shared: dict[str, Any]) -> None:
    assert said("${url:api}", provider(), **shared) == "http://api.shop:80"


def test_a_process_of_another_group_joins_no_network() -> None:
    found = references.resolved(spec("${url:bank/api}", runtime=PROCESS), known(provider(group="bank")))
    assert (found.command, found.joins) == (("http://127.0.0.1:9311",), ())


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("${port:api/admin}", "9312"), ("${port:shop/api/admin}", "9312"), ("${port:bank/api}", "9400"),
        ("${port:bank/api/x}", "9400"), ("${port:shop/api}", "9311"),
    ],
)  # fmt: skip
def test_two_parts_are_a_port_of_the_own_group_or_a_service_of_another_one(text: str, becomes: str) -> None:
    others = (provider(), provider("api", "bank", PortRequest("x", host_port=9400)))
    assert said(text, *others, runtime=PROCESS) == becomes


def test_a_service_of_the_own_group_wins_over_a_group_of_its_name() -> None:
    both = (provider("bank"), provider("api", "bank"))
    assert "no port named 'api'" in why("${port:bank/api}", *both, runtime=PROCESS)


@pytest.mark.parametrize(
    ("text", "facts", "reason"),
    [
        ("${url:nobody}", {}, "there is no such service"),
        ("${url:api/grpc}", {}, "shop-api has no port named 'grpc': it has http, admin"),
        ("${url:bare}", {}, "shop-bare has no port"),
        ("${host:bare}", {"runtime": PROCESS}, "shop-bare has no port"),
        ("${url:dns}", {}, "that port of shop-dns is udp, which has no URL"),
        ("${port:open}", {"runtime": PROCESS}, "that port of shop-open has no number yet"),
    ],
)
def test_a_reference_that_means_nothing_stays_and_says_why(text: str, facts: dict[str, Any], reason: str) -> None:
    bare = Provider("shop-bare", "bare", "shop")
    others = (provider(), bare, provider("dns", "shop", UDP), provider("open", "shop", PortRequest()))
    assert why(text, *others, **facts) == reason


def test_a_container_without_a_port_still_has_a_name_for_its_neighbours() -> None:
    assert said("${host:bare}", Provider("shop-bare", "bare", "shop")) == "bare"


@pytest.mark.parametrize(
    ("facts", "url"),
    [
        ({}, "http://web:80"), ({"network_mode": "none"}, "http://127.0.0.1:80"),
        ({"network_mode": "host"}, "http://127.0.0.1:9311"), ({"runtime": PROCESS}, "http://127.0.0.1:9311"),
    ],
)  # fmt: skip
def test_a_service_may_refer_to_itself(facts: dict[str, Any], url: str) -> None:
    assert said("${url:web}", provider("web", "shop", HTTP, **facts), **facts) == url


def test_a_health_url_is_asked_from_the_host_and_is_no_part_of_the_instance() -> None:
    check = HealthCheck(CheckType.HTTP, url="${url:api}/ready?at=${port:api/admin}")
    found = references.resolved(spec("x", health_check=check), known(provider()))
    assert found.health_check is not None
    assert found.health_check.url == "http://127.0.0.1:9311/ready?at=9312"
    assert (found.references, found.hash()) == ({}, spec("x").hash())
    broken = references.resolved(spec("x", health_check=replace(check, url="${url:no}")), {})
    assert broken.unresolved == {"${url:no}": "there is no such service"}


def test_what_references_mean_is_part_of_the_hash_and_that_there_are_some_is_not() -> None:
    written = spec("run", environment={"API": "${url:api}"}, runtime=PROCESS)
    before = references.resolved(written, known(provider()))
    after = references.resolved(written, known(provider("api", "shop", replace(HTTP, host_port=9400))))
    assert before.references == {"${url:api}": "http://127.0.0.1:9311"}
    assert before.hash() != after.hash()
    assert before.hash() == spec("run", environment={"API": "http://127.0.0.1:9311"}, runtime=PROCESS).hash()
    assert references.changes(before.references, after.references) == [
        "${url:api} was http://127.0.0.1:9311 and is http://127.0.0.1:9400"
    ]


def test_a_spec_without_references_is_left_as_it_is() -> None:
    plain = spec("echo ${HOME}", environment={"A": "$B"}, health_check=HealthCheck(url="/x"))
    assert references.resolved(plain, {}) is plain

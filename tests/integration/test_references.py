"""References that are followed for real: processes and containers that fetch from each other what they were told."""

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.specs import PortRequest, ServiceSpec
from models import registry, registry_views, resolved_specs
from models.registry import ServiceRequired
from tests.images import IMAGE, client, make_docker_runtime, remove_all
from tests.integration.databases import postgres_database
from tests.integration.rig import Rig, container_service, free_port, rig, web_service
from tests.waiting import wait_until

EVERYWHERE = "0.0.0.0"
_FETCH = """
import os, signal, urllib.request
said = urllib.request.urlopen(os.environ["URL"]).read()
with open(os.environ["OUT"] + ".new", "wb") as out:
    out.write(said)
os.rename(out.name, os.environ["OUT"])
signal.pause()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def clos(request: Any) -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgres" else None
        yield stack.enter_context(rig(url))


@pytest.fixture
def engine() -> Iterator[Any]:
    with contextlib.closing(client()) as made:
        yield made


def page(name: str, text: str, **more: Any) -> dict[str, Any]:
    """A container whose web server says `text`."""
    service = container_service(name, free_port(), **more)
    return service | {"command": ["sh", "-c", f"echo {text} >/www/index.html; exec serve 80"]}


def fetching(name: str, text: str, out: Path, *needs: str) -> dict[str, Any]:
    """A process that fetches what a reference means into the file `out`."""
    return {
        "name": name,
        "runtime": "process",
        "command": [sys.executable, "-c", _FETCH],
        "environment": {"URL": text, "OUT": str(out)},
        "depends_on": [{"service": need, "condition": "healthy"} for need in needs],
    }


def in_container(engine: Any, container_id: str, *argv: str) -> tuple[int, str]:
    code, output = engine.containers.get(container_id).exec_run(list(argv))
    return code, output.decode()


def fetched(engine: Any, container_id: str, variable: str) -> str:
    code, output = in_container(engine, container_id, "sh", "-c", f'wget -q -O - "${variable}"')
    return output.strip() if code == 0 else ""


def started(clos: Rig, *groups: str) -> None:
    for group in groups:
        operation = clos.ended(clos.ask("start", group), 60)
        assert operation.status == "completed", operation.error


@pytest.fixture
def names() -> tuple[str, str]:
    """Two groups of this test's own: networks of one engine are named by groups."""
    return f"s{uuid.uuid4().hex[:6]}", f"b{uuid.uuid4().hex[:6]}"


@pytest.mark.docker
def test_containers_and_processes_fetch_what_they_refer_to(clos: Rig, engine: Any, names: tuple[str, str]) -> None:
    shop, bank = names
    out = clos.home / "said"
    clos.worker()
    hosted = web_service("hosted", free_port())
    hosted["ports"][0]["host_ip"] = EVERYWHERE
    web = page("web", "web", needs=["api", "hosted"]) | {
        "environment": {
            "NEIGHBOUR": "${url:api}/", "OTHER": f"${{url:{bank}/api}}/", "HOSTED": "${url:hosted}/",
            "OWN": "${url:web}/",
        }
    }  # fmt: skip
    clos.add_group(bank, [page("api", "of-the-bank"), page("web", "bank-web")])
    clos.add_group(shop, [page("api", "of-the-shop"), hosted, web, fetching("asking", "${url:web}/", out, "web")])
    started(clos, bank, shop)

    ref = str(clos.service(f"{shop}-web").container_id)
    wanted = {"NEIGHBOUR": "of-the-shop", "OTHER": "of-the-bank", "HOSTED": "ok", "OWN": "web"}
    for variable, text in wanted.items():
        found = wait_until(lambda name=variable: fetched(engine, ref, name), 15, f"what {variable} means")
        assert found == text
    wait_until(out.exists, 15, "the process's answer")
    assert out.read_text().strip() == "web"

    # It has no name in the network that it only joined: the bank's own `web` keeps that for itself.
    bank_ref = str(clos.service(f"{bank}-api").container_id)
    code, output = in_container(engine, bank_ref, "wget", "-q", "-O", "-", "http://web:80/")
    assert (code, output.strip()) == (0, "bank-web")
    networks = engine.api.inspect_container(ref)["NetworkSettings"]["Networks"]
    assert set(networks) == {f"clos-{shop}", f"clos-{bank}"}

    # What runs is what is wanted, and the record knows who refers to whom on either database.
    with clos.record.read() as session:
        assert [view.drift for view in registry_views.of_group(session, shop)] == [False] * 4
    with clos.record.write() as session:
        assert resolved_specs.referencing(session, [f"{bank}-api", f"{shop}-web"]) == {
            f"{shop}-web": {f"{bank}-api"}, f"{shop}-asking": {f"{shop}-web"}
        }  # fmt: skip
        with pytest.raises(ServiceRequired):
            registry.delete_service(session, f"{bank}-api")


@pytest.mark.docker
def test_a_container_on_the_hosts_network_is_found_there_by_a_process_and_by_a_container(
    clos: Rig, engine: Any, names: tuple[str, str]
) -> None:
    shop, _ = names
    out = clos.home / "said"
    clos.worker(CLOS_SECURITY__CONTAINERS__HOST_NETWORK="true")
    number = free_port()
    hosted = page("hosted", "on-the-host") | {"network_mode": "host"}
    hosted["command"] = ["sh", "-c", "echo on-the-host >/www/index.html; exec serve ${port:hosted}"]
    hosted["ports"] = [{"host_port": number, "host_ip": EVERYWHERE}]
    web = page("web", "web", needs=["hosted"]) | {"environment": {"HOSTED": "${url:hosted}/"}}
    clos.add_group(shop, [hosted, web, fetching("asking", "${url:hosted}/", out, "hosted")])
    started(clos, shop)
    ref = str(clos.service(f"{shop}-web").container_id)
    assert wait_until(lambda: fetched(engine, ref, "HOSTED"), 15, "the page") == "on-the-host"
    wait_until(out.exists, 15, "the process's answer")
    assert out.read_text().strip() == "on-the-host"


@pytest.mark.docker
@pytest.mark.parametrize("way", ["joined", "named"])
def test_a_network_of_another_clos_is_never_joined_for_its_name(way: str, names: tuple[str, str], engine: Any) -> None:
    _, bank = names
    theirs, their_id = make_docker_runtime()
    ours, our_id = make_docker_runtime()
    try:
        theirs.start(ServiceSpec(f"{bank}-api", "api", bank, image=IMAGE))
        reach: dict[str, Any] = {"joins": ((bank, ""),)} if way == "joined" else {"networks": (f"clos-{bank}",)}
        web = ours.start(ServiceSpec("shop-web", "web", f"shop{bank}", image=IMAGE, **reach))
        api = ours.start(ServiceSpec(f"{bank}-api", "api", bank, image=IMAGE, command=("serve", "80")))
        ids = [_networks(engine, instance.ref) for instance in (web, api)]
        [foreign] = engine.api.networks(filters={"label": f"clos.instance={their_id}"})
        assert foreign["Id"] not in ids[0] | ids[1]
        assert ids[0] & ids[1]
        code, output = in_container(engine, str(web.ref), "wget", "-q", "-O", "-", f"http://api.{bank}:80/")
        assert (code, output.strip()) == (0, "hello")
    finally:
        for made, instance_id in ((theirs, their_id), (ours, our_id)):
            made.close()
            remove_all(instance_id)


def _networks(engine: Any, ref: str | None) -> set[str]:
    attached = engine.api.inspect_container(ref)["NetworkSettings"]["Networks"]
    return {each["NetworkID"] for each in attached.values()}


@pytest.mark.docker
def test_a_joined_network_goes_with_the_last_container_that_is_in_it(names: tuple[str, str], engine: Any) -> None:
    shop, bank = names
    runtime, instance_id = make_docker_runtime()
    try:
        web = ServiceSpec(f"{shop}-web", "web", shop, image=IMAGE, joins=((bank, ""),))
        api = ServiceSpec(f"{bank}-api", "api", bank, image=IMAGE, ports=(PortRequest(host_port=free_port()),))
        for each in (web, api):
            runtime.start(each)
        left = []
        for each in (api, web):
            runtime.stop(each, 5)
            runtime.remove(each)
            found = engine.api.networks(filters={"label": f"clos.instance={instance_id}"})
            left.append({network["Name"] for network in found})
        assert left == [{f"clos-{shop}", f"clos-{bank}"}, set()]
    finally:
        runtime.close()
        remove_all(instance_id)

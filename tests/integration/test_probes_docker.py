import os
import time
from dataclasses import replace

import pytest

from domain.specs import PortRequest, ServiceSpec
from tests.contract.kit import free_port
from tests.images import make_docker_runtime, remove_all, test_image
from tests.waiting import wait_until
from workers.runtimes.docker_listening import listens
from workers.runtimes.probes import default_ready


@pytest.mark.docker
def test_a_container_that_does_not_listen_is_not_ready_although_dockers_proxy_accepts() -> None:
    runtime, instance_id = make_docker_runtime()
    try:
        ports = (PortRequest(host_port=free_port(), container_port=80),)
        network = f"probes-{instance_id[:12]}"
        wanted = ServiceSpec(id="g.a", name="a", group="g", ports=ports, image=test_image(), network_name=network)
        for command, ready in ((("idle",), False), (("serve",), True)):
            service = replace(wanted, id=f"g.{command[0]}", name=command[0], command=command)
            instance = runtime.start(service)
            result = default_ready(service, runtime, instance)
            deadline = time.monotonic() + 5
            while ready and not result.ok and time.monotonic() < deadline:
                result = default_ready(service, runtime, instance)
            assert result.ok is ready, result.detail
            runtime.stop(service, 5.0)
    finally:
        remove_all(instance_id)
        runtime.close()


@pytest.mark.docker
def test_a_container_is_seen_to_listen_at_its_own_address_and_only_there() -> None:
    runtime, instance_id = make_docker_runtime()
    try:
        spec = ServiceSpec(
            id="g.a",
            name="a",
            group="g",
            image=test_image(),
            command=("serve", "80"),
            network_name=f"p-{instance_id[:12]}",
        )
        instance = runtime.start(spec)
        wait_until(lambda: listens(instance, 80), 5)
        assert not listens(instance, 81)
        # A pid that is another process's, and one that is nobody's: as where the engine is another machine's.
        assert not listens(replace(instance, pid=os.getpid()), 80)
        assert not listens(replace(instance, pid=None), 80)
        runtime.stop(spec, 5.0)
        assert not listens(instance, 80)
    finally:
        remove_all(instance_id)
        runtime.close()

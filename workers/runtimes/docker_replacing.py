"""Containers that take another one's place, and the way back.

The new one is made beside the old one under a name of its own. The old one is only stopped, never renamed or changed,
so that going back is a start: same image, name, ports and networks.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from docker.errors import APIError

from domain.errors import ClosError, ServiceRunning, StartFailed
from domain.observation import Instance
from domain.specs import PortRequest, ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_containers import Containers
from workers.runtimes.docker_errors import reason, removal_in_progress, status
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_network_names import names_of
from workers.runtimes.docker_networks import Networks
from workers.runtimes.docker_observation import Summary, rank
from workers.runtimes.fence import before_effect

log = structlog.get_logger()


class Replacing:
    """Puts one container in another one's place. `start_error` tells what a refused start means."""

    def __init__(
        self,
        client: EngineClient,
        marks: Marks,
        containers: Containers,
        networks: Networks,
        run: Callable[[str, ServiceSpec], None],
        start_error: Callable[[APIError, ServiceSpec], ClosError],
    ) -> None:
        self._client = client
        self._marks = marks
        self._containers = containers
        self._networks = networks
        self._run = run
        self._start_error = start_error

    @property
    def _api(self) -> Any:
        return self._client.api()

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Take away all but `ref`, and run that if it ran.

        Raises:
            StartFailed: it is gone.
        """
        old = self._containers.look(ref) if ref else None
        if ref and old is None:
            raise StartFailed(
                f"{spec.id}: the container {ref[:12]} that was there before is gone",
                hint=f"what is there now is left as it is; see: clos status {spec.id}",
                service_id=spec.id,
            )
        others = [each for each in self._containers.of(spec.id) if each["Id"] != ref]
        for each in others:
            self._end(each["Id"], spec.stop_timeout_s)
            self._containers.discard(each["Id"])
        self._release(others)
        if old is None or old.alive or not run:
            return old or Instance(spec.id)
        return self._start(str(ref), spec)

    def remove(self, spec: ServiceSpec, volumes: bool) -> None:
        """Take away all that is there of the service, and what nobody uses any more of its group's networks: those of a
        container that is gone already as well.

        Raises:
            ServiceRunning: it runs.
        """
        listed = self._containers.of(spec.id)
        if any(rank(each)[0] for each in listed):
            raise ServiceRunning(f"{spec.id} runs", hint="stop it first")
        for each in listed:
            self._containers.discard(each["Id"], volumes)
        own: list[str] = []
        with suppress(StartFailed):  # of a spec that could never be started, nothing was made
            own = names_of(spec)
        self._release(listed, own, spec.group)

    def _start(self, ref: str, spec: ServiceSpec) -> Instance:
        try:
            self._run(ref, spec)
        except APIError as error:
            raise self._start_error(error, spec) from error
        return self._containers.look(ref) or Instance(spec.id)

    def _end(self, ref: str, timeout_s: float) -> None:
        before_effect()
        try:
            self._api.stop(ref, timeout=max(math.ceil(timeout_s), 0))
        except APIError as error:
            if status(error) not in (304, 404) and not removal_in_progress(error):
                raise

    def settle(self, spec: ServiceSpec) -> None:
        """Take the others away, and give the one of this spec its name.

        Raises:
            ServiceRunning: another one runs.
        """
        listed = self._containers.of(spec.id)
        standing = [each for each in listed if self._marks.hash_of(each.get("Labels")) == spec.hash()]
        if not standing:
            return
        others = [each for each in listed if each["Id"] != standing[-1]["Id"]]
        for each in others:
            self._containers.discard(each["Id"])
        self._release(others)
        self._name(standing[-1], spec)

    def _name(self, standing: Summary, spec: ServiceSpec) -> None:
        wanted = self._marks.container_name(spec.id)
        if f"/{wanted}" in (standing.get("Names") or ()):
            return
        before_effect()
        try:
            self._api.rename(standing["Id"], wanted)
        except APIError as error:
            # All of ours are found by their labels: a name that somebody else took in between fails no update.
            log.warning("container.not_renamed", service=spec.id, name=wanted, why=reason(str(error)))

    def _release(self, removed: Iterable[Summary], further: Iterable[str] = (), group: str | None = None) -> None:
        label = self._marks.label("networks")
        named = {name for each in removed for name in ((each.get("Labels") or {}).get(label) or "").split(",")}
        self._networks.release({*named, *further}, group)

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the host ports that its container publishes."""
        found = self._containers.find(spec.id)
        inspected = self._containers.inspect(found["Id"]) if found else None
        if inspected is None:
            return spec
        bound = (inspected.get("HostConfig") or {}).get("PortBindings") or {}
        return replace(spec, ports=tuple(_published(bound, spec)))


def _published(bound: Mapping[str, Any], spec: ServiceSpec) -> Iterable[PortRequest]:
    """A container knows no names of ports: they are those that the spec gives to the ports inside."""
    names = {f"{port.container_port or port.host_port}/{port.protocol}": port.name for port in spec.ports}
    for inside, places in bound.items():
        number, _, protocol = str(inside).partition("/")
        for place in places or ():
            if str(place.get("HostPort") or "").isdigit():
                host_ip, host_port = place.get("HostIp") or "127.0.0.1", int(place["HostPort"])
                yield PortRequest(names.get(inside, ""), host_ip, host_port, int(number), protocol or "tcp")

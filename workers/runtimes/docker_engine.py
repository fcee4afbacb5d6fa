"""The `docker` runtime: services as containers of an engine that also runs what is not ours."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from docker.errors import APIError

from domain.errors import ClosError, NotOurs, PortHeld, ServiceRunning, StartFailed, TimedOut
from domain.observation import Instance, Phase
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import Marks, aliases, container_config, image_of
from workers.runtimes.docker_errors import (
    TakenPort,
    from_api,
    network_vanished,
    reason,
    removal_in_progress,
    status,
    taken_port,
    translated,
)
from workers.runtimes.docker_images import Images, Limits
from workers.runtimes.docker_networks import Networks, names_of
from workers.runtimes.docker_observation import Observation, Summary, instance_of, rank
from workers.runtimes.docker_reading import Reading
from workers.runtimes.docker_stats import Sampler
from workers.runtimes.protocol import ExecResult, LogLine, Progress, Stats

log = structlog.get_logger()

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound
# How often create or start begins again when others change the same container meanwhile.
_ROUNDS = 4


class DockerEngine:
    """Implements `Runtime` on Docker's engine. Connects late, and anew in every process."""

    kind = "docker"

    def __init__(
        self,
        base_url: str,
        instance_id: str,
        timeout_s: float = 15,
        max_pool: int = 20,
        label_prefix: str = "clos",
        image_limits: Limits | None = None,
    ) -> None:
        self._marks = Marks(instance_id, label_prefix)
        self._client = EngineClient(base_url, timeout_s, max_pool)
        self._networks = Networks(self._client, self._marks)
        self._images = Images(self._client, self._marks, image_limits or Limits())
        self._observation = Observation(self._marks, self._inspect)
        self._reading = Reading(self._client, self._find)
        self._sampler = Sampler(self._reading.counters)

    def engine_info(self) -> dict[str, Any]:
        """Who the engine is: `{id, name, version, api_version}`, within three seconds.

        Raises:
            EngineUnreachable: it does not answer.
        """
        return self._client.info()

    def observe(self) -> Mapping[str, Instance]:
        """Every instance of this CLOS, by service id, in one look. Raises EngineUnreachable."""
        with translated("look at the containers", base_url=self._client.base_url, looking=True):
            return self._observation.instances(self._api.containers(all=True, filters=self._marks.filters()))

    def prepare(self, spec: ServiceSpec, progress: Progress) -> None:
        """Pull or build the image if it is not present."""
        self._images.have(spec, progress)

    def prepared(self, spec: ServiceSpec) -> bool:
        """Whether the image is present."""
        return self._images.present(image_of(spec))

    def create(self, spec: ServiceSpec) -> Instance:
        """Make the container and its networks, or adopt the one that fits. One that runs is left as it is."""
        with self._doing("create", spec):
            return self._created(spec)

    def start(self, spec: ServiceSpec) -> Instance:
        """Run the container, made first where it is missing."""
        with self._doing("start", spec):
            for _ in range(_ROUNDS):
                instance = self._created(spec)
                if instance.alive or not instance.ref:
                    return instance
                try:
                    self._api.start(instance.ref)
                except APIError as error:
                    vanished = network_vanished(error)
                    self._undo(instance, spec, also_exited=vanished)
                    if vanished or status(error) == 404 or removal_in_progress(error):
                        continue
                    raise self._start_error(error, spec) from error
                return self._look(instance.ref) or Instance(spec.id)
            raise StartFailed(f"{spec.id}: its container keeps being removed by others", hint="try again")

    def stop(self, spec: ServiceSpec, timeout_s: float) -> Instance:
        """TERM, and KILL after `timeout_s` (rounded up to whole seconds)."""
        with self._doing("stop", spec):
            found = self._find(spec.id)
            if found is None:
                return Instance(spec.id)
            try:
                # docker-py adds the grace to the request's own limit.
                self._api.stop(found["Id"], timeout=max(math.ceil(timeout_s), 0))
            except APIError as error:
                if status(error) not in (304, 404) and not removal_in_progress(error):
                    raise
            return self._look(found["Id"]) or Instance(spec.id)

    def remove(self, spec: ServiceSpec) -> None:
        """Take away the stopped container, and its networks with their last one. Volumes stay.

        Raises:
            ServiceRunning: it runs.
        """
        with self._doing("remove", spec):
            listed = self._containers(spec.id)
            if any(rank(each)[0] for each in listed):
                raise ServiceRunning(f"{spec.id} runs", hint="stop it first")
            for each in listed:
                self._discard(each["Id"])
            label = self._marks.label("networks")
            named = {name for each in listed for name in ((each.get("Labels") or {}).get(label) or "").split(",")}
            self._networks.release(named)

    def logs(self, service_id: str, tail: int, since: datetime | None = None) -> list[LogLine]:
        """The last `tail` lines, oldest first; none where there is no container."""
        return self._reading.logs(service_id, tail, since)

    def follow(self, service_id: str, stop: Callable[[], bool]) -> Iterator[LogLine | None]:
        """New lines, across restarts, until `stop()` or until the engine goes away."""
        return self._reading.follow(service_id, stop)

    def stats(self, service_ids: Sequence[str]) -> Mapping[str, Stats]:
        """Resources of those that run."""
        wanted = set(service_ids)
        running = {i.ref: i for i in self.observe().values() if i.alive and i.ref and i.service_id in wanted}
        measured = self._sampler.stats({ref: instance.pid for ref, instance in running.items()})
        return {running[ref].service_id: stats for ref, stats in measured.items()}

    def execute(self, spec: ServiceSpec, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command in the container. One that takes too long is given up, not ended: the engine cannot."""
        with self._doing("run a command in", spec):
            return self._reading.execute(spec, argv, timeout_s)

    def own_test(self, spec: ServiceSpec) -> tuple[str, ...]:
        """The health test of the container, or of the image where there is no container yet."""
        with self._doing("look at the health test of", spec):
            return self._reading.own_test(image_of(spec), spec)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    @property
    def _api(self) -> Any:
        return self._client.api()

    def _doing(self, verb: str, spec: ServiceSpec) -> Any:
        return translated(f"cannot {verb} {spec.id}", base_url=self._client.base_url, image=spec.image)

    def _containers(self, service_id: str) -> list[Summary]:
        found = self._api.containers(all=True, filters=self._marks.filters(service=service_id))
        return sorted(found, key=rank)

    def _find(self, service_id: str) -> Summary | None:
        found = self._containers(service_id)
        return found[-1] if found else None

    def _inspect(self, ref: str) -> Mapping[str, Any] | None:
        try:
            inspected: Mapping[str, Any] = self._api.inspect_container(ref)
        except APIError as error:
            if status(error) == 404:
                return None
            raise
        return inspected

    def _look(self, ref: str) -> Instance | None:
        inspected = self._inspect(ref)
        return instance_of(inspected, self._marks) if inspected else None

    def _created(self, spec: ServiceSpec) -> Instance:
        for _ in range(_ROUNDS):
            found = self._find(spec.id)
            ref = str(found["Id"]) if found else self._make(spec)
            instance = self._look(ref) if ref else None
            if instance and _fits(instance, spec):
                return instance
            if instance and instance.ref:
                self._discard(instance.ref)
        raise StartFailed(f"{spec.id}: its container keeps being changed by others", hint="try again")

    def _make(self, spec: ServiceSpec) -> str | None:
        """Make the container; None if another one of that name was there first, and has to be looked at."""
        name = self._marks.container_name(spec.id)
        try:
            with self._networks.held(spec) as networks:
                ref = self._make_in(networks, name, spec)
        except APIError as error:
            self._networks.release(names_of(spec))
            if status(error) != 409:
                raise
            self._see_who_has(name, spec)
            return None
        log.info("container.created", service=spec.id, container=ref[:12])
        return ref

    def _make_in(self, networks: Mapping[str, str], name: str, spec: ServiceSpec) -> str:
        config = container_config(spec, self._marks, networks)
        ref = str(self._api.create_container_from_config(config, name)["Id"])
        try:
            for further in list(networks.values())[1:]:
                self._api.connect_container_to_network(ref, further, aliases=aliases(spec))
        except APIError:
            self._discard(ref)
            raise
        return ref

    def _see_who_has(self, name: str, spec: ServiceSpec) -> None:
        taken = self._inspect(name)
        if taken is None:
            time.sleep(0.05)  # a removal gives the name back a moment after the container is gone
            return
        labels = (taken.get("Config") or {}).get("Labels") or {}
        if self._marks.ours(labels) and labels.get(self._marks.label("service")) == spec.id:
            return
        container_id = str(taken["Id"])[:12]
        raise NotOurs(
            f"the container {container_id} has the name {name} and is not ours",
            hint=f"look at it (`docker inspect {container_id}`), then rename or remove it",
            container_id=str(taken["Id"]),
            name=name,
        )

    def _discard(self, ref: str) -> None:
        """Remove a container that does not run, and wait until it is gone."""
        deadline = time.monotonic() + self._client.timeout_s
        while time.monotonic() < deadline:
            try:
                self._api.remove_container(ref)
            except APIError as error:
                if status(error) == 404:
                    return
                if not removal_in_progress(error):
                    raise
                time.sleep(0.05)
                continue
            return
        raise TimedOut(f"the container {ref[:12]} is being removed for too long", hint="look at the engine's log")

    def _undo(self, instance: Instance, spec: ServiceSpec, also_exited: bool) -> None:
        """After a failed start: take away what never ran, and the network if it was made for that."""
        try:
            now = self._look(instance.ref or "")
            if now is None or now.alive or not now.ref:
                return
            if now.phase is Phase.CREATED or also_exited:
                self._discard(now.ref)
                self._networks.release(names_of(spec))
        except (ClosError, APIError) as error:
            # The failed start is the error that counts; what is left is adopted or replaced by the next.
            log.warning("container.left", service=spec.id, container=instance.ref, why=reason(str(error)))

    def _start_error(self, error: APIError, spec: ServiceSpec) -> ClosError:
        taken = taken_port(reason(error), spec.ports)
        if taken is None:
            return from_api(error, f"{spec.id} does not start", image=spec.image)
        return PortHeld(taken.port, taken.protocol, taken.host_ip, self._holder(taken))

    def _holder(self, taken: TakenPort) -> dict[str, Any] | None:
        """The container that publishes a port (interface.md, Holder); None if it is none of this engine's."""
        for summary in self._api.containers():
            for port in summary.get("Ports") or ():
                same = (port.get("PublicPort"), port.get("Type")) == (taken.port, taken.protocol)
                if same and _overlap(port.get("IP", ""), taken.host_ip):
                    return self._as_holder(summary)
        return None

    def _as_holder(self, summary: Summary) -> dict[str, Any]:
        labels = summary.get("Labels") or {}
        own = self._marks.ours(labels)
        service_id = labels.get(self._marks.label("service")) if own else None
        name = next(iter(summary.get("Names") or ()), "").lstrip("/")
        return {
            "kind": "service" if service_id else "container",
            "running": True,
            "name": service_id or name,
            "container_id": summary["Id"],
            "service_id": service_id,
            "pid": None,
            "command": reason(str(summary.get("Command") or "")) or None,
            "user": None,
            "started_at": None,
            "own": own,
        }


def _fits(instance: Instance, spec: ServiceSpec) -> bool:
    """Whether this container can stand for the service. One that runs is never taken away: that is drift."""
    if instance.alive:
        return True
    broken = instance.detail is not None and instance.phase is Phase.CREATED
    return instance.spec_hash == spec.hash() and not broken and instance.detail not in ("removing", "dead")


def _overlap(one: str, other: str) -> bool:
    return one == other or one in _EVERYWHERE or other in _EVERYWHERE

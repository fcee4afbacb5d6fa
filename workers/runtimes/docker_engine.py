"""The `docker` runtime: services as containers of an engine that also runs what is not ours."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from docker.errors import APIError

from domain.container_policy import ContainerPolicy
from domain.observation import Instance
from domain.specs import ServiceSpec
from workers.runtimes import docker_clone_volumes
from workers.runtimes.docker_admission import Admission
from workers.runtimes.docker_bindings import Bindings, Bounded, Published
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import image_of
from workers.runtimes.docker_containers import Containers
from workers.runtimes.docker_errors import (
    removal_in_progress,
    status,
    translated,
)
from workers.runtimes.docker_events import Events
from workers.runtimes.docker_foreign import ForeignContainers
from workers.runtimes.docker_images import Images, Limits
from workers.runtimes.docker_keeping import Keeping
from workers.runtimes.docker_marked import Marked
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_networks import Networks
from workers.runtimes.docker_reading import Reading
from workers.runtimes.docker_replacing import Replacing
from workers.runtimes.docker_sighting import EngineSighting
from workers.runtimes.docker_starting import Starting
from workers.runtimes.docker_stats import Sampler
from workers.runtimes.docker_volumes import Volumes
from workers.runtimes.fence import before_effect
from workers.runtimes.kept_logs import KeptLogs
from workers.runtimes.protocol import ExecResult, LogLine, Progress, Stats


class DockerEngine(Marked):
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
        policy: ContainerPolicy | None = None,
        kept_logs: Path | None = None,
        api_version: str | None = None,
    ) -> None:
        self._marks = Marks(instance_id, label_prefix)
        self._client = EngineClient(base_url, timeout_s, max_pool, api_version)
        self._networks = Networks(self._client, self._marks)
        self._admission = Admission(policy or ContainerPolicy())
        self._volumes = Volumes(self._client, self._marks)
        self._containers = Containers(self._client, self._marks, self._networks, self._volumes, self._admission)
        self._starting = Starting(self._client, self._marks, self._containers, self._admission)
        self._images = Images(self._client, self._marks, image_limits or Limits())
        self._replacing = Replacing(
            self._client, self._marks, self._containers, self._networks, self._starting.run, self._starting.error
        )
        self._events = Events(self._client, self._marks)
        self._sighting = EngineSighting(self._client)
        self._bindings = Bindings(self._marks, self._containers.inspect)
        self._publishing = Bounded(self._look_at_all)
        self._reading = Reading(self._client, self._containers.find)
        self.foreign = ForeignContainers(self._client, self._marks)
        self._sampler = Sampler(self._reading.counters)
        self._keeping: Keeping | None = None
        if kept_logs is not None:
            self._keeping = Keeping(self._client, self._marks, self._reading, KeptLogs(kept_logs))
            self._containers.before_removal = self._keeping.before_removal

    def engine_info(self) -> dict[str, Any]:
        """Who the engine is: `{id, name, version, api_version, warning}`, within three seconds.

        Raises:
            EngineUnreachable: it does not answer, or speaks no version that CLOS does.
        """
        return self._client.info()

    def observe(self) -> Mapping[str, Instance]:
        """Every instance of this CLOS, by service id, in one look. Raises EngineUnreachable."""
        with translated("look at the containers", base_url=self._client.base_url, looking=True):
            # What changed is inspected, and the engine may go between the list and that.
            found = self._containers.observation.instances(
                self._api.containers(all=True, filters=self._marks.filters())
            )
        return self._events.deaths.judged(found)

    def bindings(self, limit_s: float | None = None) -> Published:
        """Which ports all containers publish or would publish, ours and others', and who they are.

        Raises:
            EngineUnreachable: it does not answer, or not within `limit_s`.
        """
        return self._publishing.within(self._client.timeout_s if limit_s is None else limit_s)

    def _look_at_all(self) -> Published:
        with translated("look at the containers", base_url=self._client.base_url, looking=True):
            return self._bindings.of(self._api.containers(all=True))

    def absent(self) -> bool:
        """Whether there is no engine at all at its address, rather than one that does not answer."""
        scheme, _, path = self._client.base_url.partition("://")
        return scheme == "unix" and not os.path.exists(path if path.startswith("/") else f"/{path}")

    def stop_container(self, ref: str, timeout_s: float) -> None:
        """Stop any container, ours or another's: TERM, and KILL after `timeout_s`. One that is gone is success.

        Raises:
            ClosError: the engine refuses or does not answer.
        """
        with translated(f"cannot stop the container {ref[:12]}", base_url=self._client.base_url):
            before_effect()
            try:
                self._api.stop(ref, timeout=max(math.ceil(timeout_s), 0))
            except APIError as error:
                if status(error) not in (304, 404) and not removal_in_progress(error):
                    raise

    def prepare(self, spec: ServiceSpec, progress: Progress) -> None:
        """Pull or build the image if it is not present."""
        self._admission.refuse(spec)
        self._images.have(spec, progress)

    def prepared(self, spec: ServiceSpec) -> bool:
        """Whether the image is present, and its policy does not want it anew."""
        return self._images.ready(spec)

    def create(self, spec: ServiceSpec) -> Instance:
        """Make the container and its networks, or adopt the one that fits. One that runs is left as it is."""
        with self._doing("create", spec):
            return self._containers.created(spec)

    def start(self, spec: ServiceSpec, keep: bool = False) -> Instance:
        """Run the container, made first where it is missing. `keep`: beside one of another hash that is stopped."""
        made = self._containers.replaced if keep else self._containers.to_start
        with self._doing("start", spec):
            return self._starting.start(spec, made)

    def replace(self, spec: ServiceSpec) -> Instance:
        """Make the container of a changed spec, beside the one that is there."""
        with self._doing("create", spec):
            return self._containers.replaced(spec)

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Go back to the container `ref`, which only has to be started."""
        with self._doing("restore", spec):
            return self._replacing.restore(spec, ref, run)

    def settle(self, spec: ServiceSpec) -> None:
        """Remove the earlier container, and give the new one its name."""
        with self._doing("settle", spec):
            self._replacing.settle(spec)

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the ports that its container publishes."""
        with self._doing("look at the ports of", spec):
            return self._replacing.as_made(spec)

    def stop(self, spec: ServiceSpec, timeout_s: float) -> Instance:
        """TERM, and KILL after `timeout_s` (rounded up to whole seconds)."""
        with self._doing("stop", spec):
            found = self._containers.find(spec.id)
            if found is None:
                return Instance(spec.id)
            before_effect()
            try:
                # docker-py adds the grace to the request's own limit.
                self._api.stop(found["Id"], timeout=max(math.ceil(timeout_s), 0))
            except APIError as error:
                if status(error) not in (304, 404) and not removal_in_progress(error):
                    raise
            return self._containers.look(found["Id"]) or Instance(spec.id)

    def remove(self, spec: ServiceSpec, volumes: bool = False) -> None:
        """Take away the stopped container, if there is one, and its networks with their last one. Volumes with a name
        stay.

        Raises:
            ServiceRunning: it runs.
        """
        with self._doing("remove", spec):
            self._replacing.remove(spec, volumes)

    def remove_volume(self, name: str, mark: str) -> None:
        """Take away a clone's own volume."""
        with translated(f"cannot remove the volume {name}", base_url=self._client.base_url):
            docker_clone_volumes.remove(self._api, name, mark)

    def logs(self, service_id: str, tail: int, since: datetime | None = None) -> list[LogLine]:
        """The last `tail` lines, oldest first: those of containers that are gone as well, as far as they were kept."""
        if self._keeping is not None:
            return self._keeping.logs(service_id, tail, since)
        found = self._reading.log(service_id, tail, since)
        return found[1] if found is not None else []

    def keep_logs(self, registered: Callable[[], Collection[str]]) -> None:
        """Keep what ended containers wrote. Nothing to do where there is no engine."""
        if self._keeping is not None and not self.absent():
            self._keeping.look(registered)

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
        image = image_of(spec) if spec.image or spec.build else None
        return translated(f"cannot {verb} {spec.id}", base_url=self._client.base_url, image=image)

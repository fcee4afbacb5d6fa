"""Running a container, whoever else is at work on it or on its network."""

import random
import time
from collections.abc import Callable
from typing import Any

from docker.errors import APIError

from domain.container_policy import PolicyDenied, sources
from domain.errors import ClosError, PortHeld, StartFailed
from domain.observation import Instance
from domain.specs import ServiceSpec
from workers.runtimes.docker_admission import Admission
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import image_of
from workers.runtimes.docker_containers import Containers
from workers.runtimes.docker_errors import container_vanished, from_api, network_vanished, reason, taken_port
from workers.runtimes.docker_files import fill
from workers.runtimes.docker_holders import holder_of
from workers.runtimes.docker_names import Marks
from workers.runtimes.fence import before_effect

# Rivals that begin again at the same moments would take each other's networks away for ever.
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.8


class Starting:
    """Starts containers. Raises docker-py's errors as they come, beside those of CLOS."""

    def __init__(self, client: EngineClient, marks: Marks, containers: Containers, admission: Admission) -> None:
        self._client = client
        self._marks = marks
        self._containers = containers
        self._admission = admission

    @property
    def _api(self) -> Any:
        return self._client.api()

    def start(self, spec: ServiceSpec, made: Callable[[ServiceSpec], Instance]) -> Instance:
        """Run the container that `made` gives.

        Raises:
            PortHeld: one of its ports is held by somebody else.
            StartFailed: it does not start, or others keep removing it.
            PolicyDenied: it asks for what it may not have.
        """
        deadline = time.monotonic() + self._client.timeout_s
        tries = 0
        while time.monotonic() < deadline:
            instance = made(spec)
            if instance.alive or not instance.ref:
                return instance
            self._admission.refuse(spec)
            try:
                fill(self._client, instance, spec)
                self.run(instance.ref, spec)
            except APIError as error:
                vanished = network_vanished(error)
                runs = self._containers.undo(instance, spec, also_exited=vanished)
                if runs or vanished or container_vanished(error):
                    # An engine lists what it removes for a while (26 and 28 for longer than 20.10 did).
                    self._containers.observation.forget(instance.ref)
                    time.sleep(random.uniform(0.0, min(_PAUSE_S * tries, _LONGEST_PAUSE_S)))  # noqa: S311 - no secret
                    tries += 1
                    continue
                raise self.error(error, spec) from error
            return self._containers.look(instance.ref) or Instance(spec.id)
        raise StartFailed(f"{spec.id}: its container keeps being removed by others", hint="try again")

    def run(self, ref: str, spec: ServiceSpec) -> None:
        """Start this container, if what it mounts is still where it was, and see that it was so when it started.

        Raises:
            PolicyDenied: a path has become a link to somewhere else; what was started is ended.
        """
        mounting = any(not just_read for *_, just_read in sources(spec))
        inspected = self._containers.inspect(ref) if mounting else None
        self._admission.refuse_swapped(spec, inspected or {})
        before_effect()
        self._api.start(ref)
        try:
            self._admission.refuse_swapped(spec, inspected or {})
        except PolicyDenied:
            before_effect()
            self._api.stop(ref, timeout=0)
            raise

    def error(self, error: APIError, spec: ServiceSpec) -> ClosError:
        """What a refused start means."""
        taken = taken_port(reason(error), spec.ports)
        if taken is None:
            return from_api(error, f"{spec.id} does not start", image=image_of(spec))
        return PortHeld(
            taken.port, taken.protocol, taken.host_ip, holder_of(taken, self._api.containers(), self._marks)
        )

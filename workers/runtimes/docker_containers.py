"""One service's container: found by its labels, made, adopted, replaced, taken away."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from docker.errors import APIError

from domain.container import services_named
from domain.errors import ClosError, NotOurs, ServiceRunning, StartFailed, TimedOut
from domain.observation import Instance, Phase
from domain.specs import ServiceSpec
from workers.runtimes.docker_admission import Admission
from workers.runtimes.docker_attachments import Attachments
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import container_config
from workers.runtimes.docker_endpoints import Joined, endpoint
from workers.runtimes.docker_errors import network_vanished, reason, removal_in_progress, status, still_runs
from workers.runtimes.docker_mounts import keep_anonymous
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_network_names import names_of
from workers.runtimes.docker_networks import Networks
from workers.runtimes.docker_observation import Observation, Summary, rank
from workers.runtimes.docker_versions import refuse_unknown
from workers.runtimes.docker_volumes import Volumes
from workers.runtimes.fence import before_effect

log = structlog.get_logger()

_PAUSE_S = 0.05
# How long a container that was made or looked at counts as merely created. Somebody may start it by hand, in vain.
_JUST_MADE = timedelta(seconds=3)


class Containers:
    """The containers of this installation. Raises docker-py's errors as they come, beside those of CLOS."""

    def __init__(
        self, client: EngineClient, marks: Marks, networks: Networks, volumes: Volumes, admission: Admission
    ) -> None:
        self._client = client
        self._marks = marks
        self._networks = networks
        self._volumes = volumes
        self._admission = admission
        self._attachments = Attachments(marks, self.find, self.inspect)
        self.observation = Observation(marks, self.inspect)
        # What was made a moment ago, by service: its start need not look for it.
        self._fresh: dict[str, tuple[float, Instance]] = {}
        # Told of each container that is removed next, by its id.
        self.before_removal: Callable[[str], None] = lambda _ref: None

    @property
    def _api(self) -> Any:
        return self._client.api()

    def of(self, service_id: str) -> list[Summary]:
        """Every container of a service; the one that counts is the last."""
        found = self._api.containers(all=True, filters=self._marks.filters(service=service_id))
        return sorted(found, key=rank)

    def find(self, service_id: str) -> Summary | None:
        """The container of a service, as the engine lists it."""
        found = self.of(service_id)
        return found[-1] if found else None

    def inspect(self, ref: str) -> Mapping[str, Any] | None:
        """All that the engine knows of a container; None if there is none."""
        try:
            inspected: Mapping[str, Any] = self._api.inspect_container(ref)
        except APIError as error:
            if status(error) == 404:
                return None
            raise
        return inspected

    def look(self, ref: str) -> Instance | None:
        """A container as it is now; None if there is none."""
        return self.observation.look(ref)

    def created(self, spec: ServiceSpec) -> Instance:
        """The container that fits: the one that is there, or a new one.

        Raises:
            NotOurs: its name belongs to somebody else's container.
            PolicyDenied, StartFailed: a new one may not or cannot be made; what is there stays.
        """
        deadline = time.monotonic() + self._client.timeout_s
        while time.monotonic() < deadline:
            found = self.find(spec.id)
            instance = self.observation.instance(found, _JUST_MADE) if found else self._make(spec)
            if instance and _fits(instance, spec) and self._attachments.stand(instance, spec):
                return instance
            if instance and instance.ref:
                self._give_way(instance.ref, spec)
        raise StartFailed(f"{spec.id}: its container keeps being changed by others", hint="try again")

    def to_start(self, spec: ServiceSpec) -> Instance:
        """The same for a start, which mostly follows the making at once. Raises what `created` does."""
        at, fresh = self._fresh.pop(spec.id, (0.0, None))
        # Good once: if it is gone by now, the engine says so, and the next look is a real one.
        if fresh is not None and fresh.spec_hash == spec.hash() and time.monotonic() - at < _JUST_MADE.total_seconds():
            return fresh
        return self.created(spec)

    def replaced(self, spec: ServiceSpec) -> Instance:
        """The container of this very spec: the one that is there, or a new one beside what else is there, with the
        anonymous volumes of that: what its image keeps there outlives an update, as with Compose.

        Raises:
            NotOurs: its name belongs to somebody else's container.
            PolicyDenied, StartFailed: a new one may not or cannot be made; what is there stays.
        """
        deadline = time.monotonic() + self._client.timeout_s
        while time.monotonic() < deadline:
            listed = self.of(spec.id)
            same = [each for each in listed if self._marks.hash_of(each.get("Labels")) == spec.hash()]
            beside = self._marks.replacement_name(spec) if listed else None
            instance = self.look(str(same[-1]["Id"])) if same else self._make(spec, beside, listed)
            if instance and _fits(instance, spec) and self._attachments.stand(instance, spec):
                return instance
            if instance and instance.ref:
                self._give_way(instance.ref, spec)
        raise StartFailed(f"{spec.id}: its container keeps being changed by others", hint="try again")

    def _give_way(self, ref: str, spec: ServiceSpec) -> None:
        """Take away what does not fit. What must be refused is refused while there still is something."""
        self._refuse(spec)
        self._volumes.refuse_missing(spec)
        self._networks.refuse_missing(spec)
        with suppress(ServiceRunning):  # started meanwhile: then it is adopted
            self.discard(ref)

    def _refuse(self, spec: ServiceSpec) -> None:
        self._admission.refuse(spec)
        refuse_unknown(spec, self._api.api_version)

    def _make(self, spec: ServiceSpec, name: str | None = None, instead_of: Sequence[Summary] = ()) -> Instance | None:
        """Make the container; None if another one of that name was there first, and has to be looked at."""
        name = name or self._marks.container_name(spec.id)
        self._refuse(spec)
        self._volumes.have(spec, self._admission.real(spec))
        before = self.inspect(str(instead_of[-1]["Id"])) if instead_of else None
        try:
            with self._networks.held(spec) as networks:
                ref = self._make_in(networks, name, spec, before or {})
        except (APIError, StartFailed) as error:
            self._networks.release(names_of(spec))
            if not isinstance(error, APIError) or not (network_vanished(error) or status(error) == 409):
                raise
            if status(error) == 409:
                self._see_who_has(name, spec)
            self._networks.forget(names_of(spec))
            return None
        log.info("container.created", service=spec.id, container=ref[:12])
        made = self.observation.made(ref, spec.id, spec.hash())
        if not instead_of and not services_named(spec.container, spec.network_mode):
            self._fresh[spec.id] = time.monotonic(), made
        return made

    def _make_in(self, networks: Mapping[str, Joined], name: str, spec: ServiceSpec, before: Mapping[str, Any]) -> str:
        attached = self._attachments.of(spec)
        config = container_config(spec, self._marks, networks, attached, self._admission.real(spec))
        keep_anonymous(config, before)
        before_effect()
        ref = str(self._api.create_container_from_config(config, name, spec.container.get("platform"))["Id"])
        try:
            for further in list(networks.values())[1:]:
                self._connect(ref, further.network_id, endpoint(spec, further, attached, first=False))
        except APIError:
            self.discard(ref)
            raise
        return ref

    def _connect(self, ref: str, network_id: str, how: Mapping[str, Any]) -> None:
        # docker-py's own call leaves out some of what an endpoint may be.
        body = {"Container": ref, "EndpointConfig": how}
        self._client.request("POST", f"/networks/{network_id}/connect", json=body)

    def _see_who_has(self, name: str, spec: ServiceSpec) -> None:
        time.sleep(_PAUSE_S)  # a removal gives the name back a moment after the container is gone
        taken = self.inspect(name)
        if taken is None:
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

    def discard(self, ref: str, volumes: bool = False) -> None:
        """Remove a container that does not run, and wait until it is gone; with `volumes`, its nameless ones as well.

        Raises:
            ServiceRunning: it runs.
        """
        deadline = time.monotonic() + self._client.timeout_s
        self.before_removal(ref)
        while time.monotonic() < deadline:
            before_effect()
            try:
                self._api.remove_container(ref, v=volumes)
            except APIError as error:
                if status(error) == 404:
                    return
                if still_runs(error):
                    raise ServiceRunning(f"the container {ref[:12]} runs", hint="stop it first") from error
                if not removal_in_progress(error):
                    raise
                time.sleep(_PAUSE_S)
                continue
            return
        raise TimedOut(f"the container {ref[:12]} is being removed for too long", hint="look at the engine's log")

    def undo(self, instance: Instance, spec: ServiceSpec, also_exited: bool) -> bool:
        """After a failed start: take away what never ran, and the network if it was made for that.

        True if it runs: another one's start of the same container came through.
        """
        try:
            now = self.look(instance.ref or "")
            if now is None or now.alive or not now.ref:
                return bool(now)
            if now.phase is Phase.CREATED or also_exited:
                self.discard(now.ref)
                self._networks.forget(names_of(spec))
                self._networks.release(names_of(spec))
        except (ClosError, APIError) as error:
            # The failed start is the error that counts; what is left is adopted or replaced by the next.
            log.warning("container.left", service=spec.id, container=instance.ref, why=reason(str(error)))
        return False


def _fits(instance: Instance, spec: ServiceSpec) -> bool:
    """Whether this container can stand for the service. One that runs is never taken away: that is drift."""
    if instance.alive:
        return True
    broken = instance.detail is not None and instance.phase is Phase.CREATED
    return instance.spec_hash == spec.hash() and not broken and instance.detail not in ("removing", "dead")

"""A group's network: there from its first container to its last (an engine has room for about thirty).

Several threads and processes make and remove at once, and the engine allows two networks of one name. No lock
spans processes: whoever makes one looks again and keeps the oldest, containers name a network by its id, and a
start that finds its network gone makes its container anew (`docker_engine.start`). So all ends with one network,
also where a process died in the middle holding whatever lock there might have been.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from docker.errors import APIError

from domain.errors import StartFailed
from domain.specs import ServiceSpec
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_endpoints import Joined
from workers.runtimes.docker_errors import reason, status
from workers.runtimes.docker_names import Marks, slug
from workers.runtimes.docker_network_names import Wanted, only_joined, wanted
from workers.runtimes.fence import on_whose_behalf

log = structlog.get_logger()
# How often one is made again that another process took for unused.
_ROUNDS = 5
_SEEN_S = 1.0


def _described(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine is told of a new network beside its name and labels."""
    found: dict[str, Any] = {"driver": definition.get("driver") or "bridge"}
    if options := definition.get("driver_opts"):
        found["options"] = {name: str(value) for name, value in options.items()}
    found |= {name: True for name in ("internal", "attachable", "enable_ipv6") if definition.get(name)}
    if ipam := {name: each for name, each in (definition.get("ipam") or {}).items() if each}:
        pools = ({_POOL[name]: each for name, each in pool.items() if each} for pool in ipam.get("config") or ())
        options = {name: str(value) for name, value in (ipam.get("options") or {}).items()}
        found["ipam"] = {"Driver": ipam.get("driver") or "default", "Config": list(pools), "Options": options}
    return found


_POOL = {"subnet": "Subnet", "gateway": "Gateway", "ip_range": "IPRange", "aux_addresses": "AuxiliaryAddresses"}


class Networks:
    """Makes, finds and removes the networks of this installation."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks
        self._lock = threading.Lock()
        # Networks for which a container is being made just now: they stay, though none uses them yet.
        self._awaited: Counter[str] = Counter()
        # What was seen of a network a moment ago, by its name: until when that counts, as what, and its id.
        self._seen: dict[str, tuple[float, object, Wanted, str]] = {}

    @contextmanager
    def held(self, spec: ServiceSpec) -> Iterator[dict[str, Joined]]:
        """The service's networks by logical name, made where missing; they stay inside the block.

        Raises:
            docker.errors.APIError: the engine refused one.
            StartFailed: one that others make is not there, or one that is used is defined otherwise by now.
        """
        networks = wanted(spec)
        nameless = only_joined(spec)
        with self._lock:
            self._awaited.update(networks.keys())
        try:
            yield {
                name: Joined(self._ensure(name, network), network.key, name not in nameless)
                for name, network in networks.items()
            }
        finally:
            with self._lock:
                self._awaited.subtract(networks.keys())

    def refuse_missing(self, spec: ServiceSpec) -> None:
        """Raises: StartFailed: a network that others make is not there. Nothing is made."""
        for name, network in wanted(spec).items():
            if network.external and not self._named(name) and not self._ours(name):
                raise _missing(name, network)

    def release(self, names: Iterable[str], group: str | None = None) -> None:
        """Remove those of ours that no container of ours refers to, running or not: among `names`, and all of `group`.

        A network's one owner is the group that its label names: so one goes too that the group's services have left,
        or that is no more in its definition.
        """
        wanted = {name for name in names if name}
        if not wanted and group is None:
            return
        name_of, group_of = self._marks.label("network"), self._marks.label("group")
        with self._lock:
            kept = self._used() | {name for name, count in self._awaited.items() if count > 0}
            for network in self._client.api().networks(filters=self._marks.filters()):
                labels = network.get("Labels") or {}
                name = labels.get(name_of, "")
                if name not in kept and (name in wanted or (group is not None and labels.get(group_of) == group)):
                    self._seen.pop(name, None)
                    self._remove(network["Id"])

    def _used(self) -> set[str]:
        containers = self._client.api().containers(all=True, filters=self._marks.filters())
        label = self._marks.label("networks")
        return {name for each in containers for name in ((each.get("Labels") or {}).get(label) or "").split(",")}

    def _ours(self, name: str) -> list[Mapping[str, Any]]:
        found = self._client.api().networks(filters=self._marks.filters(network=name))
        return sorted(found, key=lambda network: (network.get("Created", ""), network["Id"]))

    def forget(self, names: Iterable[str]) -> None:
        """Look at these again: one of them is not there any more."""
        with self._lock:
            for name in names:
                self._seen.pop(name, None)

    def _ensure(self, name: str, network: Wanted) -> str:
        with self._lock:
            whose = on_whose_behalf()
            until, by, as_what, network_id = self._seen.get(name, (0.0, None, None, ""))
            # A group of thirty asks thirty times at once. What an earlier operation saw does not count: another process
            # may have removed it since, and a container made on it would have to be made twice.
            if whose is None or by is not whose or time.monotonic() >= until or as_what != network:
                network_id = self._have(name, network)
                self._seen[name] = time.monotonic() + _SEEN_S, whose, network, network_id
            return network_id

    def _have(self, name: str, network: Wanted) -> str:
        ours = self._ours(name)
        if ours and self._is_as_defined(name, ours[0], network):
            return str(ours[0]["Id"])
        docker_name = name
        if foreign := self._named(name):
            if not network.owned and not self._of_another(name, foreign):
                # The service names a network that somebody else made: joined, never removed.
                return str(foreign["Id"])
            docker_name = f"{name}-{slug(self._marks.instance_id[:8])}"
        if network.external:
            raise _missing(name, network)
        for _ in range(_ROUNDS):
            self._make(docker_name, name, network)
            if (kept := self._keep_oldest(name)) is not None:
                return kept
        raise StartFailed(f"network {name} was removed while it was made", hint="try again")

    def _is_as_defined(self, name: str, there: Mapping[str, Any], network: Wanted) -> bool:
        """Whether the network that is there can be joined. One that nobody uses is removed if it is not as defined."""
        if network.key is None or (there.get("Labels") or {}).get(self._marks.label("like"), "") == (
            network.fingerprint()
        ):
            return True
        if name in self._used() or self._awaited[name] > 1:
            raise StartFailed(
                f"network {name} of group {network.group} is in use, and is defined otherwise by now",
                hint=f"stop and remove what uses it, then start again: clos stop {network.group}",
                network=name,
            )
        self._remove(there["Id"])
        return False

    def _of_another(self, name: str, network: Mapping[str, Any]) -> bool:
        """Whether another CLOS made it for a group of its own: those services are none of ours."""
        labels = network.get("Labels") or {}
        made_by_clos = name.startswith("clos-") and self._marks.label("network") in labels
        return made_by_clos and not self._marks.ours(labels)

    def _named(self, name: str) -> Mapping[str, Any] | None:
        # The engine's filter finds parts of names, too.
        found = self._client.api().networks(names=[name])
        return next((each for each in found if each.get("Name") == name), None)

    def _make(self, docker_name: str, name: str, network: Wanted) -> None:
        labels = {key: str(value) for key, value in (network.definition.get("labels") or {}).items()} | {
            self._marks.label("instance"): self._marks.instance_id,
            self._marks.label("group"): network.group,
            self._marks.label("network"): name,
        }
        if fingerprint := network.fingerprint():
            labels[self._marks.label("like")] = fingerprint
        try:
            self._client.api().create_network(
                docker_name, check_duplicate=True, labels=labels, **_described(network.definition)
            )
        except APIError as error:
            # Another process of ours was quicker: its network is found by label.
            if status(error) != 409 or "already exists" not in reason(error):
                raise
            if not self._ours(name):
                raise
        log.info("network.created", network=docker_name, group=network.group)

    def _keep_oldest(self, name: str) -> str | None:
        """Of twins the oldest stays; None where another process has removed what was made just now."""
        found = self._ours(name)
        if not found:
            return None
        for twin in found[1:]:
            self._remove(twin["Id"])
        return str(found[0]["Id"])

    def _remove(self, network_id: str) -> None:
        try:
            self._client.api().remove_network(network_id)
        except APIError as error:
            # Gone already, or somebody else's container has joined it: then it stays.
            if status(error) not in (403, 404, 409) and "active endpoints" not in reason(error):
                raise
            log.info("network.kept", network=network_id, why=reason(error))


def _missing(name: str, network: Wanted) -> StartFailed:
    return StartFailed(
        f"network {name} is external to group {network.group}, and there is none",
        hint=f"make it (`docker network create {name}`), or leave `external` out: then CLOS makes it",
        network=name,
    )

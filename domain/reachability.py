"""How one service reaches another: the host and port that are right where it runs, or why there are none.

A container finds another one by its alias and the port inside; what runs on the host is found there; and between a
container and the host stands the host's gateway, behind which only some addresses listen.
"""

import ipaddress
from dataclasses import dataclass, replace

from domain.specs import PortRequest, RuntimeKind, ServiceSpec

GATEWAY = "host.docker.internal"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to call, not to bind
_LOOPBACK = "127.0.0.1"
# Modes in which a container is not in its group's network; `default` is the engine's own bridge.
_ELSEWHERE = ("host", "none", "default")


@dataclass(frozen=True, slots=True)
class Provider:
    """What has to be known of a service to reach it."""

    id: str
    name: str
    group: str
    runtime: RuntimeKind = RuntimeKind.DOCKER
    network_mode: str = "bridge"
    network_name: str = ""
    ports: tuple[PortRequest, ...] = ()

    @property
    def bridged(self) -> bool:
        """Whether it is a container in its group's network."""
        return self.runtime is RuntimeKind.DOCKER and self.network_mode not in _ELSEWHERE

    @property
    def isolated(self) -> bool:
        """Whether it is a container without any network."""
        return self.runtime is RuntimeKind.DOCKER and self.network_mode == "none"


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who wants to reach others.

    `crowded`: in a network of its own, other groups' services may have names as well.
    """

    id: str
    group: str
    runtime: RuntimeKind = RuntimeKind.DOCKER
    network_mode: str = "bridge"
    crowded: bool = False

    @property
    def on_host(self) -> bool:
        """Whether it sees the host's own network."""
        return self.runtime is not RuntimeKind.DOCKER or self.network_mode == "host"

    @property
    def isolated(self) -> bool:
        """Whether it is a container without any network."""
        return self.runtime is RuntimeKind.DOCKER and self.network_mode == "none"

    @property
    def bridged(self) -> bool:
        """Whether it is a container in its group's network."""
        return self.runtime is RuntimeKind.DOCKER and self.network_mode not in _ELSEWHERE


@dataclass(frozen=True, slots=True)
class Address:
    """Where something answers. `port` is None where its spec has no such number."""

    host: str
    port: int | None = None

    def url(self) -> str:
        """As an http URL without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why there is no way. `host_ip` is where it listens, if another address would do."""

    why: str
    host_ip: str | None = None


def consumer_of(spec: ServiceSpec) -> Consumer:
    """A service as one that reaches others."""
    crowded = bool(spec.network_name or spec.networks or spec.container.get("networks"))
    return Consumer(spec.id, spec.group, spec.runtime, spec.network_mode, crowded)


def prober_of(consumer: Consumer) -> Consumer:
    """Who asks a service's health URL: a worker, on this host."""
    return replace(consumer, runtime=RuntimeKind.PROCESS)


def alias(name: str, group: str) -> str:
    """The name of a container that no other group's service has in the same network."""
    return f"{name}.{group}"


def address(consumer: Consumer, provider: Provider, port: PortRequest) -> Address | Unreachable:
    """Where that port of the provider answers its consumer."""
    inside = port.container_port or port.host_port
    if consumer.isolated and consumer.id == provider.id:
        return Address(_LOOPBACK, inside)
    for each in (consumer, provider):
        if each.isolated:
            return Unreachable(f"{each.id} has no network (network_mode: none)")
    if consumer.on_host:
        host = port.host_ip or _LOOPBACK
        return Address(_EVERYWHERE.get(host, host), port.host_port)
    if not (provider.bridged and consumer.bridged):
        return _beyond_gateway(provider, port)
    if consumer.crowded or consumer.group != provider.group:
        return Address(alias(provider.name, provider.group), inside)
    return Address(provider.name, inside)


def _beyond_gateway(provider: Provider, port: PortRequest) -> Address | Unreachable:
    """From a container to what listens on the host."""
    host_ip = port.host_ip or _LOOPBACK
    if host_ip in _EVERYWHERE:
        return Address(GATEWAY, port.host_port)
    given = ipaddress.ip_address(host_ip)
    plain = getattr(given, "ipv4_mapped", None) or given
    if plain.is_loopback:
        return Unreachable(f"{provider.id} listens on {host_ip} only, where no container comes", host_ip)
    if plain.version == 6:
        return Unreachable(f"{provider.id} listens on {host_ip} only, and containers' networks have no IPv6", host_ip)
    # It listens on this address alone, so not on the gateway's.
    return Address(str(plain), port.host_port)

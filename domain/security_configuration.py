"""What CLOS is told of its own safety: logins, limits, and what containers may have of this machine."""

import posixpath
from dataclasses import dataclass

from domain.bind_policy import BindPolicy
from domain.configuration_keys import DURATION, SWITCH, TEXT, TEXTS, Whole, key
from domain.container_policy import ContainerPolicy


@dataclass(frozen=True, slots=True)
class Security:
    """`rate_limit` and `login_rate_limit` are requests per minute and principal; 0 is none."""

    access_ttl_s: float = key(900.0, DURATION, "jwt.access_ttl")
    refresh_ttl_s: float = key(7 * 86400.0, DURATION, "jwt.refresh_ttl")
    rate_limit: int = key(60_000, Whole(0, 10_000_000), "rate_limit.requests_per_minute")
    login_rate_limit: int = key(10, Whole(0, 10_000), "rate_limit.logins_per_minute")
    tls_cert: str | None = key(None, TEXT, "tls.cert")
    tls_key: str | None = key(None, TEXT, "tls.key")
    audit_log: bool = key(True, SWITCH)
    # What containers may have beside the harmless (`domain/container_policy.py`).
    containers_privileged: bool = key(False, SWITCH, "containers.privileged")
    containers_host_network: bool = key(False, SWITCH, "containers.host_network")
    containers_host_namespaces: bool = key(False, SWITCH, "containers.host_namespaces")
    containers_docker_socket: bool = key(False, SWITCH, "containers.docker_socket")
    containers_devices: bool = key(False, SWITCH, "containers.devices")
    containers_capabilities: tuple[str, ...] = key((), TEXTS, "containers.capabilities")
    containers_security_opt: bool = key(False, SWITCH, "containers.security_opt")
    containers_sysctls: bool = key(False, SWITCH, "containers.sysctls")
    containers_cgroup_parent: bool = key(False, SWITCH, "containers.cgroup_parent")
    containers_runtimes: tuple[str, ...] = key((), TEXTS, "containers.runtimes")
    containers_volume_drivers: tuple[str, ...] = key((), TEXTS, "containers.volume_drivers")
    containers_network_drivers: tuple[str, ...] = key((), TEXTS, "containers.network_drivers")
    containers_network_options: tuple[str, ...] = key((), TEXTS, "containers.network_options")
    containers_volume_types: tuple[str, ...] = key((), TEXTS, "containers.volume_types")
    containers_log_drivers: tuple[str, ...] = key((), TEXTS, "containers.log_drivers")
    containers_bind_roots: tuple[str, ...] = key((), TEXTS, "containers.bind_roots")

    def container_policy(self, clos_home: str, user_home: str, engine: str) -> ContainerPolicy:
        """What containers may have. `user_home` is of the user whom CLOS runs as, `engine` the engine's address."""
        socket = engine.removeprefix("unix://") if engine.startswith("unix://") else ""
        roots = (
            posixpath.join(user_home, root[2:]) if root.startswith("~/") else root
            for root in self.containers_bind_roots
        )
        return ContainerPolicy(
            privileged=self.containers_privileged,
            host_network=self.containers_host_network,
            host_namespaces=self.containers_host_namespaces,
            devices=self.containers_devices,
            capabilities=frozenset(self.containers_capabilities),
            security_opt=self.containers_security_opt,
            sysctls=self.containers_sysctls,
            cgroup_parent=self.containers_cgroup_parent,
            runtimes=self.containers_runtimes,
            volume_drivers=self.containers_volume_drivers,
            network_drivers=self.containers_network_drivers,
            network_options=self.containers_network_options,
            volume_types=self.containers_volume_types,
            log_drivers=self.containers_log_drivers,
            binds=BindPolicy(
                roots=tuple(roots),
                home=user_home,
                kept=(clos_home,),
                sockets=(socket,) if socket else (),
                docker_socket=self.containers_docker_socket,
            ),
        )

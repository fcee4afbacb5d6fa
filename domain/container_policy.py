"""What containers may take of this machine: everything that comes near to being root on it is refused, unless the
administrator allows it (`security.containers` in the configuration).

One validator for all: the API asks it when something is defined, the worker again before it makes, builds or starts
anything, since definitions may be older than the policy and paths may have become links (pitfalls 7.1, 7.4).
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain import option_policy
from domain.bind_policy import BindPolicy, Denial, Real, unresolved
from domain.container import capability
from domain.errors import ValidationFailed
from domain.specs import ServiceSpec

# What every container has by itself, and what harms nobody else.
HARMLESS_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "MKNOD", "NET_BIND_SERVICE",
        "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE",
    )
)  # fmt: skip
_HARMLESS_OPTIONS = ("no-new-privileges", "seccomp=builtin", "apparmor=docker-default")
_KEY = "security.containers"


@dataclass(frozen=True, slots=True)
class Violation:
    """What is not allowed: where it stands in the service, why, and which key of the configuration allows it."""

    path: str
    reason: str
    allow: str

    def as_dict(self) -> dict[str, str]:
        """As a fact of an error."""
        return {"path": self.path, "reason": self.reason, "allow": self.allow}


class PolicyDenied(ValidationFailed):
    """The administrator's policy forbids what a container asks for; `violations` names each."""

    code = "policy_denied"

    def __init__(self, service_id: str, violations: Sequence[Violation]) -> None:
        errors: dict[str, list[str]] = {}
        for each in violations:
            errors.setdefault(each.path, []).append(f"{each.reason} ({each.allow})")
        told = "; ".join(f"{each.path}: {each.reason}" for each in violations[:5])
        super().__init__(errors, f"{service_id} asks for what the policy forbids: {told}")
        self.hint = "leave it out, or have an administrator allow it: " + "; ".join(
            dict.fromkeys(each.allow for each in violations)
        )
        self.facts = {"service_id": service_id, "violations": [each.as_dict() for each in violations]}

    @classmethod
    def of_group(cls, group: str, found: Mapping[str, Sequence[Violation]]) -> "PolicyDenied":
        """Of several services of a group, by their names: paths begin with `services.<name>`."""
        named = [
            Violation(f"services.{name}.{each.path}", each.reason, each.allow)
            for name, wrong in found.items()
            for each in wrong
        ]
        made = cls(f"group {group}", named)
        made.facts = {"group": group, "violations": [each.as_dict() for each in named]}
        return made


@dataclass(frozen=True, slots=True)
class ContainerPolicy:
    """What is allowed beside the harmless. `binds` says which folders of the host may be mounted."""

    privileged: bool = False
    host_network: bool = False
    host_namespaces: bool = False
    devices: bool = False
    capabilities: frozenset[str] = frozenset()
    security_opt: bool = False
    sysctls: bool = False
    cgroup_parent: bool = False
    runtimes: tuple[str, ...] = ()
    volume_drivers: tuple[str, ...] = ()
    network_drivers: tuple[str, ...] = ()
    network_options: tuple[str, ...] = ()
    volume_types: tuple[str, ...] = ()
    log_drivers: tuple[str, ...] = ()
    binds: BindPolicy = field(default_factory=BindPolicy)


def violations(spec: ServiceSpec, policy: ContainerPolicy, real: Real = unresolved) -> list[Violation]:
    """All that a service asks for and may not have. `real` follows links; without, paths are taken as written."""
    if spec.runtime != "docker":
        return []
    parts = (_of_the_machine, _of_networks, _of_volumes, _of_builds)
    found = [each for part in parts for each in part(spec, policy)]
    return [Violation(path, reason, f"{_KEY}.{key}") for path, reason, key in found] + [
        Violation(path, denial.reason, denial.allow)
        for path, source, read_only, just_read in sources(spec)
        if (denial := _denial(spec, policy, source, real, read_only=read_only, just_read=just_read))
    ]


def refuse(spec: ServiceSpec, policy: ContainerPolicy, real: Real = unresolved) -> None:
    """Raises: PolicyDenied: it asks for what it may not have."""
    if found := violations(spec, policy, real):
        raise PolicyDenied(spec.id, found)


def _denial(
    spec: ServiceSpec, policy: ContainerPolicy, source: str, real: Real, *, read_only: bool, just_read: bool
) -> Denial | None:
    if just_read:
        return policy.binds.denial_of_reading(source, real)
    return policy.binds.denial(source, spec.directory, real, read_only=read_only)


_Found = Iterator[tuple[str, str, str]]


def _of_the_machine(spec: ServiceSpec, policy: ContainerPolicy) -> _Found:
    given = spec.container
    if given.get("privileged") and not policy.privileged:
        yield "container.privileged", "a privileged container is root on this machine", "privileged"
    if not policy.host_namespaces:
        yield from _of_namespaces(spec)
    if not policy.devices:
        for key in ("devices", "device_cgroup_rules", "gpus"):
            if given.get(key):
                yield f"container.{key}", "devices of this machine", "devices"
    allowed = HARMLESS_CAPABILITIES | {capability(name) for name in policy.capabilities}
    for place, name in enumerate(given.get("cap_add") or ()):
        if capability(name) not in allowed and "ALL" not in policy.capabilities:
            yield f"container.cap_add[{place}]", f"{capability(name)} reaches beyond the container", "capabilities"
    for place, option in enumerate(given.get("security_opt") or ()):
        if not policy.security_opt and not _is_harmless(option):
            yield f"container.security_opt[{place}]", f"{option[:40]} takes protection away", "security_opt"
    for name in given.get("sysctls") or ():
        if not policy.sysctls and str(name).startswith("kernel."):
            yield f"container.sysctls.{name}", "a setting of the kernel", "sysctls"
    yield from option_policy.of_logging(given.get("logging") or {}, policy.log_drivers)
    if given.get("cgroup_parent") and not policy.cgroup_parent:
        yield "container.cgroup_parent", "its limits would be another's", "cgroup_parent"
    if given.get("runtime") not in (None, "runc", *policy.runtimes):
        yield "container.runtime", f"the runtime {given['runtime']} is a program that runs as root", "runtimes"


def _of_namespaces(spec: ServiceSpec) -> _Found:
    given = spec.container
    modes = {f"container.{key}": given.get(key) or "" for key in ("pid", "ipc", "uts", "userns_mode", "cgroup")}
    for path, mode in ({"network_mode": spec.network_mode} | modes).items():
        if mode == "host" and path != "network_mode":
            yield path, "the host's own", "host_namespaces"
        if mode.startswith("container:"):
            yield path, "that of a container which is not of this group", "host_namespaces"
    for place, each in enumerate(given.get("volumes_from") or ()):
        if each.startswith("container:"):
            yield (
                f"container.volumes_from[{place}]",
                "those of a container which is not of this group",
                "host_namespaces",
            )


def _is_harmless(option: str) -> bool:
    kind, _, value = option.replace(":", "=", 1).partition("=")
    if kind == "label":
        return value != "disable"
    return option.replace(":", "=", 1).startswith(_HARMLESS_OPTIONS)


def _of_networks(spec: ServiceSpec, policy: ContainerPolicy) -> _Found:
    defined = spec.definitions.get("networks") or {}
    if not policy.host_network:
        yield from _of_the_hosts_network(spec, defined)
    for name, definition in defined.items():
        driver = definition.get("driver") or "bridge"
        if driver not in ("bridge", "overlay", *policy.network_drivers):
            yield f"networks.{name}.driver", f"the driver {driver} reaches the host's own network", "network_drivers"
        yield from option_policy.of_network(name, definition, policy.network_options)


def _of_the_hosts_network(spec: ServiceSpec, defined: Mapping[str, Any]) -> _Found:
    if spec.network_mode == "host":
        yield "network_mode", "the host's network: all that listens on 127.0.0.1", "host_network"
    named = {name: str((defined.get(name) or {}).get("name") or name) for name in (*spec.networks, *_attached(spec))}
    for name, engine_name in (named | {"network_name": spec.network_name}).items():
        if engine_name == "host":
            yield f"networks.{name}", "the host's network: all that listens on 127.0.0.1", "host_network"


def _of_builds(spec: ServiceSpec, policy: ContainerPolicy) -> _Found:
    network = str((spec.build or {}).get("network") or "")
    if network == "host" and not policy.host_network:
        yield "build.network", "the host's network: all that listens on 127.0.0.1", "host_network"
    if network.startswith("container:") and not policy.host_namespaces:
        yield "build.network", "that of a container which is not of this group", "host_namespaces"


def _attached(spec: ServiceSpec) -> Mapping[str, Any]:
    return spec.container.get("networks") or {}


def _of_volumes(spec: ServiceSpec, policy: ContainerPolicy) -> _Found:
    for name, definition in (spec.definitions.get("volumes") or {}).items():
        driver = definition.get("driver") or "local"
        if driver not in ("local", *policy.volume_drivers):
            yield f"volumes.{name}.driver", f"the driver {driver} is a program that runs as root", "volume_drivers"
        yield from option_policy.of_volume(name, definition, policy.volume_types)


def sources(spec: ServiceSpec) -> Iterator[tuple[str, str, bool, bool]]:
    """Every path of the host that a service would have: where it stands, the path, whether it is mounted to be read
    only, whether it is just read (a build) and not mounted."""
    for place, volume in enumerate(spec.volumes):
        source, _, rest = volume.partition(":")
        if source.startswith("/") and rest:
            yield f"volumes[{place}]", source, rest.endswith(":ro"), False
    for place, each in enumerate(spec.container.get("volumes") or ()):
        if each["type"] == "bind":
            yield f"container.volumes[{place}]", each["source"], bool(each.get("read_only")), False
    for kind in ("secrets", "configs"):
        for place, each in enumerate(spec.container.get(kind) or ()):
            if each.get("file") is not None:
                yield f"container.{kind}[{place}].file", each["file"], True, False
    for name, definition in (spec.definitions.get("volumes") or {}).items():
        device = str((definition.get("driver_opts") or {}).get("device") or "")
        # The local driver mounts whatever it is told to: a bind mount in disguise (GHSA-5fxq-qcf3-244w).
        if device.startswith("/"):
            yield f"volumes.{name}.driver_opts.device", device, False, False
    for key, path in _read_for_builds(spec):
        yield key, path, True, True


def _read_for_builds(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    build = spec.build or {}
    context = str(build.get("context") or "")
    if context.startswith("/"):
        yield "build.context", context
        dockerfile = str(build.get("dockerfile") or "")
        if dockerfile:
            yield "build.dockerfile", posixpath.join(context, dockerfile)

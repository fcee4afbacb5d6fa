"""The keys that Compose knows, place by place, so that an unknown one is named with a guess at what was meant.

Taken from the Compose specification's schema as Compose v5.6.1 carries it. Compose refuses an unknown key too, but
says neither the line nor the key that was meant.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

# A place maps a key to the place of its value: a mapping of known keys, `[place]` for a list of such or a mapping of
# names to such, None where anything may stand.
Place = Any


def _plain(*names: str) -> dict[str, Place]:
    return {name: None for line in names for name in line.split()}


_DEVICE = _plain("capabilities count device_ids driver options")
_MOUNT = _plain("target uid gid mode source")
_BUILD = _plain(
    "additional_contexts args cache_from cache_to context dockerfile dockerfile_inline entitlements extra_hosts",
    "isolation labels network no_cache no_cache_filter platforms privileged provenance pull sbom secrets shm_size ssh",
    "tags target ulimits",
)
_ROLLOUT = _plain("delay failure_action max_failure_ratio monitor order parallelism")
_DEPLOY = _plain("endpoint_mode labels mode replicas") | {
    "placement": _plain("constraints max_replicas_per_node preferences"),
    "resources": {
        "limits": _plain("cpus memory pids"),
        "reservations": _plain("cpus generic_resources memory") | {"devices": [_DEVICE]},
    },
    "restart_policy": _plain("condition delay max_attempts window"),
    "rollback_config": _ROLLOUT,
    "update_config": _ROLLOUT,
}
_VOLUME_MOUNT = _plain("consistency read_only source target type") | {
    "bind": _plain("create_host_path propagation recursive selinux"),
    "volume": _plain("labels nocopy subpath"),
    "tmpfs": _plain("mode size"),
    "image": _plain("subpath"),
}
_HOOK = _plain("command environment privileged user working_dir per_replica")
SERVICE: dict[str, Place] = _plain(
    "annotations attach cap_add cap_drop cgroup cgroup_parent command container_name cpu_count cpu_percent cpu_period",
    "cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset develop device_cgroup_rules dns dns_opt",
    "dns_search domainname entrypoint env_file environment expose external_links extra_hosts group_add hostname image",
    "init ipc isolation label_file labels links mac_address mem_limit mem_reservation mem_swappiness memswap_limit",
    "models network_mode oom_kill_disable oom_score_adj pid pids_limit platform privileged profiles pull_policy",
    "pull_refresh_after read_only restart runtime scale security_opt shm_size stdin_open stop_grace_period stop_signal",
    "storage_opt sysctls tmpfs tty use_api_socket user userns_mode uts volumes_from working_dir",
) | {
    "blkio_config": _plain("device_read_bps device_read_iops device_write_bps device_write_iops weight weight_device"),
    "build": _BUILD,
    "configs": [_MOUNT],
    "credential_spec": _plain("config file registry"),
    "depends_on": [_plain("condition required restart")],
    "deploy": _DEPLOY,
    "devices": [_plain("permissions source target")],
    "extends": _plain("file service"),
    "gpus": [_DEVICE],
    "healthcheck": _plain("disable interval retries start_interval start_period test timeout"),
    "logging": _plain("driver options"),
    "networks": [
        _plain(
            "aliases driver_opts gw_priority interface_name ipv4_address ipv6_address link_local_ips mac_address",
            "priority",
        )
    ],
    "ports": [_plain("app_protocol host_ip mode name protocol published target")],
    "post_start": [_HOOK],
    "pre_start": [_HOOK],
    "pre_stop": [_HOOK],
    "provider": _plain("options type"),
    "secrets": [_MOUNT],
    "ulimits": [_plain("hard soft")],
    "volumes": [_VOLUME_MOUNT],
}
NETWORK = _plain("attachable driver driver_opts enable_ipv4 enable_ipv6 external internal labels name") | {
    "ipam": _plain("driver options") | {"config": [_plain("aux_addresses gateway ip_range subnet")]}
}
VOLUME = _plain("driver driver_opts external labels name")
PROJECT: dict[str, Place] = _plain("version name jobs") | {
    "include": [_plain("env_file path project_directory")],
    "services": [SERVICE],
    "networks": [NETWORK],
    "volumes": [VOLUME],
    "secrets": [_plain("driver driver_opts environment external file labels name template_driver")],
    "configs": [_plain("content environment external file labels name template_driver")],
    "models": [_plain("context_size model name runtime_flags")],
}
Path = tuple[str | int, ...]


def unknown(tree: Any, place: Place = None, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every key that Compose does not know, by its path, with the reason as a sentence."""
    place = PROJECT if place is None and not path else place
    if place is None:
        return
    if isinstance(place, list):
        inner = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
        for key, value in inner:
            if not (isinstance(key, str) and key.startswith("x-")) and isinstance(value, Mapping):
                yield from unknown(value, place[0], (*path, key))
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if key in place:
                yield from unknown(value, place[key], (*path, key)) if place[key] is not None else ()
            elif not key.startswith("x-") and key != "<<":
                yield (*path, key), _guess(key, place)


def _guess(key: str, place: Mapping[str, Place]) -> str:
    near = difflib.get_close_matches(key, list(place), 1)
    return f"unknown key; did you mean {near[0]!r}?" if near else "unknown key; Compose has none of that name here"


def written(path: Path) -> str:
    """A path as text: `services.web.ports[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text

"""Every key of a Compose service, network and volume: what it takes, which field has it already, or why not."""

from domain.shapes import Shape, duration, either, flag, list_of, map_of, one_of, optional, record, size, text, whole

_NAME = text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, _ . -", 200)
_PATH = text(r"/[^\x00]*", "an absolute path", 4096)
_TEXT = text()
_WORD = text(r"[^\x00\s]+", "a word without spaces", 4096)
_TEXTS = list_of(_TEXT)
_ADDRESS = text(r"[0-9A-Fa-f:.]+", "an IP address", 45)
_MAC = text(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", "a MAC address such as 02:42:ac:11:65:43")
_SCALAR = either("a string or a whole number", _TEXT, whole(-(2**63)))
_OPTIONS = map_of(_SCALAR)
_MODE = either("an octal mode such as 0440", text("0?[0-7]{3,4}"), whole(0, 0o7777))
_PORT = text(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?", "a port such as 80 or 53/udp")
_CAPABILITY = text(r"[A-Za-z_]+", "a capability such as NET_ADMIN", 100)
# Compose prints these two with capital letters, and takes them in small ones.
_THROTTLED = list_of(
    either(
        "path and rate",
        record(("path", "rate"), path=_PATH, rate=size),
        record(("Path", "Rate"), Path=_PATH, Rate=size),
    )
)
_WEIGHED = list_of(
    either(
        "path and weight",
        record(("path", "weight"), path=_PATH, weight=whole(0, 1000)),
        record(("Path", "Weight"), Path=_PATH, Weight=whole(0, 1000)),
    )
)
_FILE = record(
    ("source",), source=_NAME, target=text(r"[^\x00]+", "a path"), uid=_SCALAR, gid=_SCALAR, mode=_MODE,
    file=_PATH, content=text(longest=500_000), environment=text(r"[A-Za-z_][A-Za-z0-9_.-]*", "a variable's name", 255),
)  # fmt: skip
_MOUNT = record(
    ("type", "target"),
    type=one_of("volume", "bind", "tmpfs", "image"),
    source=text(r"[^\x00]+", "a name or a path", 4096),
    target=text(r"/[^\x00:]*", "an absolute path without `:`", 4096),
    read_only=flag,
    consistency=_WORD,
    bind=record(
        create_host_path=flag, propagation=one_of("private", "rprivate", "shared", "rshared", "slave", "rslave"),
        recursive=one_of("enabled", "disabled", "writable", "readonly"), selinux=one_of("z", "Z"),
    ),
    volume=record(nocopy=flag, subpath=_TEXT, labels=_OPTIONS),
    tmpfs=record(size=size, mode=_MODE),
    image=record(subpath=_TEXT),
)  # fmt: skip
_ATTACHMENT = optional(
    record(
        aliases=list_of(_WORD), ipv4_address=_ADDRESS, ipv6_address=_ADDRESS, link_local_ips=list_of(_ADDRESS),
        mac_address=_MAC, driver_opts=_OPTIONS, priority=whole(-(2**31), 2**31), gw_priority=whole(-(2**31), 2**31),
        interface_name=_WORD,
    )
)  # fmt: skip

_NAMESPACE = text(
    r"host|private|shareable|none|(service|container):[A-Za-z0-9][A-Za-z0-9_.-]*", "host, service:<name> or the like"
)

KEYS: dict[str, Shape] = {
    "annotations": _OPTIONS,
    "blkio_config": record(
        weight=whole(0, 1000), weight_device=_WEIGHED,
        device_read_bps=_THROTTLED, device_read_iops=_THROTTLED, device_write_bps=_THROTTLED,
        device_write_iops=_THROTTLED,
    ),
    "cap_add": list_of(_CAPABILITY),
    "cap_drop": list_of(_CAPABILITY),
    "cgroup": one_of("host", "private"),
    "cgroup_parent": _WORD,
    "configs": list_of(_FILE),
    "cpu_period": whole(),
    "cpu_quota": whole(-1),
    "cpu_rt_period": whole(),
    "cpu_rt_runtime": whole(),
    "cpu_shares": whole(),
    "cpuset": text(r"[0-9,-]+", "a list of CPUs such as 0-2,4"),
    "device_cgroup_rules": list_of(text(r"[abc] (\d+|\*):(\d+|\*) [rwm]{1,3}", "a rule such as c 1:3 mr")),
    "devices": list_of(record(("source",), source=_WORD, target=_WORD, permissions=text("[rwm]{0,3}", "of r, w, m"))),
    "dns_opt": list_of(_WORD),
    "dns_search": list_of(_WORD),
    "domainname": _WORD,
    "entrypoint": list_of(_TEXT),
    "expose": list_of(either("a port such as 80 or 53/udp", _PORT, whole(1, 65535))),
    "extra_hosts": list_of(text(r"[^=:\s]+[=:]\S+", "as name=address")),
    "gpus": list_of(
        record(driver=_WORD, count=either("a number or all", one_of("all"), whole(-1)), device_ids=_TEXTS,
               capabilities=_TEXTS, options=_OPTIONS)
    ),
    "group_add": list_of(_SCALAR),
    "healthcheck": record(
        test=_TEXTS, interval=duration, timeout=duration, retries=whole(), start_period=duration,
        start_interval=duration, disable=flag,
    ),
    "hostname": _WORD,
    "init": flag,
    "ipc": _NAMESPACE,
    "isolation": one_of("default"),
    "links": list_of(text(r"[A-Za-z0-9][A-Za-z0-9_.-]*(:[^\s:]+)?", "as service or service:alias")),
    "logging": record(driver=_WORD, options=_OPTIONS),
    "mac_address": _MAC,
    "mem_limit": size,
    "mem_reservation": size,
    "mem_swappiness": whole(0, 100),
    "memswap_limit": size,
    "networks": map_of(_ATTACHMENT, 50),
    "oom_kill_disable": flag,
    "oom_score_adj": whole(-1000, 1000),
    "pid": _NAMESPACE,
    "pids_limit": whole(-1),
    "platform": _WORD,
    "privileged": flag,
    "pull_policy": one_of("always", "never", "missing", "if_not_present", "build"),
    "read_only": flag,
    "runtime": _WORD,
    "secrets": list_of(_FILE),
    "security_opt": list_of(
        text(
            r"(?!seccomp[=:](?!unconfined\Z|builtin\Z|\{))[^\x00]+",
            "an option; of a seccomp profile, its JSON and not its file", 500_000)
    ),
    "shm_size": size,
    "stdin_open": flag,
    "stop_signal": _WORD,
    "storage_opt": _OPTIONS,
    "sysctls": _OPTIONS,
    "tmpfs": list_of(text(r"/[^\x00]*", "as /path or /path:options", 4096)),
    "tty": flag,
    "ulimits": map_of(
        either("a number or soft and hard", whole(-1), record(soft=whole(-1), hard=whole(-1), single=whole(-1)))
    ),
    "userns_mode": one_of("host", ""),
    "uts": one_of("host", ""),
    "volumes": list_of(_MOUNT),
    "volumes_from": list_of(
        text(r"(container:)?[A-Za-z0-9][A-Za-z0-9_.-]*(:(ro|rw))?", "as service or container:name")
    ),
}  # fmt: skip

# What CLOS has a field of its own for.
FIELDS = {
    "build": "build", "command": "command", "cpus": "cpu_limit", "depends_on": "depends_on", "dns": "dns_servers",
    "dns_servers": "dns_servers", "env_file": "environment", "environment": "environment",
    "health_check": "health_check", "image": "image", "labels": "labels", "network_mode": "network_mode",
    "ports": "ports", "profiles": "tags", "restart": "restart_policy", "restart_policy": "restart_policy",
    "stop_grace_period": "stop_timeout", "stop_timeout": "stop_timeout", "user": "user",
    "working_dir": "working_dir", "cpu_limit": "cpu_limit", "memory_limit": "memory_limit",
}  # fmt: skip

_WINDOWS = "only Windows has it"
REFUSED = {
    "attach": "it says what a terminal shows, not what a container is",
    "container_name": "CLOS names its containers, so that two installations and a replacement never meet",
    "cpu_count": _WINDOWS,
    "cpu_percent": _WINDOWS,
    "credential_spec": _WINDOWS,
    "deploy": "its limits have keys of their own (cpu_limit, mem_limit, pids_limit …); the rest is a swarm's",
    "develop": "CLOS watches no files",
    "extends": "it is a way of writing: give what it comes to",
    "external_links": "names of containers that CLOS does not know: join their network instead",
    "label_file": "it is a way of writing: give `labels`",
    "models": "CLOS runs no models",
    "post_start": "CLOS runs no hooks in containers: make it the command's own work",
    "pre_start": "CLOS runs no hooks in containers: make it the command's own work",
    "pre_stop": "CLOS runs no hooks in containers: handle the stop signal",
    "provider": "it is a program that is no container",
    "scale": "a service is one instance: define further services",
    "use_api_socket": "it hands the Docker socket and the user's logins to the container",
    "volume_driver": "say it of the volume, in the group's `volumes`",
}

NETWORK = optional(
    record(
        name=text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a network's name", 200),
        driver=_WORD, driver_opts=_OPTIONS, external=flag, internal=flag, attachable=flag, enable_ipv4=flag,
        enable_ipv6=flag, labels=_OPTIONS,
        ipam=record(
            driver=_WORD, options=_OPTIONS,
            config=list_of(record(subnet=_WORD, gateway=_ADDRESS, ip_range=_WORD, aux_addresses=map_of(_ADDRESS))),
        ),
    )
)  # fmt: skip
VOLUME = optional(
    record(
        name=text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a volume's name", 200),
        driver=_WORD, driver_opts=_OPTIONS, external=flag, labels=_OPTIONS,
    )
)  # fmt: skip

"""What of the machine a container may use, as the engine is told. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from domain.shapes import as_whole
from domain.specs import ServiceSpec

_WHOLE = {
    "cpu_period": "CpuPeriod", "cpu_quota": "CpuQuota", "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime", "cpu_shares": "CpuShares", "mem_limit": "Memory",
    "mem_reservation": "MemoryReservation", "memswap_limit": "MemorySwap", "mem_swappiness": "MemorySwappiness",
    "pids_limit": "PidsLimit",
}  # fmt: skip
_AS_IT_IS = {
    "cgroup_parent": "CgroupParent", "cpuset": "CpusetCpus", "device_cgroup_rules": "DeviceCgroupRules",
    "oom_kill_disable": "OomKillDisable",
}  # fmt: skip
_THROTTLES = {
    "device_read_bps": "BlkioDeviceReadBps", "device_read_iops": "BlkioDeviceReadIOps",
    "device_write_bps": "BlkioDeviceWriteBps", "device_write_iops": "BlkioDeviceWriteIOps",
}  # fmt: skip


def resources_of(spec: ServiceSpec) -> dict[str, Any]:
    """The parts of a host configuration that say what it may use."""
    given = spec.container
    found: dict[str, Any] = {}
    if spec.cpu_limit:
        found["NanoCpus"] = int(spec.cpu_limit * 1_000_000_000)
    if spec.memory_limit:
        found["Memory"] = spec.memory_limit * 1024 * 1024
    found |= {name: as_whole(given[key]) for key, name in _WHOLE.items() if given.get(key) not in (None, "0", 0)}
    found |= {name: given[key] for key, name in _AS_IT_IS.items() if given.get(key)}
    for key, make in _PARTS.items():
        if given.get(key):
            found |= make(given[key])
    return found


def _blkio(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.get("weight"):
        found["BlkioWeight"] = as_whole(given["weight"])
    if weights := given.get("weight_device"):
        found["BlkioWeightDevice"] = [
            {"Path": _of(each, "path"), "Weight": _number(each, "weight")} for each in weights
        ]
    for key, name in _THROTTLES.items():
        if given.get(key):
            found[name] = [{"Path": _of(each, "path"), "Rate": _number(each, "rate")} for each in given[key]]
    return found


def _of(given: Mapping[str, Any], key: str) -> Any:
    """Compose prints these keys with a capital letter."""
    return given.get(key, given.get(key.capitalize()))


def _number(given: Mapping[str, Any], key: str) -> int | None:
    return as_whole(_of(given, key))


def _devices(given: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "Devices": [
            {
                "PathOnHost": each["source"],
                "PathInContainer": each.get("target") or each["source"],
                "CgroupPermissions": each.get("permissions") or "rwm",
            }
            for each in given
        ]
    }


def _gpus(given: list[Mapping[str, Any]]) -> dict[str, Any]:
    requests = []
    for each in given:
        count = -1 if each.get("count") == "all" else as_whole(each.get("count")) or 0
        capabilities = [*(each.get("capabilities") or ())]
        request: dict[str, Any] = {
            "Driver": each.get("driver") or "",
            "Count": count,
            "DeviceIDs": each.get("device_ids"),
            "Capabilities": [capabilities if "gpu" in capabilities else [*capabilities, "gpu"]],
            "Options": each.get("options"),
        }
        requests.append(request)
    return {"DeviceRequests": requests}


def ulimits(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Limits of a process as the engine's list."""
    found = []
    for name, limit in sorted(given.items()):
        both = limit if isinstance(limit, Mapping) else {"single": limit}
        single = as_whole(both.get("single")) or 0
        soft, hard = (as_whole(both.get(each)) or single for each in ("soft", "hard"))
        found.append({"Name": name, "Soft": soft, "Hard": hard})
    return found


_PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "blkio_config": _blkio, "devices": _devices, "gpus": _gpus, "ulimits": lambda given: {"Ulimits": ulimits(given)},
}  # fmt: skip

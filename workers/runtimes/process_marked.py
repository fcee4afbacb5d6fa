"""Processes with our mark, whoever started them, as definitions of services."""

import os
from collections.abc import Mapping
from typing import Any

from workers.runtimes import process_identity as processes
from workers.runtimes.process_command import INHERITED

# `sh -c SCRIPT clos-run INSTANCE SERVICE HASH LAUNCH EXIT FOLDER COMMAND…`
_FOLDER_AT, _COMMAND_AT = 9, 10


def find(instance_id: str, ref: str) -> processes.Marked | None:
    """The wrapper of that `pid:start_ticks`, if it runs and carries our mark."""
    return next((each for each in processes.marked(instance_id) if f"{each.pid}:{each.start_ticks}" == ref), None)


def describe(instance_id: str, ref: str) -> Mapping[str, Any]:
    """What a process would be as a service, as far as its command line and environment tell."""
    wrapper = find(instance_id, ref)
    argv = processes.read_bytes(f"{processes.PROC}/{wrapper.pid}/cmdline", 1024 * 1024) if wrapper else None
    if wrapper is None or argv is None:
        return {}
    parts = [part.decode("utf-8", "replace") for part in argv.split(b"\0")[:-1]]
    fields: dict[str, Any] = {"runtime": "process", "command": parts[_COMMAND_AT:], "unread": []}
    if len(parts) > _FOLDER_AT:
        fields["working_dir"] = parts[_FOLDER_AT]
    raw = processes.read_bytes(f"{processes.PROC}/{wrapper.pid}/environ", 1024 * 1024)
    if raw is None:
        fields["unread"].append("environment")
        return fields
    entries = [part.decode("utf-8", "replace").partition("=") for part in raw.split(b"\0") if part]
    env = {name: value for name, _, value in entries}
    ports = {name: value for name, value in env.items() if name == "PORT" or name.startswith("PORT_")}
    named = {value: name.removeprefix("PORT_").lower() for name, value in ports.items() if name != "PORT"}
    fields["ports"] = [
        {"host_port": int(value)} | ({"name": named[value]} if value in named else {})
        for value in dict.fromkeys(ports.values())
        if value.isdigit()
    ]
    own = set(INHERITED) | set(ports) | {"HOST", "PWD", "OLDPWD", "SHLVL", "_"}
    fields["environment"] = {name: value for name, value in env.items() if name not in own}
    if os.stat(f"{processes.PROC}/{wrapper.pid}").st_uid != os.geteuid():
        fields["unread"].append("user")
    return fields

"""What is really there, read from the machine and not from CLOS: the judge of every campaign."""

import contextlib
from collections import Counter
from pathlib import Path

from tests.integration.rig import Rig


def process_copies(clos: Rig) -> Counter[str]:
    """How many wrappers of each service run, by the mark in their command line."""
    found: Counter[str] = Counter()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and "clos-run" in words and clos.instance_id in words:
                found[words[words.index(clos.instance_id) + 1]] += 1
    return found


def container_copies(clos: Rig) -> tuple[Counter[str], list[str]]:
    """How many containers of each service run; and those that are merely created."""
    from tests.images import client

    running: Counter[str] = Counter()
    created = []
    with contextlib.closing(client()) as engine:
        for each in engine.api.containers(all=True, filters={"label": f"clos.instance={clos.instance_id}"}):
            if each["State"] == "running":
                running[each["Labels"]["clos.service"]] += 1
            elif each["State"] == "created":
                created.append(each["Labels"]["clos.service"])
    return running, created


def contradictions(clos: Rig, services: list[str], docker: bool) -> list[str]:
    """What speaks against "each service runs exactly once, and nothing half made is left"."""
    if docker:
        running, created = container_copies(clos)
    else:
        running, created = process_copies(clos), []
    wrong = [f"{service} runs {running[service]} times" for service in services if running[service] != 1]
    wrong += [f"{service} is left created" for service in created]
    wrong += [f"{service} runs and nobody asked for it" for service in running if service not in services]
    for service in services:
        seen = clos.service(service)
        if seen.status != "running":
            wrong.append(f"{service} is recorded as {seen.status}")
    return wrong

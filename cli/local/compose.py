"""Which Compose reads the files of imports, for `clos doctor`: the one beside the interpreter, else one on the PATH."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cli.local.check import OK, WARN, Check

_LIMIT_S = 5.0


def look() -> Iterator[Check]:
    """Its version and where it is; without one only imports of Compose files do not work."""
    beside = Path(sysconfig.get_path("scripts")) / "docker-compose"
    own = os.access(beside, os.X_OK)
    found = str(beside) if own else shutil.which("docker-compose")
    docker = shutil.which("docker")
    command = [found] if found else [docker, "compose"] if docker else None
    if command is None:
        yield Check("compose", WARN, "none: Compose files cannot be imported", "run ./clos, which installs it")
        return
    ran = subprocess.run(
        [*command, "version", "--short"], capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    version = ran.stdout.strip()[:50]
    if ran.returncode != 0 or not version:
        yield Check("compose", WARN, f"{' '.join(command)} does not work", "run ./clos, which installs one")
        return
    whose = "as locked" if own else "the machine's own, not the locked one"
    yield Check("compose", OK if own else WARN, f"{version} at {' '.join(command)}, {whose}")

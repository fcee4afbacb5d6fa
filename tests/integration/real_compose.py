"""The real Docker Compose on a definition of a test's own: what it makes of it, and what it starts."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.images import client, docker_url

_BINARY = Path(sys.prefix) / "bin" / "docker-compose"
_LIMIT_S = 120


class RealCompose:
    """A Compose project in a folder. Names begin with the project, so that nothing of others is touched."""

    def __init__(self, folder: Path, project: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.project = project
        self._environment = dict(environment or {})

    def define(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Write the file (JSON is YAML), and give it back as Compose normalises it."""
        (self.folder / "compose.yaml").write_text(json.dumps({"name": self.project, **definition}))
        # Its output is a Compose file again, in which `$` is written twice.
        normalised: dict[str, Any] = json.loads(self._run("config", "--format", "json").replace("$$", "$"))
        return normalised

    def up(self) -> dict[str, Any]:
        """Start it; what was started, inspected, by service."""
        self._run("up", "-d", "--remove-orphans")
        return self.inspected()

    def create(self) -> dict[str, Any]:
        """Make its containers without running them; inspected, by service."""
        self._run("create", "--remove-orphans")
        return self.inspected()

    def inspected(self) -> dict[str, Any]:
        """Its containers, inspected, by service."""
        engine = client()
        try:
            found = engine.api.containers(all=True, filters={"label": f"com.docker.compose.project={self.project}"})
            return {each["Labels"]["com.docker.compose.service"]: engine.api.inspect_container(each) for each in found}
        finally:
            engine.close()

    def down(self) -> None:
        """Take away all that it made."""
        self._run("down", "-v", "-t", "0", "--rmi", "local")

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [_BINARY, "--project-directory", str(self.folder), *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "DOCKER_HOST": docker_url(),
                **self._environment,
            },
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"docker-compose {' '.join(arguments)}: {done.stderr}"
        return done.stdout

"""A CLOS of its own on an empty home, used through the command line only."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.integration.rig import free_port

ROOT = Path(__file__).resolve().parents[2]


class Home:
    """The command line on one home. Nothing of this machine's own CLOS or terminal reaches it."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder / "clos"
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        self.environ = kept | {
            "CLOS_HOME": str(self.folder),
            "CLOS_API_PORT": str(free_port()),
            "CLOS_WS_PORT": str(free_port()),
            "TERM": "dumb",
        } | environ  # fmt: skip
        # A command that runs every further one: `unshare …`.
        self.wrapper: list[str] = []

    def run(
        self, *arguments: str, timeout_s: float = 60.0, text: str | None = None, cwd: Path = Path("/")
    ) -> subprocess.CompletedProcess[str]:
        """One command, its exit code and both streams."""
        return subprocess.run(
            [*self.wrapper, str(ROOT / "clos"), *arguments],
            cwd=cwd,
            env=self.environ,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str) -> object:
        """What a command prints with `-o json`."""
        ran = self.run(*arguments, "-o", "json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def processes(self) -> list[psutil.Process]:
        """Every process of this CLOS itself, its services apart: they get nothing of its environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CLOS_HOME") == str(self.folder):
                    found.append(process)
        return found

    def end(self) -> None:
        """Stop what runs, services first."""
        if (self.folder / "credentials.json").exists():
            for group in self.run("--no-up", "groups", "list", "-o", "name").stdout.split():
                self.run("--no-up", "stop", group)
                self.run("--no-up", "groups", "rm", group, "--yes", "--force")
        self.run("down")


@contextlib.contextmanager
def home(folder: Path, **environ: str) -> Iterator[Home]:
    """A home that leaves nothing running behind."""
    made = Home(folder, **environ)
    try:
        yield made
    finally:
        made.end()

"""What a test may ask for of the machine. A missing part skips on a laptop, and fails where CI=true."""

import functools
import os
import shutil
import signal
from pathlib import Path

import pytest

# A shell's background job (`make test &`) ignores SIGINT, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")


@functools.cache
def missing(part: str) -> str | None:
    """Why `part` cannot be had here; None if it can."""
    if part == "docker":
        import docker

        try:
            client = docker.DockerClient(
                base_url=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), timeout=5
            )
            client.ping()
        except Exception as refusal:
            return f"no Docker engine answers: {refusal}"
        return None
    if part == "postgres":
        found = (POSTGRES_BIN / "initdb").exists() or shutil.which("initdb")
        return None if found else "no PostgreSQL server is installed"
    if part == "browser":
        found = shutil.which("chromium") or shutil.which("chromium-browser")
        return None if found else "no Chromium is installed"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in ("docker", "postgres", "browser"):
        if item.get_closest_marker(part) and (why := missing(part)):
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have it: {why}", pytrace=False)
            pytest.skip(why)

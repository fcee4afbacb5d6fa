"""An engine of the test's own, in a network namespace of its own, that can be stopped, killed and started again.

A second engine in the host's network namespace would take the first one's bridge away (pitfalls 9). Ports that its
containers publish are not to be reached from the host: health is looked at by `exec`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest
from docker.errors import DockerException

from tests import images
from tests.waiting import wait_until

needs_private_engine = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(each) for each in ("dockerd", "unshare", "ip")),
    reason="needs root, dockerd and unshare",
)
_SCRIPT = (
    "ip link set lo up; exec dockerd --data-root {0}/data --exec-root {0}/exec --host unix://{0}/s.sock "
    "--pidfile {0}/pid --storage-driver vfs --containerd-namespace clos --containerd-plugins-namespace clos-plugins "
    "--default-address-pool base=10.210.0.0/16,size=24 --log-level warn"
)
# What a killed containerd leaves behind, and on which the next one would wait.
_LEFT = ("containerd.pid", "containerd.sock", "containerd.sock.ttrpc", "containerd-debug.sock")


class PrivateEngine:
    """One engine. `url` stays the same over its restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/s.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.client: docker.DockerClient | None = None

    def start(self) -> None:
        for name in _LEFT:
            (self.folder / "exec" / "containerd" / name).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--", "sh", "-c", _SCRIPT.format(self.folder)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, 30, f"the private engine: {(self.folder / 'log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        try:
            made = docker.DockerClient(base_url=self.url, version="auto", timeout=20)
            made.ping()
        except (DockerException, OSError):
            return False
        self._drop()
        self.client = made
        return True

    def _drop(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it: TERM takes its containers along, KILL leaves their shims to the next start."""
        self._drop()
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(40)
            self._process = None

    def inspect(self, service_id: str) -> dict:
        """The container of a service."""
        assert self.client is not None
        [found] = self.client.api.containers(all=True, filters={"label": f"clos.service={service_id}"})
        return self.client.api.inspect_container(found["Id"])

    def close(self) -> None:
        """End it with all that it had running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        for process in self._left():
            with contextlib.suppress(psutil.Error):
                process.kill()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(str(self.folder))), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)

    def _left(self) -> list[psutil.Process]:
        """Shims of this engine that a kill left, and what runs under them."""
        shims = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                shims.append(process)
        with contextlib.suppress(psutil.Error):
            return [*shims, *(child for shim in shims for child in shim.children(recursive=True))]
        return shims


@contextlib.contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    """An engine with the tests' image, taken down whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="clos-engine-"))
    made = PrivateEngine(folder)
    try:
        made.start()
        assert made.client is not None
        images.make(made.client)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)

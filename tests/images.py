"""A tiny image for tests: a static busybox and nothing else. No registry is asked."""

import contextlib
import fcntl
import io
import os
import subprocess
import tarfile
import tempfile
import uuid
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

from domain.bind_policy import BindPolicy
from domain.container_policy import ContainerPolicy
from workers.runtimes.docker_engine import DockerEngine

IMAGE = "clos-test:latest"
BUSYBOX = Path("/bin/busybox")
_VERSION = "1"
# Busybox as process 1 ignores TERM: the scripts trap it.
_SCRIPTS = {
    "bin/idle": "trap 'exit 0' TERM INT\nwhile :; do sleep 3600 & wait $!; done\n",
    "bin/serve": "trap 'exit 0' TERM INT\nhttpd -f -p \"${1:-80}\" -h /www & wait $!\n",
    "bin/stubborn": "trap '' TERM INT\nwhile :; do sleep 1; done\n",
}


def docker_url() -> str:
    """The engine that the tests may use."""
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def client() -> docker.DockerClient:
    """A client of the tests' own, beside the runtime's."""
    return docker.DockerClient(base_url=docker_url(), version="auto", timeout=30)


def test_image() -> str:
    """The name of the image `clos-test:latest`, made if it is missing; many processes may ask at once.

    It has the applets of busybox in /bin, `idle` (the default command: ends on TERM), `serve [port]` (a web
    server on /www) and `stubborn` (ignores TERM).
    """
    with contextlib.closing(client()) as engine:
        if not _present(engine):
            lock = Path(tempfile.gettempdir()) / f"clos-test-image-{os.getuid()}.lock"
            with lock.open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                if not _present(engine):
                    make(engine)
    return IMAGE


test_image.__test__ = False  # type: ignore[attr-defined]


# What the tests' own containers may have: all but the host's root.
ANYTHING = ContainerPolicy(
    privileged=True, host_network=True, host_namespaces=True, devices=True, capabilities=frozenset({"ALL"}),
    security_opt=True, sysctls=True, cgroup_parent=True, binds=BindPolicy(roots=("/tmp", "/srv", "/x")),
)  # fmt: skip


def make_docker_runtime(timeout_s: float = 15, policy: ContainerPolicy = ANYTHING) -> tuple[DockerEngine, str]:
    """A Docker runtime with an installation id of its own, and that id (for `remove_all`)."""
    instance_id = uuid.uuid4().hex
    return DockerEngine(docker_url(), instance_id, timeout_s=timeout_s, policy=policy), instance_id


def remove_all(instance_id: str) -> None:
    """Take away every container, network and built image that carries this installation id."""
    label = {"label": f"clos.instance={instance_id}"}
    with contextlib.closing(client()) as engine:
        for container in engine.api.containers(all=True, filters=label):
            with contextlib.suppress(APIError):
                engine.api.remove_container(container["Id"], force=True, v=True)
        for network in engine.api.networks(filters=label):
            with contextlib.suppress(APIError):
                engine.api.remove_network(network["Id"])
        for image in engine.api.images(filters=label):
            with contextlib.suppress(APIError):
                engine.api.remove_image(image["Id"], force=True)


def _present(engine: docker.DockerClient) -> bool:
    try:
        inspected = engine.api.inspect_image(IMAGE)
    except ImageNotFound:
        return False
    return (inspected["Config"].get("Labels") or {}).get("clos.test.version") == _VERSION


def make(engine: docker.DockerClient) -> None:
    """Put the image into an engine."""
    if not BUSYBOX.exists():
        raise FileNotFoundError("the test image needs /bin/busybox: apt-get install busybox-static")
    repository, tag = IMAGE.split(":")
    engine.api.import_image_from_data(
        rootfs(),
        repository=repository,
        tag=tag,
        changes=[
            'CMD ["/bin/idle"]',
            "ENV PATH=/bin",
            f"LABEL clos.test.version={_VERSION}",
            "WORKDIR /",
        ],
    )


def rootfs() -> bytes:
    """The image's files as a tar."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True, timeout=10)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "www", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(BUSYBOX, "bin/busybox")
        for applet in applets.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        files = {name: "#!/bin/sh\n" + text for name, text in _SCRIPTS.items()}
        files |= {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "www/index.html": "hello\n"}
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()

"""Which folders and files of the host may be seen in containers."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

# Follows links to where a path really is.
Real = Callable[[str], str]

# What makes whoever has it root on this machine, or shows its secrets.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root/.ssh", "/run", "/sbin", "/sys", "/usr",
    "/var/lib", "/var/log", "/var/run", "/var/spool",
)  # fmt: skip
_OF_A_HOME = (".aws", ".config/gcloud", ".docker", ".gnupg", ".kube", ".ssh")
_SOCKETS = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
)  # fmt: skip
# Every second definition mounts these; to be read only, they tell nothing but the time zone.
_HARMLESS = ("/etc/localtime", "/etc/timezone")
_ROOTS = "security.containers.bind_roots"
_SOCKET = "security.containers.docker_socket"
_NEVER = "nothing allows it"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a path may not be had, and what would allow it."""

    reason: str
    allow: str


def unresolved(path: str) -> str:
    """A path as it is written: where nobody may look at the disk."""
    return "/" + posixpath.normpath(path).lstrip("/")  # two slashes in front are kept by normpath


@dataclass(frozen=True, slots=True)
class BindPolicy:
    """`roots` are the administrator's; below `home` and a group's own folder all is allowed that is not denied.

    `kept` is what no container ever sees: CLOS's own home. `sockets` are the engine's.
    """

    roots: tuple[str, ...] = ()
    home: str = ""
    kept: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    docker_socket: bool = False

    def denial(self, source: str, directory: str, real: Real = unresolved, *, read_only: bool = False) -> Denial | None:
        """Why `source` may not be mounted; None if it may. `directory` is the group's own folder."""
        path = real(source)
        if self.harmless(source, read_only=read_only) or (self.docker_socket and path in self._sockets(real)):
            return None
        if denial := self._denied(path, real):
            return denial
        own = real(directory) if directory else ""
        # A group whose folder is /etc has no folder.
        allowed = [each for each in (own, real(self.home) if self.home else "") if each]
        if any(_within(path, each) and (each != own or not self._denied(own, real)) for each in allowed):
            return None
        if self._is_allowed(path, real):
            return None
        where = " and ".join(each for each in (directory and f"the group's {directory}", self.home) if each)
        return Denial(f"{_named(source, path)} is outside of {where or 'the allowed folders'}", f"{_ROOTS}: [{path}]")

    def harmless(self, source: str, *, read_only: bool) -> bool:
        """Whether it is one of the few files of the system that tell nothing, wherever it leads."""
        return read_only and unresolved(source) in _HARMLESS

    def denial_of_reading(self, source: str, real: Real = unresolved) -> Denial | None:
        """Why `source` may not go into an image; None if it may. What is nobody's secret may be anywhere."""
        return self._denied(real(source), real)

    def _sockets(self, real: Real) -> set[str]:
        return {each for socket in (*_SOCKETS, *self.sockets) for each in (socket, real(socket))}

    def _denied(self, path: str, real: Real) -> Denial | None:
        """What is denied although it may lie below an allowed folder; a folder with such a one in it is as well."""
        for kept in self.kept:
            if _within(path, real(kept)) or _within(real(kept), path):
                return Denial(f"{path} would show CLOS's own keys and record ({kept})", _NEVER)
        if path == "/":
            return Denial("the host's root", _NEVER)
        if not self.docker_socket and any(_within(socket, path) for socket in self._sockets(real)):
            return Denial(f"{path} is or has in it an engine's socket: who has it is root", _SOCKET)
        if self._is_allowed(path, real):
            return None
        for denied in (*_SYSTEM, *(posixpath.join(self.home, each) for each in _OF_A_HOME if self.home)):
            if any(_within(path, known) or _within(known, path) for known in {denied, real(denied)}):
                return Denial(f"{path} is or has in it what belongs to the system ({denied})", f"{_ROOTS}: [{path}]")
        return None

    def _is_allowed(self, path: str, real: Real) -> bool:
        return any(_within(path, real(root)) for root in self.roots)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _named(source: str, path: str) -> str:
    return source if unresolved(source) == path else f"{source} (which is {path})"

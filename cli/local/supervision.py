"""Bring CLOS up on a home: check, migrate, start the processes of the `Procfile`, wait until they work."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import CliError, holder_name
from cli.local import embedded_redis, process_manager, readiness, registry, running
from settings import Settings, SettingsError, load, load_or_create_secret, prepare_home

ROOT = Path(__file__).resolve().parents[2]
# On a machine that is busy, each process takes ten seconds for its imports alone.
READY_S, MORE_PER_WORKER_S = 60.0, 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Started:
    """A CLOS that is ready: the supervisor's process, and what it was started with."""

    process: "subprocess.Popen[bytes]"
    settings: Settings


def read_settings(environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings, or the reasons why not as an error of this command line (exit code 2)."""
    try:
        return load(environ, flags)
    except SettingsError as wrong:
        raise CliError("the configuration is wrong", 2, lines=tuple(wrong.problems)) from wrong


def start(
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    say: Say,
    ready_s: float | None = None,
    *,
    foreground: bool = False,
) -> Started:
    """Start CLOS in the background of this process and wait until it is ready. `foreground`: this process stays.

    Raises:
        CliError: it cannot start; whatever was started has been stopped again.
    """
    environ = _passed_on(environ, flags)
    settings = read_settings(environ, flags)
    home = settings.home
    if "%" in str(home) or "\n" in str(home):
        # supervisord expands the names of log files more than once.
        raise CliError(f"a CLOS_HOME must not contain a percent sign or a line end: {str(home)!r}", 2)
    if settings.database.path:
        registry.revision_of(settings.database.path)
    try:
        prepare_home(home)
    except SettingsError as refused:
        raise CliError(str(refused), hint="choose another CLOS_HOME") from refused
    with running.starting(home):
        running.end_leftovers(home, say)
        programs = process_manager.read_procfile(Path(environ.get("CLOS_PROCFILE") or ROOT / "Procfile"))
        _check_ports(settings, programs)
        environ = process_manager.environment(home, ROOT, sys.executable, environ)
        registry.bring_up_to_date(ROOT, sys.executable, settings.database.path, environ, say)
        environ |= _prepare_redis(settings, environ)
        embedded = settings.redis.embedded
        file = process_manager.write_configuration(home, programs, settings.workers.processes, embedded)
        process = _spawn(home, file, environ)
        try:
            running.record_supervisor(home, process.pid, foreground)
            _wait(settings, list(programs), ready_s if ready_s is not None else _ready_s(settings))
        except BaseException:
            stop(home)
            raise
    return Started(process, settings)


def migrate(environ: Mapping[str, str]) -> None:
    """Make the registry, or bring its schema up to date, without starting anything.

    Raises:
        CliError: it is not ours, or cannot be changed.
    """
    database = read_settings(environ).database
    registry.bring_up_to_date(ROOT, sys.executable, database.path, environ, lambda _: None)


def stop(home: Path) -> bool:
    """Stop CLOS's own processes on this home, whoever started them. False if none ran."""
    there = running.supervisor(home)
    if there is None:
        running.end_leftovers(home, lambda _: None)
        return False
    running.stop(home, there)
    return True


def environ_of(home: Path, config: str | None = None) -> dict[str, str]:
    """This process's variables with `--home` and `--config` in them, so that every process started sees them."""
    given = {"CLOS_HOME": str(home)}
    if config:
        given["CLOS_CONFIG"] = os.path.abspath(os.path.expanduser(config))
    return dict(os.environ) | given


def ensure_up(home: Path, quiet: bool = False, config: str | None = None) -> None:
    """Have a CLOS that works on this home: bring it up in the background if none runs, and say so on stderr.

    Raises:
        CliError: it cannot start.
    """
    environ = environ_of(home, config)
    say: Say = (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    if running.supervisor(home) is None:
        say(f"CLOS is not running on {home}: starting it in the background (`clos down` stops it)")
        start(environ, {}, say)
        return
    # It is starting, or some of it failed: either way it must be waited for, not started twice.
    programs = process_manager.read_procfile(Path(environ.get("CLOS_PROCFILE") or ROOT / "Procfile"))
    settings = read_settings(environ)
    _wait(settings, list(programs), _ready_s(settings))


def _passed_on(environ: Mapping[str, str], flags: Mapping[str, Any]) -> dict[str, str]:
    """Flags as variables, so that every process started here sees them."""
    names = {"api.port": "CLOS_API__PORT", "websocket.port": "CLOS_WEBSOCKET__PORT"}
    given = {variable: str(flags[key]) for key, variable in names.items() if flags.get(key) is not None}
    if config := environ.get("CLOS_CONFIG"):
        given["CLOS_CONFIG"] = os.path.abspath(os.path.expanduser(config))
    return dict(environ) | given


def _check_ports(settings: Settings, programs: Mapping[str, list[str]]) -> None:
    for name, part, flag in (("api", settings.api, "--port"), ("websocket", settings.websocket, "--ws-port")):
        if name in programs and not embedded_redis.is_free(part.host, part.port):
            raise CliError(
                f"port {part.port} is held by {holders_of(part.port)}",
                hint=f"stop it, or give the {name} another port: `clos up {flag} N`",
            )


def holders_of(port: int) -> str:
    """Who holds a TCP port, for a sentence."""
    from workers.runtimes.listeners import holders

    found = holders(port)
    return " and ".join(holder_name(holder) for holder in found) or "somebody who cannot be seen from here"


def _prepare_redis(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    if not settings.redis.embedded:
        return {}
    binary = embedded_redis.find_binary(environ)
    embedded_redis.prepare(settings.home, load_or_create_secret(settings.home, "redis").hex())
    return {embedded_redis.BINARY_VARIABLE: str(binary)}


def _spawn(home: Path, file: Path, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with open(home / "logs" / "supervisord.out", "wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(file)],
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            umask=0o077,
        )


def _ready_s(settings: Settings) -> float:
    """How long it may take until it is ready; who dies is noticed at once."""
    return READY_S + MORE_PER_WORKER_S * (settings.workers.processes - 1)


def _wait(settings: Settings, programs: list[str], ready_s: float) -> None:
    home = settings.home
    readiness.wait(
        home,
        process_manager.Control(process_manager.socket_path(home)),
        _api_url(settings),
        (_reach(settings.websocket.host), settings.websocket.port),
        programs,
        ready_s,
        lambda: running.supervisor(home) is not None,
    )


def _reach(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where to call, not to bind


def _api_url(settings: Settings) -> str:
    host = _reach(settings.api.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.api.port}"

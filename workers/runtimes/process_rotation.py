"""Rotating the log files of processes by copy and truncate, and the notes of when they were how long."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

KEPT = 2
_TIMES_LIMIT = 64 * 2**10
# Held by followers while they read, and by who rotates while a file is cut.
_CUT = ".cut"
_CUT_LIMIT_S = 1.0
_CUT_PAUSE_S = 0.002


@contextlib.contextmanager
def between_rotations(folder: Path) -> Iterator[bool]:
    """Whether no file is being truncated, and none is until the block ends: an offset means nothing meanwhile."""
    try:
        guard = open(folder / _CUT, "a")  # noqa: SIM115 - closed below
    except OSError:
        yield True  # there is no folder, so nothing is rotated in it
        return
    with guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def _cutting(folder: Path) -> Iterator[None]:
    """Wait until no follower reads, and keep them from it. Who reads for longer than a second is frozen, and left."""
    deadline = time.monotonic() + _CUT_LIMIT_S
    with open(folder / _CUT, "a") as guard:
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(_CUT_PAUSE_S)
        yield


def turn(path: Path) -> tuple[int, int]:
    """What changes with each rotation."""
    try:
        stat = os.stat(older(path, 1))
    except OSError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _times(path: Path) -> Path:
    return path.with_name(f"{path.name}.times")


def rotate(path: Path) -> None:
    note(path, path.stat().st_size, time.time())
    for number in range(KEPT, 1, -1):
        for name in (lambda p: p, _times):
            _keep(name(older(path, number - 1)), name(older(path, number)))
    draft = path.with_name(f"{path.name}.new")
    with open(path, "r+b") as live, open(draft, "wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        shutil.copyfileobj(live, copy, 2**20)
        with contextlib.suppress(FileNotFoundError):
            _times(path).replace(_times(older(path, 1)))
        with _cutting(path.parent):
            # What came during the copy; after this only the truncation is left.
            shutil.copyfileobj(live, copy, 2**20)
            live.truncate(0)
            copy.flush()
            draft.replace(older(path, 1))


def _keep(newer: Path, older: Path) -> None:
    """Give a copy its next number, and leave it its own until it is replaced: followers tell a rotation by the first
    copy's change, which must be one change, after the truncation."""
    draft = older.with_name(f"{older.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink(missing_ok=True)
        os.link(newer, draft)
        draft.replace(older)


def note(path: Path, size: int, now: float) -> None:
    times = _times(path)
    try:
        with open(times, "a", encoding="ascii") as file:
            file.write(f"{size} {now:.6f}\n")
            length = file.tell()
    except OSError:
        return  # A full disk must not end an observation; lines then have no time.
    if length > _TIMES_LIMIT:
        lines = times.read_text(encoding="ascii").splitlines(keepends=True)
        draft = times.with_name(f"{times.name}.new")
        # Every second note goes; the newest stays.
        draft.write_text("".join(lines[1::2] if len(lines) % 2 == 0 else lines[::2]), encoding="ascii")
        draft.replace(times)


def notes(path: Path) -> tuple[list[int], list[float]]:
    """Sizes and times, both growing: what a rotation or another observer put out of order is dropped."""
    try:
        lines = _times(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return [], []
    sizes: list[int] = []
    times: list[float] = []
    for line in lines:
        size_text, _, time_text = line.partition(" ")
        try:
            size, at = int(size_text), float(time_text)
        except ValueError:
            continue
        while sizes and sizes[-1] > size:
            sizes.pop()
            times.pop()
        if not sizes or sizes[-1] < size:
            sizes.append(size)
            times.append(at)
    return sizes, times

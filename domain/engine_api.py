"""Which versions of Docker's API CLOS speaks: a window with a tested end, and what becomes of engines outside of it."""

import re
from dataclasses import dataclass

from domain.errors import EngineUnsupported

# Debian 12's engine (20.10), and the newest one that the contract suite was run against (28.5).
OLDEST, NEWEST = "1.41", "1.51"
FORM = r"1\.[0-9]{1,3}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """The version that is spoken with an engine, and what is to be said about it."""

    version: str
    warning: str | None = None


def choose(newest: str, oldest: str | None = None, engine: str | None = None, pinned: str | None = None) -> Spoken:
    """The version to speak with an engine that knows `oldest` to `newest`. `engine` is its own version, for the text.

    `pinned` is what the configuration says: it is spoken, also where it is newer than what was tested.

    Raises:
        EngineUnsupported: there is none that both know.
    """
    facts = {"engine": engine, "api_version": newest, "oldest": OLDEST, "newest": NEWEST}
    named = f"Docker's engine {engine or ''} speaks API".replace("  ", " ")
    if _number(newest) < _number(OLDEST):
        raise EngineUnsupported(
            f"{named} {newest or 'of no version'} at most, and CLOS needs {OLDEST} or newer",
            hint="update Docker to 20.10 or newer",
            **facts,
        )
    if pinned is not None and not _number(oldest or OLDEST) <= _number(pinned) <= _number(newest):
        raise EngineUnsupported(
            f"{named} {oldest or OLDEST} to {newest}, and docker.api_version is {pinned}",
            hint="mend docker.api_version, or leave it out",
            **facts,
        )
    if pinned is not None:
        return Spoken(pinned, _untested(named, pinned) if _number(pinned) > _number(NEWEST) else None)
    if oldest is not None and _number(oldest) > _number(NEWEST):
        raise EngineUnsupported(
            f"{named} {oldest} at least, and this CLOS was tested with {OLDEST} to {NEWEST}",
            hint=f"a newer CLOS may speak it; docker.api_version = {oldest} tries it untested",
            **facts,
        )
    if _number(newest) > _number(NEWEST):
        return Spoken(NEWEST, f"{named} {newest}, and CLOS was tested up to {NEWEST}, which is spoken")
    return Spoken(newest)


def _untested(named: str, pinned: str) -> str:
    return f"{named} {pinned} as docker.api_version says, and CLOS was tested up to {NEWEST}"


def _number(version: str | None) -> tuple[int, ...]:
    """`1.41` as a pair; what is no version comes before all."""
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)

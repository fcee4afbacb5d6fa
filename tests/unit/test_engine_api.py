"""Which engines CLOS speaks with, in which version of their API, and what it says of the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.engine_api import NEWEST, OLDEST, choose
from domain.errors import EngineUnreachable, EngineUnsupported
from tests.unit.engine_stand_in import EngineStandIn
from workers.runtimes.docker_engine import DockerEngine

INSTANCE = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[EngineStandIn]:
    made = EngineStandIn(tmp_path / "engine.sock")
    yield made
    made.close()


def told(there: EngineStandIn, newest: str, oldest: str = "1.12", version: str = "1.2.3") -> None:
    there.version = {"Version": version, "ApiVersion": newest, "MinAPIVersion": oldest}


@pytest.mark.parametrize("newest", [OLDEST, "1.45", NEWEST])
def test_an_engine_within_the_window_is_spoken_to_in_its_newest_version(newest: str) -> None:
    assert choose(newest, "1.12") == choose(newest)
    assert (choose(newest).version, choose(newest).warning) == (newest, None)


def test_a_newer_engine_is_spoken_to_in_the_newest_tested_version_and_that_is_said() -> None:
    spoken = choose("1.60", "1.44", "31.0")
    assert spoken.version == NEWEST
    for part in ("31.0", "1.60", NEWEST):
        assert part in str(spoken.warning)
    assert choose("1.100").version == NEWEST


@pytest.mark.parametrize(
    ("newest", "oldest", "pinned", "named"),
    [
        ("1.40", "1.12", None, ("1.40", OLDEST)),
        ("", None, None, (OLDEST,)),
        ("1.70", "1.60", None, ("1.60", NEWEST)),
        ("1.41", "1.12", "1.45", ("1.41", "1.45")),
        ("1.60", "1.44", "1.43", ("1.44", "1.43")),
        ("1.41", "1.12", "newest", ("newest",)),
    ],
)
def test_an_engine_with_no_version_in_common_is_refused_naming_both(
    newest: str, oldest: str | None, pinned: str | None, named: tuple[str, ...]
) -> None:
    with pytest.raises(EngineUnsupported) as refused:
        choose(newest, oldest, "9.9", pinned)
    for part in named:
        assert part in refused.value.message
    assert refused.value.hint


def test_a_pinned_version_is_spoken_also_where_it_was_not_tested() -> None:
    assert (choose("1.45", "1.12", pinned="1.41").version, choose("1.45", pinned="1.41").warning) == ("1.41", None)
    spoken = choose("1.70", "1.60", pinned="1.60")
    assert spoken.version == "1.60"
    assert "docker.api_version" in str(spoken.warning)


@pytest.mark.parametrize(("newest", "spoken"), [("1.41", "1.41"), ("1.60", NEWEST)])
def test_the_version_is_agreed_on_when_the_engine_is_first_connected_to(
    there: EngineStandIn, newest: str, spoken: str
) -> None:
    told(there, newest)
    engine = DockerEngine(there.url, INSTANCE, timeout_s=2.0)
    info = engine.engine_info()
    assert info["api_version"] == spoken
    assert (info["warning"] is None) == (newest == spoken)
    assert engine.observe() == {}
    engine.close()


def test_an_engine_that_is_too_old_is_refused_at_every_call_and_asked_again(there: EngineStandIn) -> None:
    told(there, "1.40", version="19.03")
    engine = DockerEngine(there.url, INSTANCE, timeout_s=2.0)
    for call in (engine.engine_info, engine.observe):
        with pytest.raises(EngineUnsupported) as refused:
            call()
        assert isinstance(refused.value, EngineUnreachable)
        assert refused.value.facts == {"engine": "19.03", "api_version": "1.40", "oldest": OLDEST, "newest": NEWEST}
        assert "20.10" in str(refused.value.hint)
    told(there, "1.41")
    assert engine.observe() == {}
    engine.close()


def test_a_pinned_version_is_what_the_engine_is_asked_in(there: EngineStandIn) -> None:
    told(there, "1.45")
    engine = DockerEngine(there.url, INSTANCE, timeout_s=2.0, api_version="1.42")
    assert engine.engine_info()["api_version"] == "1.42"
    engine.close()

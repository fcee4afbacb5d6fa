"""The user guide names every key of a Compose service, and what becomes of it."""

from pathlib import Path

import pytest

from domain import build
from domain.container_shapes import FIELDS, KEYS, REFUSED

GUIDE = (Path(__file__).parents[2] / "docs" / "user-guide.md").read_text()


@pytest.mark.parametrize("key", sorted({*KEYS, *FIELDS, *REFUSED, *build.KEYS, *build.REFUSED}))
def test_the_guide_says_what_becomes_of_a_key(key: str) -> None:
    assert f"`{key}`" in GUIDE

"""What the documents tell people to type is what the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import root

ROOT = Path(__file__).parents[2]
_TYPED = re.compile(r"(?:^|[|&;] +|`)clos ([a-z][^`|;&>]*)", re.MULTILINE)
# Announced as what a later part brings.
_TO_COME = {"migrate", "backup", "restore"}
_PAPERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def typed() -> Iterator[tuple[str, str]]:
    """Each command of a document, with its file: in a block of commands, or between backquotes."""
    for paper in _PAPERS:
        for line in paper.read_text().splitlines():
            for found in _TYPED.finditer(line.strip() if line.startswith("    ") else line):
                words = found.group(1).partition("  ")[0].partition(" #")[0].strip(" \\")
                if words not in _TO_COME:
                    yield paper.name, words


def unknown(line: str) -> list[str]:
    """The options of a command line that its command does not have."""
    command: click.Command = root
    words = shlex.split(line.replace("…", ""))
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words.pop(0))
        if found is None:
            return [line]
        command = found
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    given = (word.partition("=")[0].strip("[],.:") for word in words)
    return [each for each in given if each.startswith("-") and each.strip("-") and each not in known]


@pytest.mark.parametrize(("paper", "line"), sorted(set(typed())))
def test_a_documented_command_and_its_options_are_there(paper: str, line: str) -> None:
    assert unknown(line) == [], paper


def test_the_commands_of_the_documents_are_found() -> None:
    lines = [line for _, line in typed()]
    assert "start shop --dry-run" in lines
    assert len(lines) > 100
    assert unknown("services edit web --image shop/web:2") == ["--image"]
    assert unknown("service list") == ["service list"]

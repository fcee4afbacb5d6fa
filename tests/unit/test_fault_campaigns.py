"""How campaigns are told of when they go on side by side. What they find is theirs to say."""

import subprocess
import sys

import pytest

from tests.faults.__main__ import campaigns
from tests.faults.side_by_side import ALONE, line_of, lines


def test_what_must_be_alone_is_there() -> None:
    assert set(ALONE) <= set(campaigns(3, 1))


@pytest.mark.parametrize(
    ("told", "code", "well"),
    [
        ('seed 1, 3 rounds\n{"campaign": "x", "ok": true, "kills": 3}\nall held\n', 0, True),
        ('{"campaign": "x", "ok": false, "kills": 3}\nfailed: x\n', 1, False),
        ('{"campaign": "x", "ok": true, "kills": 3}\n', -9, False),
        ('{"campaign": "x", "left_out": "no Docker engine"}\n', 0, False),
    ],
)
def test_a_campaign_held_if_it_says_so_and_its_process_ended_well(told: str, code: int, well: bool) -> None:
    line = line_of("x", told, code)
    assert (line["campaign"], line["ok"]) == ("x", well)


def test_one_whose_process_dies_without_a_word_has_failed() -> None:
    assert line_of("x", "seed 1, 3 rounds\n", -9) == {
        "campaign": "x", "ok": False, "broke": "its process ended -9 without a word",
    }  # fmt: skip


def test_each_campaign_has_a_process_of_its_own_and_one_line() -> None:
    names = ["any_world", "no_such_campaign"]
    told = {line["campaign"]: line["ok"] for line in lines(names, 0, 1, 2)}
    assert told == {"any_world": True, "no_such_campaign": False}


def test_nothing_chosen_is_an_error_that_says_what_there_is() -> None:
    command = [sys.executable, "-m", "tests.faults", "--only", "nosuch"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "killed_workers_process" in ended.stderr

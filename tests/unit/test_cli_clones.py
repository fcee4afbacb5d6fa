"""`clos groups clone` and `keep` against a small CLOS."""

import json

import pytest


def test_a_clone_is_made_and_what_is_to_be_known_is_said(clos, run, tmp_path):
    code, out, err = run("groups", "clone", "shop", "--as", "x", "--ttl", "8h", "--directory", str(tmp_path))
    assert code == 0
    assert out.startswith("x is a clone of shop with 2 services until ")
    assert "Note: web.environment.URL: the text holds '9310'" in err
    assert "clos start x" in err
    assert clos.groups["x"]["asked"] == {"as": "x", "ttl": 28_800, "directory": str(tmp_path)}


def test_a_clone_is_a_document_for_programs(clos, run):
    code, out, _ = run("groups", "clone", "shop", "--as", "x", "--with", "a, b", "-o", "json")
    assert (code, json.loads(out)["name"]) == (0, "x")
    assert clos.groups["x"]["asked"]["with"] == ["a", "b"]


def test_a_clone_can_be_started_at_once(clos, run):
    code, out, err = run("groups", "clone", "shop", "--as", "x", "--start", "--no-wait")
    assert (code, out.strip()) == (0, list(clos.operations)[-1])
    assert "web.environment.URL" in err


@pytest.mark.parametrize("ttl", ["8", "0h", "-1h", "8 hours", "1w"])
def test_a_ttl_that_is_no_duration_is_refused(clos, run, ttl):
    code, _, err = run("groups", "clone", "shop", "--as", "x", f"--ttl={ttl}")
    assert code == 2
    assert "30m" in err


def test_a_directory_must_be_there(clos, run):
    assert run("groups", "clone", "shop", "--as", "x", "--directory", "/no/such")[0] == 2


def test_a_clone_is_kept_longer_or_for_good(clos, run):
    run("groups", "clone", "shop", "--as", "x", "--ttl", "1h")
    assert run("groups", "keep", "x", "--ttl", "2h")[1].startswith("x is kept until 20")
    assert run("groups", "keep", "x")[1] == "x is kept until it is removed.\n"

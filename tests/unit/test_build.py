"""How an image is built: what may be said, what is refused, and what the engine is told."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from domain.build import KEYS, REFUSED, check
from domain.specs import ServiceSpec
from workers.runtimes.docker_builds import packed, parameters

# As `docker-compose config --format json` prints it.
WHOLE: dict[str, Any] = {
    "args": {"A": "b"}, "cache_from": ["x:1"], "context": "/srv/web", "dockerfile": "Dockerfile.dev",
    "extra_hosts": ["a=1.2.3.4"], "isolation": "default", "labels": {"q": "r"}, "network": "none", "no_cache": True,
    "platforms": ["linux/amd64"], "pull": True, "shm_size": "134217728", "tags": ["web:tagged"], "target": "last",
    "ulimits": {"nofile": 100, "nproc": {"soft": 1, "hard": 2}},
}  # fmt: skip


def test_every_key_is_taken_and_carried_out() -> None:
    assert check(WHOLE) == []
    assert set(WHOLE) | {"dockerfile_inline"} == set(KEYS)
    told = parameters(ServiceSpec("g-a", "a", "g", image="web:1"), WHOLE, "clos-g-a:1", {"clos.instance": "i"})
    assert told == {
        "t": ["clos-g-a:1", "web:1", "web:tagged"], "rm": "1", "forcerm": "1", "nocache": "1", "pull": "1",
        "target": "last", "networkmode": "none", "platform": "linux/amd64", "shmsize": 134217728,
        "extrahosts": ["a:1.2.3.4"], "buildargs": '{"A": "b"}', "cachefrom": '["x:1"]',
        "labels": json.dumps({"q": "r", "clos.instance": "i"}),
        "ulimits": json.dumps([{"Name": "nofile", "Soft": 100, "Hard": 100}, {"Name": "nproc", "Soft": 1, "Hard": 2}]),
    }  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_the_engines_builder_cannot_is_refused_with_the_reason(key: str) -> None:
    (problem,) = check({"context": "/x", key: ["y"]})
    assert (problem.path, problem.text) == (f"build.{key}", f"is not carried out: {REFUSED[key]}")


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"context": "rel"}, "build.context"),
        ({"dockerfile": "x"}, "build.context"),
        ({"context": "/x", "targt": "y"}, "build.targt"),
        ({"context": "/x", "platforms": ["a", "b"]}, "build.platforms"),
        ({"context": "/x", "dockerfile": "a", "dockerfile_inline": "FROM b"}, "build.dockerfile_inline"),
        ([], "build"),
    ],
)
def test_what_is_malformed_is_named(wrong: Any, path: str) -> None:
    assert [problem.path for problem in check(wrong)] == [path]


def test_the_context_is_packed_without_what_is_ignored_and_with_a_dockerfile_of_its_own(tmp_path: Path) -> None:
    for name in ("Dockerfile", "keep", "drop"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("# not this\ndrop\n")
    plain, name = packed({"context": str(tmp_path)})
    assert name == "Dockerfile"
    with plain, tarfile.open(fileobj=plain) as tar:
        assert {"Dockerfile", "keep"} <= set(tar.getnames())
        assert "drop" not in tar.getnames()
    inline, name = packed({"context": str(tmp_path), "dockerfile_inline": "FROM x"})
    with inline, tarfile.open(fileobj=inline) as tar:
        opened = tar.extractfile(name)
        assert opened is not None
        assert opened.read() == b"FROM x"

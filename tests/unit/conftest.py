"""A small CLOS that speaks the contract, and the command line called on it."""

import json

import pytest

from cli import main
from tests.clos_stand_in import KEY, StandIn


@pytest.fixture
def clos(tmp_path, monkeypatch):
    server = StandIn()
    server.shop()
    (tmp_path / "credentials.json").write_text(
        json.dumps({"url": server.url, "websocket_url": server.websocket_url, "username": "admin", "api_key": KEY})
    )
    monkeypatch.setenv("CLOS_HOME", str(tmp_path))
    for name in ("CLOS_URL", "CLOS_API_KEY", "CLOS_CONFIG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


@pytest.fixture
def run(clos, capsys):
    def call(*arguments):
        code = main.run(list(arguments))
        found = capsys.readouterr()
        return code, found.out, found.err

    return call

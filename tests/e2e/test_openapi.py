"""Every call that the OpenAPI document describes, with made-up input: no server error, and answers as described."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.integration.api_fixture import Api, running_api

ROOT = Path(__file__).parents[2]
# What would end the run's own login. Logs are a worker's, and none runs here: its 504 is as described.
# A group may be called `import`: what `Allow` says at `/groups/import` is true of both, and no document can say so.
_LEFT_OUT = r"/auth/logout|/logs$|/users/\{user_id\}|/api-keys/\{key_id\}|/groups/import$"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with running_api(CLOS_SECURITY__RATE_LIMIT__LOGINS_PER_MINUTE="0") as running:
        running.group("one", "two")
        yield running


@pytest.mark.timeout(240)
def test_every_described_call_answers_as_described_whatever_it_is_sent(api: Api, tmp_path: Path) -> None:
    # A made-up `wait` would be waited for.
    configuration = tmp_path / "schemathesis.toml"
    # And it learns names of fields from our 422s, until a body is too large for us: that is a refusal as well.
    refusals = '[400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]'
    configuration.write_text(
        f'[parameters]\n"query.wait" = 0\n\n[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n'
    )
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file", str(configuration),
            "run",
            f"{api.url}/api/v2/openapi.json",
            "--header", f"X-API-Key: {api.key}",
            "--phases", "examples,coverage,fuzzing",
            "--max-examples", "6",
            # A well-formed request may still be refused for what the record holds.
            "--exclude-checks", "positive_data_acceptance",
            "--exclude-path-regex", _LEFT_OUT,
            "--generation-allow-x00", "false",
            # It would send a wrong token beside our key; what is refused is for test_auth.py.
            "--generation-with-security-parameters", "false",
            "--generation-database", ":memory:",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=220,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "Traceback" not in api.rig.log("api.main")
    assert requests.get(f"{api.url}/health/ready", timeout=5).ok


def test_the_document_is_openapi_3_1_and_names_the_right_of_every_call(api: Api) -> None:
    document = requests.get(f"{api.url}/api/v2/openapi.json", timeout=10).json()
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "post", "put", "patch", "delete"):
                assert "x-permission" in operation or operation["security"] == [], f"{method} {path}"


def test_the_docs_page_takes_nothing_from_another_host(api: Api) -> None:
    page = requests.get(f"{api.url}/docs", timeout=10)
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"/docs/assets/{asset}" in page.text
        assert requests.get(f"{api.url}/docs/assets/{asset}", timeout=10).ok
    assert requests.get(f"{api.url}/docs/assets/%2e%2e%2fapp.py", timeout=10).status_code == 404

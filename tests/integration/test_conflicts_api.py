"""Conflicts as their clients meet them: an API process, a worker, real processes on real ports, both databases."""

import contextlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.api_fixture import DATABASES, Api, api_on
from tests.integration.rig import web_service
from tests.ports import free_run
from tests.waiting import wait_until

_SQUATTER = Path(__file__).parents[2] / "examples" / "shop" / "squatter.py"
_SIZE = 10


class World:
    """A whole CLOS but its gateway, and strangers on its ports."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def span(self) -> tuple[str, int]:
        """A project with a range of ten free ports: its name and its first port."""
        ports, project = free_run(_SIZE), f"p{uuid.uuid4().hex[:8]}"
        body = {"project": project, "start_port": ports[0], "end_port": ports[-1]}
        assert self.api.post("/port-ranges", body).status_code == 201
        return project, ports[0]

    def shop(self) -> tuple[str, int]:
        """A group whose `web` refers to its `api`; its name and the port of `api`."""
        project, port = self.span()
        web = web_service("web", port + 1, environment={"DELAY": "0", "API_URL": "${url:api}"})
        body = {"name": project, "project": project, "services": [web_service("api", port), web]}
        made = self.api.post("/groups", body)
        assert made.status_code == 201, made.text
        return project, port

    def ended(self, asked: requests.Response) -> Any:
        """The end of what was asked for."""
        assert asked.status_code == 202, asked.text
        return self.api.get(f"/operations/{asked.json()['id']}?wait=60").json()

    def scan(self) -> None:
        assert self.ended(self.api.post("/conflicts/scan"))["status"] == "completed"

    def conflict(self, port: int) -> Any:
        """The one conflict about a port, after a fresh look."""
        self.scan()
        (found,) = self.api.get(f"/ports/{port}/conflicts").json()["items"]
        return found

    def service(self, service_id: str) -> Any:
        return self.api.get(f"/services/{service_id}").json()

    def state(self, group: str) -> Any:
        """What a refused request must leave as it was: definitions, leases, conflicts, operations."""
        services = [
            {key: one[key] for key in ("id", "ports", "environment", "spec_version", "desired")}
            for one in self.api.get(f"/services?group={group}").json()["items"]
        ]
        leases = self.api.get(f"/ports?project={group}&state=leased").json()["leases"]
        mine = {one["id"] for one in services}
        conflicts = [
            one
            for one in self.api.get("/conflicts?status=active,ignored,resolved&limit=200").json()["items"]
            if mine & set(one["claimants"])
        ]
        return services, leases, conflicts, self.api.get(f"/operations?group={group}").json()["items"]


@contextlib.contextmanager
def stranger(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of somebody else's that holds a port."""
    process = subprocess.Popen([sys.executable, str(_SQUATTER), str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module", params=DATABASES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with api_on(request.param, CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE="0") as api:
        api.rig.worker()
        yield World(api)


def call(world: World, session: requests.Session, method: str, path: str, body: Any = None) -> requests.Response:
    return session.request(method, f"{world.api.url}/api/v2{path}", json=body, timeout=70)


def problem(answer: requests.Response, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == code, answer.text
    return answer.json()


def test_a_conflict_is_found_resolved_by_an_operator_and_taken_back(world: World) -> None:
    group, port = world.shop()
    operator = world.api.user("operator")["session"]
    with stranger(port) as process:
        conflict = world.conflict(port)
        assert (conflict["kind"], conflict["holder"]["pid"]) == ("foreign_process", process.pid)
        assert conflict["claimants"] == [f"{group}-api"]
        path = f"/conflicts/{conflict['id']}"
        wish = {"strategy": "migrate_service"}
        dry = world.ended(call(world, operator, "POST", f"{path}/resolve", wish | {"dry_run": True}))
        assert [step["action"] for step in dry["result"]["plan"]["steps"]] == ["migrate_port"]
        assert world.service(f"{group}-api")["port"] == port
        assert world.ended(call(world, operator, "POST", f"{path}/resolve", wish))["status"] == "completed"
        assert world.service(f"{group}-api")["port"] == port + 2
        resolved = world.api.get(path).json()
        assert (resolved["status"], resolved["resolution"]["to_port"]) == ("resolved", port + 2)
        problem(call(world, operator, "POST", f"{path}/resolve", wish), 409, "conflict_closed")
    world.scan()
    assert world.ended(call(world, operator, "POST", f"{path}/undo"))["status"] == "completed"
    assert world.service(f"{group}-api")["port"] == port
    problem(call(world, operator, "POST", f"{path}/undo"), 409, "undo_impossible")


def test_each_role_may_do_what_is_its_own(world: World) -> None:
    group, port = world.shop()
    viewer, operator = world.api.user("viewer")["session"], world.api.user("operator")["session"]
    with stranger(port) as process:
        conflict = world.conflict(port)
        path = f"/conflicts/{conflict['id']}"
        assert call(world, viewer, "GET", path).json() == conflict
        assert call(world, viewer, "GET", f"/ports/{port}/conflicts").json()["total"] == 1
        before = world.state(group)
        for what, body, permission in (
            ("/conflicts/scan", None, "conflicts:scan"), ("/conflicts/resolve", {}, "conflicts:resolve"),
            (f"{path}/resolve", {"strategy": "ignore"}, "conflicts:resolve"),
            (f"{path}/undo", None, "conflicts:resolve"),
        ):  # fmt: skip
            refused = problem(call(world, viewer, "POST", what, body), 403, "forbidden")
            assert refused["permission"] == permission
        confirm = next(each["confirm"] for each in conflict["options"] if each["strategy"] == "kill_process")
        kill = {"strategy": "kill_process", "confirm": confirm}
        refused = problem(call(world, operator, "POST", f"{path}/resolve", kill), 403, "forbidden")
        assert refused["permission"] == "ports:terminate"
        problem(world.api.post(f"{path}/resolve", kill | {"confirm": "1"}), 422, "validation_failed")
        assert process.poll() is None
        assert world.state(group) == before
        assert world.ended(world.api.post(f"{path}/resolve", kill))["status"] == "completed"
        assert process.wait(10) != 0
    assert world.api.get(path).json()["status"] == "resolved"


def test_of_many_who_resolve_one_conflict_at_once_one_does(world: World) -> None:
    group, port = world.shop()
    with stranger(port):
        conflict = world.conflict(port)
        path = f"{world.api.url}/api/v2/conflicts/{conflict['id']}/resolve"
        gate, answers = threading.Barrier(8), []

        def resolve() -> None:
            session = Api.as_key(world.api.key)
            gate.wait(10)
            answers.append(session.post(path, json={"strategy": "migrate_service"}, timeout=60))

        threads = [threading.Thread(target=resolve) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        won = [each for each in answers if each.status_code == 202]
        lost = {each.json()["code"] for each in answers if each.status_code != 202}
        assert len(won) == 1
        assert lost <= {"operation_in_progress", "conflict_closed"}
        assert world.ended(won[0])["status"] == "completed"
        assert world.service(f"{group}-api")["port"] == port + 2


def moved(world: World) -> tuple[str, int, Any]:
    """A group whose `api` was moved: its name, the old port, the conflict."""
    group, port = world.shop()
    with stranger(port):
        conflict = world.conflict(port)
        asked = world.api.post(f"/conflicts/{conflict['id']}/resolve", {"strategy": "migrate_service"})
        assert world.ended(asked)["status"] == "completed"
    return group, port, conflict


def test_an_undo_whose_port_is_taken_since_changes_nothing(world: World) -> None:
    group, port, conflict = moved(world)
    with stranger(port) as late:
        world.scan()
        before = world.state(group)
        refused = problem(world.api.post(f"/conflicts/{conflict['id']}/undo"), 409, "undo_impossible")
        assert refused["holder"]["pid"] == late.pid
        assert world.state(group) == before
        assert late.poll() is None


def test_an_undo_whose_port_is_taken_after_the_last_look_fails_and_changes_nothing(world: World) -> None:
    group, port, conflict = moved(world)
    world.scan()
    services, leases, conflicts, _ = world.state(group)
    with stranger(port) as late:
        ended = world.ended(world.api.post(f"/conflicts/{conflict['id']}/undo"))
        assert (ended["status"], ended["error"]["code"]) == ("failed", "port_held")
        assert ended["error"]["holder"]["pid"] == late.pid
        assert world.state(group)[:3] == (services, leases, conflicts)
    world.scan()
    assert world.ended(world.api.post(f"/conflicts/{conflict['id']}/undo"))["status"] == "completed"


def test_a_repeated_request_has_one_effect_and_one_answer(world: World) -> None:
    group, port = world.shop()
    with stranger(port):
        conflict = world.conflict(port)
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        path = f"/conflicts/{conflict['id']}/resolve"
        first = world.api.post(path, {"strategy": "migrate_service"}, headers=headers)
        again = world.api.post(path, {"strategy": "migrate_service"}, headers=headers)
        assert first.status_code == 202
        assert again.content == first.content
        assert again.headers["Idempotency-Replayed"] == "true"
        problem(world.api.post(path, {"strategy": "ignore"}, headers=headers), 422, "idempotency_key_reused")
        assert world.ended(first)["status"] == "completed"
        late = world.api.post(path, {"strategy": "migrate_service"}, headers=headers)
        assert late.content == first.content
    assert len(world.api.get(f"/operations?type=conflict.resolve&service={group}-api").json()["items"]) == 1


def test_a_question_is_answered_with_a_port_of_ones_own(world: World) -> None:
    group, port = world.shop()
    with stranger(port):
        asked = world.api.post(f"/groups/{group}/start", {"on_conflict": "ask"}).json()
        path = f"/operations/{asked['id']}"
        waiting = wait_until(
            lambda: found if (found := world.api.get(path).json())["status"] == "waiting" else None, 30, "a question"
        )
        choices = {each["choice"]: each for each in waiting["question"]["choices"]}
        assert choices.keys() >= {"migrate_service", "change_port", "kill_process", "ignore"}
        assert choices["kill_process"]["risk_level"] == "high"
        operator = world.api.user("operator")["session"]
        kill = {"choice": "kill_process", "confirm": choices["kill_process"]["confirm"]}
        problem(call(world, operator, "POST", f"{path}/answer", kill), 403, "forbidden")
        for taken, status, code in ((port, 422, "validation_failed"), (port + 1, 409, "port_held")):
            answer = {"choice": f"change_port:{taken}"}
            problem(call(world, operator, "POST", f"{path}/answer", answer), status, code)
        with stranger(port + 5):
            world.scan()
            problem(
                call(world, operator, "POST", f"{path}/answer", {"choice": f"change_port:{port + 5}"}), 409, "port_held"
            )
        ended = world.ended(call(world, operator, "POST", f"{path}/answer", {"choice": f"change_port:{port + 7}"}))
        assert ended["status"] == "completed", ended["error"]
        assert world.service(f"{group}-api")["port"] == port + 7
        assert requests.get(f"http://127.0.0.1:{port + 7}/", timeout=5).text == "ok"
        problem(world.api.post(f"{path}/answer", {"choice": "ignore"}), 409, "operation_final")


def test_everything_is_resolved_within_a_risk_and_what_may_not_be_is_left(world: World) -> None:
    group, port = world.shop()
    with stranger(port) as process:
        conflict = world.conflict(port)
        dry = world.ended(world.api.post("/conflicts/resolve", {"max_risk": "high", "dry_run": True}))
        chosen = {each["conflict_id"]: each["strategy"] for each in dry["result"]["plan"]["resolutions"]}
        assert chosen[conflict["id"]] == "migrate_service"
        assert "kill_process" not in chosen.values()
        assert world.ended(world.api.post("/conflicts/resolve", {}))["status"] == "completed"
        assert world.api.get(f"/conflicts/{conflict['id']}").json()["status"] == "resolved"
        assert process.poll() is None
    assert world.service(f"{group}-api")["port"] != port

"""Conflicts from their discovery to their end: API, worker, scheduler and database for real, and who is in the way."""

import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.api_fixture import Api, running_api
from tests.integration.rig import free_port, web_service
from tests.waiting import wait_until

_SQUATTER = """
import signal, socket, sys
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(("127.0.0.1", int(sys.argv[1])))
taken.listen()
print("held", flush=True)
signal.pause()
"""
# Says what it was told of the other one, and what the other one says.
_ASKER = """
import http.server, os, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = os.environ["API_URL"]
        said = urllib.request.urlopen(told, timeout=5).read().decode()
        self.send_response(200); self.end_headers(); self.wfile.write(f"{told} {said}".encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
# What an undo brings back: all that was wanted. Versions and times only grow.
_GROWING = {"spec_version", "updated_at", "started_at", "stopped_at", "observed", "health"}


@pytest.fixture(scope="module")
def clos() -> Iterator[Api]:
    with running_api(CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE="0") as api:
        api.rig.scheduler()
        api.rig.worker()
        yield api


@contextlib.contextmanager
def squatter(port: int) -> Iterator["subprocess.Popen[str]"]:
    """A process of somebody else's that holds a port."""
    process = subprocess.Popen([sys.executable, "-c", _SQUATTER, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(10)


def group(clos: Api, *services: dict[str, Any], **more: Any) -> str:
    name = f"c{uuid.uuid4().hex[:8]}"
    made = clos.post("/groups", {"name": name, "services": list(services), **more})
    assert made.status_code == 201, made.text
    return name


def asker(name: str, port: int, **more: Any) -> dict[str, Any]:
    return web_service(name, port, **more) | {
        "command": [sys.executable, "-c", _ASKER],
        "environment": {"API_URL": "${url:api}"},
    }


def ended(clos: Api, asked: Any) -> Any:
    assert asked.status_code == 202, asked.text
    return clos.get(f"/operations/{asked.json()['id']}?wait=60").json()


def does(clos: Api, path: str, body: Any = None) -> Any:
    operation = ended(clos, clos.post(path, body))
    assert operation["status"] == "completed", operation["error"]
    return operation


def stop(clos: Api, name: str) -> None:
    """Stop a group, once nothing of CLOS's own accord works on it any more."""

    def idle() -> bool:
        busy = clos.get(f"/operations?group={name}&status=pending,in_progress,waiting").json()["items"]
        return not busy

    wait_until(idle, 30, "the end of what works on the group")
    does(clos, f"/groups/{name}/stop")


def service(clos: Api, service_id: str) -> Any:
    return clos.get(f"/services/{service_id}").json()


def wanted(clos: Api, service_id: str) -> Any:
    return {name: value for name, value in service(clos, service_id).items() if name not in _GROWING}


def conflict_on(clos: Api, port: int) -> Any:
    does(clos, "/conflicts/scan")
    found = [each for each in clos.get(f"/ports/{port}/conflicts").json()["items"] if each["kind"] != "reserved"]
    assert len(found) == 1, found
    return found[0]


def says(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return str(answer.read().decode())


def test_when_api_moves_web_is_told_and_answers_with_it_and_undo_brings_all_of_it_back(clos: Api) -> None:
    port, web_port = free_port(), free_port()
    name = group(clos, web_service("api", port), asker("web", web_port, needs=["api"]))
    does(clos, f"/groups/{name}/start")
    before = {each: wanted(clos, f"{name}-{each}") for each in ("api", "web")}
    assert says(web_port) == f"http://127.0.0.1:{port} ok"
    rival = group(clos, web_service("api", port))
    conflict = conflict_on(clos, port)

    body = {"strategy": "migrate_service", "service_id": f"{name}-api"}
    planned = does(clos, f"/conflicts/{conflict['id']}/resolve", body | {"dry_run": True})["result"]["plan"]
    assert wanted(clos, f"{name}-api") == before["api"]
    moved = does(clos, f"/conflicts/{conflict['id']}/resolve", body)

    new = service(clos, f"{name}-api")["port"]
    assert [step["id"] for step in moved["steps"]] == [step["id"] for step in planned["steps"]]
    assert new not in (port, None)
    assert says(web_port) == f"http://127.0.0.1:{new} ok"
    assert service(clos, f"{name}-web")["drift"] is False
    closed = clos.get(f"/conflicts/{conflict['id']}").json()
    assert closed["resolution"] == {
        "strategy": "migrate_service", "from_port": port, "to_port": new, "operation_id": moved["id"],
    }  # fmt: skip

    assert clos.call("DELETE", f"/groups/{rival}").status_code == 204  # it had inherited the port
    does(clos, f"/conflicts/{conflict['id']}/undo")
    assert {each: wanted(clos, f"{name}-{each}") for each in ("api", "web")} == before
    assert says(web_port) == f"http://127.0.0.1:{port} ok"
    again = clos.post(f"/conflicts/{conflict['id']}/undo")
    assert (again.status_code, again.json()["code"]) == (409, "undo_impossible")
    stop(clos, name)


@pytest.mark.docker
def test_a_container_moves_with_its_health_and_without_a_second_one(clos: Api) -> None:
    from tests.images import client
    from tests.integration.rig import container_service

    port = free_port()
    name = group(clos, container_service("api", port))
    with squatter(port):
        operation = does(clos, f"/groups/{name}/start", {"on_conflict": "migrate"})
    new = service(clos, f"{name}-api")["port"]

    assert new != port
    assert operation["steps"][0]["action"] == "migrate_port"
    with contextlib.closing(client()) as engine:
        found = engine.api.containers(all=True, filters={"label": f"clos.service={name}-api"})
        assert [[p["PublicPort"] for p in each["Ports"] if p.get("PublicPort")] for each in found] == [[new]]
    stop(clos, name)


def test_a_start_that_may_not_resolve_fails_with_the_holder_and_starts_what_does_not_need_it(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port), web_service("store", free_port()))
    with squatter(port) as other:
        operation = ended(clos, clos.post(f"/groups/{name}/start"))
        api = service(clos, f"{name}-api")

        assert (operation["status"], operation["error"]["code"]) == ("failed", "port_held")
        assert operation["error"]["holder"]["pid"] == other.pid
        assert f"(pid {other.pid})" in api["waiting_for"][0]["text"]
        assert service(clos, f"{name}-store")["status"] == "running"
        assert conflict_on(clos, port)["claimants"] == [f"{name}-api"]
    does(clos, "/conflicts/scan")
    assert [each for each in clos.get(f"/ports/{port}/conflicts").json()["items"] if each["kind"] != "reserved"] == []
    stop(clos, name)


def test_a_start_that_asks_waits_and_goes_on_as_it_is_answered(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    with squatter(port) as other:
        asked = clos.post(f"/groups/{name}/start", {"on_conflict": "ask"}).json()
        operation = wait_until(
            lambda: (found := clos.get(f"/operations/{asked['id']}").json())["status"] == "waiting" and found, 20
        )
        choices = [each["choice"] for each in operation["question"]["choices"]]
        assert str(other.pid) in operation["question"]["text"]
        assert {"migrate_service", "change_port", "kill_process", "ignore"} <= set(choices)
        assert service(clos, f"{name}-api")["waiting_for"][0]["kind"] == "answer"
        rival = clos.post(f"/groups/{name}/start")
        assert (rival.status_code, rival.json()["operation_id"]) == (409, asked["id"])
        wrong = clos.post(f"/operations/{asked['id']}/answer", {"choice": "shout"})
        assert wrong.status_code == 422
        told = clos.get(f"/events?operation={asked['id']}&type=operation.waiting")
        assert told.status_code in (200, 422)

        new = free_port()
        answered = clos.post(f"/operations/{asked['id']}/answer", {"choice": f"change_port:{new}"})
        operation = ended(clos, answered)
        assert operation["status"] == "completed", operation["error"]
        assert (service(clos, f"{name}-api")["port"], says(new), operation["attempt"]) == (new, "ok", 1)
    stop(clos, name)


def test_a_process_is_ended_only_by_somebody_who_names_it_in_the_answer(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    with squatter(port) as other:
        asked = clos.post(f"/groups/{name}/start", {"on_conflict": "ask"}).json()
        wait_until(lambda: clos.get(f"/operations/{asked['id']}").json()["status"] == "waiting", 20)
        unnamed = clos.post(f"/operations/{asked['id']}/answer", {"choice": "kill_process"})
        assert (unnamed.status_code, other.poll()) == (422, None)
        answer = {"choice": "kill_process", "confirm": str(other.pid)}
        operation = ended(clos, clos.post(f"/operations/{asked['id']}/answer", answer))

        assert operation["status"] == "completed", operation["error"]
        assert other.wait(10) == -signal.SIGTERM
        assert service(clos, f"{name}-api")["port"] == port
    stop(clos, name)


def test_a_question_that_nobody_answers_ends_as_policy_says(clos: Api) -> None:
    port, other_port = free_port(), free_port()
    policy = {"on_start": "ask", "ask_timeout": 1}
    fails = group(clos, web_service("api", port), conflicts=policy)
    moves = group(clos, web_service("api", other_port), conflicts=policy | {"on_timeout": "migrate"})
    with squatter(port) as other, squatter(other_port):
        operation = ended(clos, clos.post(f"/groups/{fails}/start"))
        assert (operation["status"], operation["error"]["code"]) == ("failed", "port_held")
        assert operation["error"]["holder"]["pid"] == other.pid
        assert ended(clos, clos.post(f"/groups/{moves}/start"))["status"] == "completed"
        assert service(clos, f"{moves}-api")["port"] != other_port
    stop(clos, moves)


def test_policy_moves_what_waits_for_its_port_and_leaves_stopped_services_alone(clos: Api) -> None:
    port, idle_port = free_port(), free_port()
    policy = {"auto_resolve": True, "on_start": "fail"}
    name = group(clos, web_service("api", port), conflicts=policy)
    idle = group(clos, web_service("api", idle_port), conflicts=policy)
    with squatter(port), squatter(idle_port):
        operation = ended(clos, clos.post(f"/groups/{name}/start", {"on_conflict": "fail"}))
        assert operation["error"]["code"] == "port_held"
        # The scheduled look comes within half a minute.
        wait_until(lambda: service(clos, f"{name}-api")["status"] == "running", 60, "the move by policy")
        assert service(clos, f"{name}-api")["port"] != port
        assert service(clos, f"{idle}-api")["port"] == idle_port
        actors = {each["initiated_by"] for each in clos.get(f"/operations?service={name}-api").json()["items"]}
        assert "system:conflicts" in actors
    stop(clos, name)


def test_dependents_are_only_reported_where_policy_says_so(clos: Api) -> None:
    port, web_port = free_port(), free_port()
    name = group(
        clos, web_service("api", port), asker("web", web_port, needs=["api"]), conflicts={"dependents": "report"}
    )
    does(clos, f"/groups/{name}/start")
    does(clos, f"/services/{name}-api/stop")
    with squatter(port):
        does(clos, f"/services/{name}-api/start", {"on_conflict": "migrate"})
        new = service(clos, f"{name}-api")["port"]
        web = service(clos, f"{name}-web")
        assert web["drift"] is True
        assert any(f":{port}" in each and f":{new}" in each for each in web["drift_detail"]), web["drift_detail"]
    stop(clos, name)


def test_dependents_outside_of_a_start_are_restarted_by_an_operation_of_their_own(clos: Api) -> None:
    port, web_port = free_port(), free_port()
    name = group(clos, web_service("api", port), asker("web", web_port, needs=["api"]))
    does(clos, f"/groups/{name}/start")
    does(clos, f"/services/{name}-api/stop")
    with squatter(port):
        does(clos, f"/services/{name}-api/start", {"on_conflict": "migrate"})
        new = service(clos, f"{name}-api")["port"]
        wait_until(lambda: service(clos, f"{name}-web")["drift"] is False, 30, "the restart of web")
        wait_until(lambda: _says_or_nothing(web_port) == f"http://127.0.0.1:{new} ok", 10)
    stop(clos, name)


def _says_or_nothing(port: int) -> str:
    try:
        return says(port)
    except OSError:
        return ""


def test_a_conflict_that_is_resolved_meanwhile_is_refused_and_nothing_is_changed(clos: Api) -> None:
    port = free_port()
    name = group(clos, web_service("api", port))
    with squatter(port):
        conflict = conflict_on(clos, port)
    does(clos, "/conflicts/scan")
    refused = clos.post(f"/conflicts/{conflict['id']}/resolve", {"strategy": "migrate_service"})

    assert (refused.status_code, refused.json()["code"]) == (409, "conflict_closed")
    assert service(clos, f"{name}-api")["port"] == port


def test_a_pid_that_died_between_plan_and_act_is_refused_and_looked_at_again(clos: Api) -> None:
    port = free_port()
    group(clos, web_service("api", port))
    with squatter(port) as other:
        conflict = conflict_on(clos, port)
        body = {"strategy": "kill_process", "confirm": str(other.pid)}
        other.kill()
        other.wait(10)
        operation = ended(clos, clos.post(f"/conflicts/{conflict['id']}/resolve", body))

    assert operation["status"] == "failed"
    assert operation["error"]["code"] in ("conflict_closed", "holder_changed")
    assert clos.get(f"/conflicts/{conflict['id']}").json()["status"] == "resolved"


def test_all_conflicts_that_policy_may_resolve_are_resolved_in_one_operation(clos: Api) -> None:
    ports = [free_port(), free_port()]
    name = group(clos, web_service("a", ports[0]), web_service("b", ports[1]))
    with squatter(ports[0]), squatter(ports[1]):
        for port in ports:
            conflict_on(clos, port)
        operation = does(clos, "/conflicts/resolve", {"max_risk": "low"})
        moved = {service(clos, f"{name}-{each}")["port"] for each in "ab"}
        assert moved.isdisjoint(ports)
        assert len(moved) == 2
        assert {step["action"] for step in operation["steps"]} == {"migrate_port"}


def test_a_resolution_whose_worker_is_killed_is_carried_on_by_another_one() -> None:
    with running_api(CLOS_SECURITY__RATE_LIMIT__REQUESTS_PER_MINUTE="0") as clos:
        clos.rig.scheduler()
        worker = clos.rig.worker()
        port, web_port = free_port(), free_port()
        name = group(clos, web_service("api", port, delay_s=1.0), asker("web", web_port, needs=["api"]))
        does(clos, f"/groups/{name}/start")
        group(clos, web_service("api", port))
        conflict = conflict_on(clos, port)
        body = {"strategy": "migrate_service", "service_id": f"{name}-api"}
        asked = clos.post(f"/conflicts/{conflict['id']}/resolve", body)

        def moved() -> bool:
            steps = clos.get(f"/operations/{asked.json()['id']}").json()["steps"]
            return any(s["action"] == "migrate_port" and s["status"] == "completed" for s in steps)

        wait_until(moved, 20, "the move")
        worker.kill()
        worker.wait(10)
        clos.rig.worker()
        operation = ended(clos, asked)
        new = service(clos, f"{name}-api")["port"]

        assert operation["status"] == "completed", operation["error"]
        assert operation["attempt"] == 2
        assert says(web_port) == f"http://127.0.0.1:{new} ok"
        assert clos.get(f"/conflicts/{conflict['id']}").json()["resolution"]["to_port"] == new
        began = time.monotonic()
        stop(clos, name)
        assert time.monotonic() - began < 30

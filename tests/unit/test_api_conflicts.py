"""Conflicts over HTTP: what is shown, who may resolve what, and what is refused with nothing changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.conflicts import ConflictKind, ConflictStatus, Found
from domain.observation import Listener, PortFacts
from domain.states import OperationStatus
from models import operations, port_facts, questions, registry_conflicts
from models.base import now
from models.ports import PortLease
from tests.unit.api_kit import PORT, Kit, api, kit, process
from tests.waiting import wait_until

__all__ = ["api"]
FIELDS = {
    "id", "kind", "status", "port", "host_ip", "protocol", "claimants", "holder", "detail", "options", "detected_at",
    "resolved_at", "resolution", "undoable",
}  # fmt: skip
OPTION = {"strategy", "description", "cause", "risk_level", "effects", "port", "from_port", "service_id"}
STRANGER = {
    "kind": "process", "running": True, "name": "nc", "container_id": None, "service_id": None, "pid": 812,
    "command": "nc -l", "user": "app", "started_at": None, "own": False,
}  # fmt: skip
CONTAINER = STRANGER | {"kind": "container", "name": "db", "container_id": "c" * 64, "pid": None, "command": None}
_ports = iter(range(9100, 9900))


def taken(api: Kit, kind: ConflictKind = ConflictKind.FOREIGN_PROCESS, holder: Any = STRANGER, **more: Any) -> Any:
    """A conflict about the port of a service of its own."""
    port, group = next(_ports), api.name()
    api.post("/groups", {"name": group, "services": [process("api", port=port), process("web")], **more})
    found = Found(kind, port, "127.0.0.1", "tcp", (f"{group}-api",), holder, f"port {port}/tcp is held by somebody")
    with api.record.write() as session:
        return registry_conflicts.shown(registry_conflicts.add(session, found, {PORT}))


def seen(api: Kit, *listeners: Listener) -> None:
    with api.record.write() as session:
        port_facts.record_facts(session, PortFacts(now(), listeners))


def reaches(api: Kit, queue: str, operation_id: str) -> None:
    """Wait until an operation's message has gone out."""
    gone: list[Any] = []
    wait_until(lambda: gone.extend(api.sent(queue)) or operation_id in [each.args[0] for each in gone], 5)


def resolve(conflict: Any) -> str:
    return f"/conflicts/{conflict['id']}/resolve"


def changed(api: Kit) -> Any:
    """What a refused request must leave as it was."""
    rows = api.get("/conflicts?status=active,resolved,ignored&limit=200")["items"]
    newest = api.get("/operations?limit=1")["items"]
    leases = api.ask(lambda session: sorted((each.port, each.service_id) for each in session.query(PortLease)))
    return rows, newest, leases


def test_a_conflict_is_given_back_with_every_field_of_the_contract(api: Kit) -> None:
    conflict = taken(api)
    found = api.get(f"/conflicts/{conflict['id']}")
    assert found == conflict
    assert found.keys() == FIELDS
    assert (found["status"], found["kind"], found["undoable"]) == ("active", "foreign_process", False)
    assert (found["detected_at"][-1], found["resolved_at"], found["resolution"]) == ("Z", None, None)
    assert found["holder"] == STRANGER
    by_strategy = {each["strategy"]: each for each in found["options"]}
    assert list(by_strategy) == ["migrate_service", "change_port", "kill_process", "ask", "ignore"]
    assert all(each.keys() - {"confirm"} == OPTION for each in found["options"])
    assert by_strategy["kill_process"]["confirm"] == "nc (pid 812)"
    assert [each["risk_level"] for each in by_strategy.values()] == ["low", "low", "high", "low", "low"]


def test_the_list_shows_active_conflicts_unless_others_are_named(api: Kit) -> None:
    active, ended, ignored = taken(api), taken(api), taken(api)
    with api.record.write() as session:
        registry_conflicts.close(session, registry_conflicts.get(session, ended["id"]), now())
        registry_conflicts.ignore(session, registry_conflicts.get(session, ignored["id"]))

    def ids(query: str) -> set[int]:
        return {each["id"] for each in api.get(f"/conflicts?limit=200{query}")["items"]}

    mine = {active["id"], ended["id"], ignored["id"]}
    assert ids("") & mine == {active["id"]}
    assert ids("&status=resolved") & mine == {ended["id"]}
    assert ids("&status=ignored,active") & mine == {active["id"], ignored["id"]}
    assert list(api.refused("GET", "/conflicts?status=open", None, 422, "validation_failed")["errors"]) == ["status"]


def test_conflicts_come_in_pages_with_a_total(api: Kit) -> None:
    for _ in range(3):
        taken(api)
    first = api.get("/conflicts?limit=2")
    rest = api.get(f"/conflicts?limit=200&cursor={first['next_cursor']}")
    assert len(first["items"]) == 2
    assert first["total"] == rest["total"] == len(first["items"]) + len(rest["items"])
    assert [each["id"] for each in rest["items"]] == sorted(each["id"] for each in rest["items"])
    api.refused("GET", "/conflicts?cursor=xyz", None, 400, "invalid_cursor")


def test_a_port_names_its_own_conflicts_while_they_last(api: Kit) -> None:
    conflict, _other = taken(api), taken(api)
    path = f"/ports/{conflict['port']}/conflicts"
    assert api.get(path) == {"items": [conflict], "next_cursor": None, "total": 1}
    with api.record.write() as session:
        registry_conflicts.close(session, registry_conflicts.get(session, conflict["id"]), now())
    assert api.get(path)["total"] == 0
    for port in ("0", "65536"):
        api.refused("GET", f"/ports/{port}/conflicts", None, 404, "port_not_found")


def test_an_unknown_conflict_is_not_found_on_every_path(api: Kit) -> None:
    api.refused("GET", "/conflicts/999999", None, 404, "conflict_not_found")
    api.refused("POST", "/conflicts/999999/resolve", {"strategy": "ignore"}, 404, "conflict_not_found")
    api.refused("POST", "/conflicts/999999/undo", None, 404, "conflict_not_found")
    assert api.call("GET", f"/conflicts/{2**63}").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "strategy"), ({"strategy": "pray"}, "strategy"), ({"strategy": "stop_container"}, "strategy"),
        ({"strategy": "change_port"}, "port"), ({"strategy": "change_port", "port": 0}, "port"),
        ({"strategy": "change_port", "port": 65536}, "port"), ({"strategy": "change_port", "port": "9400"}, "port"),
        ({"strategy": "change_port", "port": PORT}, "port"), ({"strategy": "migrate_service", "port": 9400}, "port"),
        ({"strategy": "migrate_service", "service_id": "nobody"}, "service_id"),
        ({"strategy": "kill_process"}, "confirm"), ({"strategy": "kill_process", "confirm": "nc"}, "confirm"),
        ({"strategy": "ignore", "why": "x"}, "why"), ({"strategy": "ignore", "dry_run": "yes"}, "dry_run"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_where_it_stands_and_changes_nothing(api: Kit, body: Any, field: str) -> None:
    conflict = taken(api)
    before = changed(api)
    assert list(api.refused("POST", resolve(conflict), body, 422, "validation_failed")["errors"]) == [field]
    assert changed(api) == before


def test_the_port_that_the_conflict_is_about_is_no_way_out(api: Kit) -> None:
    conflict = taken(api)
    wish = {"strategy": "change_port", "port": conflict["port"]}
    assert list(api.refused("POST", resolve(conflict), wish, 422, "validation_failed")["errors"]) == ["port"]


def test_a_port_that_another_has_is_refused_with_its_holder(api: Kit) -> None:
    conflict, other = taken(api), taken(api)
    before = changed(api)
    wish = {"strategy": "change_port", "port": other["port"]}
    problem = api.refused("POST", resolve(conflict), wish, 409, "port_held")
    assert problem["holder"]["service_id"] == other["claimants"][0]
    listening = next(_ports)
    seen(api, Listener("127.0.0.1", listening, "tcp", pid=77, name="sshd", command="sshd -D", user="root"))
    problem = api.refused("POST", resolve(conflict), wish | {"port": listening}, 409, "port_held")
    assert (problem["holder"]["pid"], problem["holder"]["name"]) == (77, "sshd")
    assert changed(api) == before


def test_a_migration_holds_its_service_and_is_sent_to_a_worker(api: Kit) -> None:
    conflict = taken(api)
    answer = api.call("POST", resolve(conflict), {"strategy": "migrate_service"})
    made = answer.json
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v2/operations/{made['id']}")
    assert (made["type"], made["status"], made["service_id"]) == (
        "conflict.resolve", "pending", conflict["claimants"][0],
    )  # fmt: skip
    assert made["parameters"]["choices"][0]["strategy"] == "migrate_service"
    reaches(api, "operations", made["id"])
    rival = api.refused("POST", f"/services/{conflict['claimants'][0]}/start", None, 409, "operation_in_progress")
    assert rival["operation_id"] == made["id"]
    twice = api.refused("POST", resolve(conflict), {"strategy": "migrate_service"}, 409, "operation_in_progress")
    assert twice["operation_id"] == made["id"]


def test_a_dry_run_holds_nothing(api: Kit) -> None:
    conflict = taken(api)
    made = api.post(resolve(conflict), {"strategy": "migrate_service", "dry_run": True}, 202)
    assert made["parameters"]["dry_run"] is True
    api.post(f"/services/{conflict['claimants'][0]}/start", {}, 202)


def test_a_conflict_that_somebody_else_resolved_is_closed(api: Kit) -> None:
    conflict = taken(api)
    done = {"strategy": "migrate_service", "from_port": 1, "to_port": 2, "operation_id": "o"}
    with api.record.write() as session:
        registry_conflicts.close(session, registry_conflicts.get(session, conflict["id"]), now(), done)
    for strategy in ("migrate_service", "ignore", "kill_process"):
        problem = api.refused("POST", resolve(conflict), {"strategy": strategy}, 409, "conflict_closed")
        assert (problem["conflict_id"], problem["resolution"]) == (conflict["id"], done)


def test_ending_a_process_needs_its_own_permission_and_its_name(api: Kit) -> None:
    operator, admin = api.user("operator")["key"], api.key
    wish = {"strategy": "kill_process", "confirm": "nc (pid 812)"}
    conflict = taken(api)
    before = changed(api)
    problem = api.refused("POST", resolve(conflict), wish, 403, "forbidden", key=operator)
    assert problem["permission"] == "ports:terminate"
    foreign = {"strategy": "migrate_service", "allow_foreign": True}
    assert api.refused("POST", resolve(conflict), foreign, 403, "forbidden", key=operator)["permission"] == (
        "ports:terminate"
    )
    assert changed(api) == before
    assert api.post(resolve(conflict), wish, 202, key=admin)["parameters"]["choices"][0]["strategy"] == "kill_process"
    api.post(resolve(taken(api)), wish | {"confirm": "812"}, 202)
    api.post(resolve(taken(api)), {"strategy": "migrate_service"}, 202, key=operator)


def test_who_ended_which_process_stands_in_the_audit_log(api: Kit) -> None:
    conflict = taken(api)
    api.post(resolve(conflict), {"strategy": "kill_process", "confirm": "812"}, 202)
    entry = next(each for each in api.get("/audit?limit=5")["items"] if each["resource"].endswith(resolve(conflict)))
    assert entry["details"]["process"] == "nc (pid 812)"
    assert len(entry["details"]["command_sha256"]) == 64
    assert entry["actor"].startswith("admin-")


@pytest.mark.parametrize(
    ("method", "path", "body", "permission"),
    [
        ("GET", "/conflicts", None, "conflicts:read"), ("GET", "/conflicts/1", None, "conflicts:read"),
        ("GET", "/ports/9000/conflicts", None, "conflicts:read"), ("POST", "/conflicts/scan", {}, "conflicts:scan"),
        ("POST", "/conflicts/resolve", {}, "conflicts:resolve"), ("POST", "/conflicts/1/undo", {}, "conflicts:resolve"),
        ("POST", "/conflicts/1/resolve", {"strategy": "ignore"}, "conflicts:resolve"),
    ],
)  # fmt: skip
def test_every_call_needs_its_permission(api: Kit, method: str, path: str, body: Any, permission: str) -> None:
    without = api.user("admin", scopes=["services:read"])["key"]
    assert api.refused(method, path, body, 403, "forbidden", key=without)["permission"] == permission


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Kit]:
    """An API whose conflicts nobody else works on."""
    with kit(tmp_path) as made:
        yield made


def test_everything_within_a_risk_is_resolved_in_its_least_risky_way(alone: Kit) -> None:
    moving = taken(alone)
    warned = taken(alone, ConflictKind.OUT_OF_RANGE, None)
    made = alone.post("/conflicts/resolve", {}, 202)
    chosen = {each["conflict_id"]: each["strategy"] for each in made["parameters"]["choices"]}
    assert chosen[moving["id"]] == "migrate_service"
    assert warned["id"] not in chosen
    assert "kill_process" not in chosen.values()
    alone.finish(made["id"])
    dry = alone.post("/conflicts/resolve", {"max_risk": "high", "dry_run": True}, 202)
    assert "kill_process" not in [each["strategy"] for each in dry["parameters"]["choices"]]
    for wrong in ({"max_risk": "deadly"}, {"strategy": "ignore"}):
        problem = alone.refused("POST", "/conflicts/resolve", wrong, 422, "validation_failed")
        assert list(problem["errors"]) == list(wrong)


def test_what_cannot_be_undone_is_refused_and_changes_nothing(api: Kit) -> None:
    conflict = taken(api)
    before = changed(api)
    api.refused("POST", f"/conflicts/{conflict['id']}/undo", None, 409, "undo_impossible")
    assert changed(api) == before


def moved(api: Kit) -> Any:
    """A conflict whose service was moved; its old port is nobody's."""
    conflict = taken(api)
    service_id, old, new = conflict["claimants"][0], conflict["port"], next(_ports)
    restore = {"service_id": service_id, "from_port": old, "to_port": new, "protocol": "tcp", "port_name": ""}
    api.call("PATCH", f"/services/{service_id}", {"port": new})
    with api.record.write() as session:
        row = registry_conflicts.get(session, conflict["id"])
        row.undo = {"restore": [restore]}
        done = {"strategy": "migrate_service", "from_port": old, "to_port": new, "operation_id": "o"}
        registry_conflicts.close(session, row, now(), done)
        for lease in session.query(PortLease).filter_by(port=old):
            session.delete(lease)
    return api.get(f"/conflicts/{conflict['id']}")


def test_a_migration_can_be_undone_while_the_old_port_is_nobodys(api: Kit) -> None:
    conflict = moved(api)
    assert conflict["undoable"] is True
    made = api.post(f"/conflicts/{conflict['id']}/undo", None, 202)
    assert (made["type"], made["service_id"]) == ("conflict.undo", conflict["claimants"][0])
    api.refused("POST", f"/conflicts/{conflict['id']}/undo", None, 409, "operation_in_progress")


def test_an_undo_whose_port_is_taken_since_is_refused_with_its_holder(api: Kit) -> None:
    conflict = moved(api)
    seen(api, Listener("0.0.0.0", conflict["port"], "tcp", pid=99, name="late", command="late", user="app"))
    before = changed(api)
    problem = api.refused("POST", f"/conflicts/{conflict['id']}/undo", None, 409, "undo_impossible")
    assert problem["holder"]["pid"] == 99
    assert changed(api) == before


def test_a_pending_scan_will_do_and_a_repeated_request_is_answered_with_the_first(api: Kit) -> None:
    first = api.post("/conflicts/scan", None, 202)
    assert (first["type"], first["parameters"]) == ("conflict.scan", {})
    assert api.post("/conflicts/scan", None, 202)["id"] == first["id"]
    reaches(api, "ports", first["id"])
    conflict = taken(api)
    wish = {"strategy": "migrate_service"}
    once = api.call("POST", resolve(conflict), wish, Idempotency_Key=api.name("key"))
    key = api.name("key")
    api.finish(once.json["id"])
    made = api.call("POST", resolve(conflict), wish, Idempotency_Key=key)
    again = api.call("POST", resolve(conflict), wish, Idempotency_Key=key)
    assert again.json == made.json
    assert again.headers["Idempotency-Replayed"] == "true"
    other = api.call("POST", resolve(conflict), {"strategy": "ignore"}, Idempotency_Key=key)
    assert other.json["code"] == "idempotency_key_reused"


@pytest.fixture(scope="module")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with kit(tmp_path_factory.mktemp("reporting"), CLOS_CONFLICTS__DEPENDENTS="report") as made:
        yield made


@pytest.mark.parametrize("policy", ["restart", "report"])
def test_running_dependents_are_held_only_where_they_are_restarted(api: Kit, reporting: Kit, policy: str) -> None:
    asked = api if policy == "restart" else reporting
    conflict = taken(asked)
    provider, web = conflict["claimants"][0], conflict["claimants"][0].replace("-api", "-web")
    asked.call("PATCH", f"/services/{web}", {"environment": {"API_URL": "${url:api}"}})
    asked.seen(web, status="running")
    made = asked.post(resolve(conflict), {"strategy": "migrate_service"}, 202)
    assert made["parameters"]["services"] == ([provider, web] if policy == "restart" else [provider])


# --- questions and retries -----------------------------------------------------------------------------------

CHOICES = [
    {"choice": "migrate_service", "description": "d", "risk_level": "low", "effects": []},
    {"choice": "change_port", "description": "d", "risk_level": "low", "effects": []},
    {"choice": "kill_process", "description": "d", "risk_level": "high", "effects": [], "confirm": "nc (pid 812)"},
]


@pytest.fixture
def asking(api: Kit) -> Any:
    """A start that waits for an answer about a port."""
    conflict = taken(api)
    made = api.post(f"/services/{conflict['claimants'][0]}/start", {"on_conflict": "ask"}, 202)
    with api.record.write() as session:
        operations.claim(session, made["id"], {"pid": 1}, now())
        key = f"foreign_process:{conflict['port']}/tcp/127.0.0.1"
        question = {"key": key, "text": "What?", "choices": CHOICES, "expires_at": "2030-01-01T00:00:00.000000Z"}
        question |= {"port": conflict["port"], "protocol": "tcp", "host_ip": "127.0.0.1"}
        questions.ask(session, operations.get(session, made["id"]), question)
    return api.get(f"/operations/{made['id']}"), conflict


def test_a_question_is_shown_with_its_choices_and_answered_once(api: Kit, asking: Any) -> None:
    operation, _ = asking
    assert operation["status"] == "waiting"
    assert operation["question"].keys() == {"text", "choices", "expires_at", "port", "protocol", "host_ip"}
    path = f"/operations/{operation['id']}/answer"
    answered = api.post(path, {"choice": "migrate_service"}, 202)
    assert (answered["status"], answered["question"]) == ("pending", None)
    assert list(answered["parameters"]["answers"].values()) == ["migrate_service"]
    assert answered["parameters"]["answered_by"].startswith("admin-")
    api.refused("POST", path, {"choice": "migrate_service"}, 409, "operation_not_waiting")


def test_an_answer_that_ends_a_process_needs_its_permission_and_its_name(api: Kit, asking: Any) -> None:
    path = f"/operations/{asking[0]['id']}/answer"
    operator = api.user("operator")["key"]
    wish = {"choice": "kill_process", "confirm": "nc (pid 812)"}
    assert api.refused("POST", path, wish, 403, "forbidden", key=operator)["permission"] == "ports:terminate"
    for wrong in (None, "nc", "81", "kill_process"):
        errors = api.refused("POST", path, wish | {"confirm": wrong}, 422, "validation_failed")["errors"]
        assert list(errors) == ["confirm"]
    assert api.post(path, wish | {"confirm": "812"}, 202)["parameters"]["answer"] == "kill_process"


def test_an_answer_names_a_port_that_is_free(api: Kit, asking: Any) -> None:
    operation, conflict = asking
    path = f"/operations/{operation['id']}/answer"
    for wrong in ("change_port", "change_port:", "change_port:0", "change_port:22:22", f"change_port:{PORT}",
                  f"change_port:{conflict['port']}", "migrate_service:9400"):  # fmt: skip
        assert list(api.refused("POST", path, {"choice": wrong}, 422, "validation_failed")["errors"]) == ["choice"]
    other = taken(api)
    held = api.refused("POST", path, {"choice": f"change_port:{other['port']}"}, 409, "port_held")
    assert held["holder"]["service_id"] == other["claimants"][0]
    free = f"change_port:{next(_ports)}"
    assert api.post(path, {"choice": free}, 202)["parameters"]["answer"] == free


def test_a_conflicts_own_question_is_about_its_port(api: Kit) -> None:
    conflict = taken(api)
    made = api.post(resolve(conflict), {"strategy": "ask"}, 202)
    with api.record.write() as session:
        question = {"key": f"conflict:{conflict['id']}", "text": "?", "choices": CHOICES, "expires_at": None}
        question |= {"port": conflict["port"], "protocol": "tcp", "host_ip": "127.0.0.1"}
        questions.ask(session, operations.get(session, made["id"]), question)
    wish = {"choice": f"change_port:{conflict['port']}"}
    problem = api.refused("POST", f"/operations/{made['id']}/answer", wish, 422, "validation_failed")
    assert "the conflict is about" in problem["errors"]["choice"][0]


def test_a_retry_of_a_start_forgets_what_was_answered_and_decided(api: Kit, asking: Any) -> None:
    operation, _ = asking
    api.post(f"/operations/{operation['id']}/answer", {"choice": "migrate_service"}, 202)
    with api.record.write() as session:
        row = operations.get(session, operation["id"])
        row.parameters = (row.parameters or {}) | {"decision": {"moves": []}}
    assert "decision" not in api.get(f"/operations/{operation['id']}")["parameters"]
    api.finish(operation["id"], OperationStatus.FAILED)
    again = api.post(f"/operations/{operation['id']}/retry", {}, 202)
    assert again["parameters"].keys() == {"on_conflict", "services", "named"}
    assert "decision" not in api.ask(lambda session: operations.get(session, again["id"]).parameters)


def test_a_resolution_is_retried_on_the_conflict_as_it_is_now(api: Kit) -> None:
    conflict = taken(api)
    first = api.post(resolve(conflict), {"strategy": "migrate_service"}, 202)
    with api.record.write() as session:
        row = operations.get(session, first["id"])
        row.parameters = (row.parameters or {}) | {"decision": {"moves": []}, "answers": {"conflict:1": "ignore"}}
    api.finish(first["id"], OperationStatus.FAILED)
    again = api.post(f"/operations/{first['id']}/retry", {}, 202)
    assert (again["retry_of"], again["type"]) == (first["id"], "conflict.resolve")
    assert again["parameters"] == first["parameters"]
    assert api.ask(lambda session: operations.get(session, again["id"]).parameters).keys() == {
        "choices", "services", "targets", "dry_run",
    }  # fmt: skip
    api.refused("POST", f"/services/{conflict['claimants'][0]}/start", None, 409, "operation_in_progress")
    api.finish(again["id"], OperationStatus.FAILED)
    with api.record.write() as session:
        registry_conflicts.close(session, registry_conflicts.get(session, conflict["id"]), now())
    api.refused("POST", f"/operations/{first['id']}/retry", {}, 409, "conflict_closed")


def test_what_ended_a_process_is_not_repeated(api: Kit) -> None:
    first = api.post(resolve(taken(api)), {"strategy": "kill_process", "confirm": "812"}, 202)
    api.finish(first["id"], OperationStatus.FAILED)
    problem = api.refused("POST", f"/operations/{first['id']}/retry", {}, 422, "validation_failed")
    assert "confirmation" in problem["errors"]["strategy"][0]


def test_retries_of_conflict_operations_need_the_rights_of_the_first(api: Kit) -> None:
    undo = api.post(f"/conflicts/{moved(api)['id']}/undo", None, 202)
    scan = api.post("/conflicts/scan", None, 202)
    with api.record.write() as session:  # what other tests left open
        for row in registry_conflicts.open_ones(session):
            registry_conflicts.close(session, row, now())
    one = taken(api)
    several = api.post("/conflicts/resolve", {"dry_run": True}, 202)
    assert [each["conflict_id"] for each in several["parameters"]["choices"]] == [one["id"]]
    viewer = api.user("viewer")["key"]
    for first, permission in ((undo, "conflicts:resolve"), (scan, "conflicts:scan"), (several, "conflicts:resolve")):
        api.finish(first["id"], OperationStatus.FAILED)
        path = f"/operations/{first['id']}/retry"
        assert api.refused("POST", path, {}, 403, "forbidden", key=viewer)["permission"] == permission
        again = api.post(path, {}, 202)
        assert (again["retry_of"], again["type"]) == (first["id"], first["type"])
        assert again["parameters"] == first["parameters"]


def test_a_container_is_stopped_by_whoever_may_resolve(api: Kit) -> None:
    conflict = taken(api, ConflictKind.FOREIGN_CONTAINER, CONTAINER)
    operator = api.user("operator")["key"]
    made = api.post(resolve(conflict), {"strategy": "stop_container"}, 202, key=operator)
    assert made["parameters"]["choices"][0]["strategy"] == "stop_container"
    assert ConflictStatus(api.get(f"/conflicts/{conflict['id']}")["status"]) is ConflictStatus.ACTIVE

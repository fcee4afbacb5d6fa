"""Which strategies fit a conflict, at what risk, and what they say they would do."""

from typing import Any

import pytest

from domain.conflicts import ConflictKind, Found
from domain.strategies import Move, Risk, Situation, Strategy, automatic, confirmation, options, resolver

PROCESS = {"kind": "process", "running": True, "name": "postgres", "pid": 812, "user": "ann", "own": False,
           "command": "postgres -D /data", "container_id": None, "service_id": None}  # fmt: skip
CONTAINER = PROCESS | {"kind": "container", "name": "theirs", "container_id": "c0ffee", "pid": None}
SERVICE = PROCESS | {"kind": "service", "service_id": "other-api", "name": "api", "own": True}
MOVE = Move("shop-api", "tcp", 9311, 9000)


def situation(holder: dict[str, Any] | None = PROCESS, **more: Any) -> Situation:
    kind = {"process": ConflictKind.FOREIGN_PROCESS, "container": ConflictKind.FOREIGN_CONTAINER}.get(
        (holder or {}).get("kind", ""), ConflictKind.DUPLICATE_CLAIM
    )
    found = Found(kind, 9311, "127.0.0.1", "tcp", ("shop-api",), holder, "port 9311/tcp is held by postgres (pid 812)")
    return Situation(found, **({"moves": [MOVE]} | more))


def names(found: list[dict[str, Any]]) -> list[str]:
    return [each["strategy"] for each in found]


def test_a_foreign_process_offers_to_move_to_be_ended_to_ask_and_to_ignore():
    assert names(options(situation())) == ["migrate_service", "change_port", "kill_process", "ask", "ignore"]


def test_a_container_or_a_service_can_be_stopped_and_not_killed():
    for holder in (CONTAINER, SERVICE):
        found = names(options(situation(holder)))
        assert "stop_container" in found
        assert "kill_process" not in found


def test_a_stopped_container_is_not_stopped_again():
    assert "stop_container" not in names(options(situation(CONTAINER | {"running": False})))


def test_a_process_that_cannot_be_seen_or_is_clos_own_is_never_offered_to_be_killed():
    for holder in (PROCESS | {"pid": None, "kind": "unknown"}, PROCESS | {"own": True}, PROCESS | {"kind": "clos"}):
        assert "kill_process" not in names(options(situation(holder)))


def test_every_option_has_its_cause_its_risk_and_its_effects():
    for each in options(situation()):
        assert each["cause"] == "port 9311/tcp is held by postgres (pid 812)"
        assert each["risk_level"] in ("low", "medium", "high")
        assert each["effects"] or each["strategy"] == "ask"


def test_each_claimant_that_could_move_is_an_option_of_its_own():
    moves = [MOVE, Move("other-api", "tcp", 9311, 9001)]
    found = [each for each in options(situation(SERVICE, moves=moves)) if each["strategy"] == "migrate_service"]
    assert [(each["service_id"], each["port"]) for each in found] == [("shop-api", 9000), ("other-api", 9001)]


def test_where_the_range_is_full_only_a_port_by_name_is_offered():
    found = names(options(situation(moves=[Move("shop-api", "tcp", 9311, None)])))
    assert "migrate_service" not in found
    assert "change_port" in found


def test_a_move_restarts_what_runs_and_what_refers_to_it():
    found = resolver("migrate_service").resolve(
        situation(up=frozenset({"shop-api", "shop-web"}), dependents={"shop-api": ["shop-web"]})
    )
    assert (found.risk, found.restarts, found.moves) == (Risk.LOW, ("shop-api", "shop-web"), (MOVE,))
    assert any("shop-web" in effect for effect in found.effects)


def test_dependents_are_only_reported_where_policy_says_so():
    found = resolver("migrate_service").resolve(
        situation(up=frozenset({"shop-api"}), dependents={"shop-api": ["shop-web"]}, restart_dependents=False)
    )
    assert found.restarts == ("shop-api",)
    assert any("out of date" in effect and "shop-web" in effect for effect in found.effects)


def test_a_service_that_waits_for_its_port_is_started_whoever_gives_way():
    waiting = frozenset({"shop-api"})
    for name, holder in (("migrate_service", PROCESS), ("stop_container", CONTAINER), ("kill_process", PROCESS)):
        found = resolver(name).resolve(situation(holder, waiting=waiting))
        assert found.starts == ("shop-api",), name
        assert any("started" in effect for effect in found.effects)


def test_the_named_port_is_the_one_of_change_port():
    found = resolver("change_port").resolve(situation(port=9444))
    assert (found.strategy, found.moves[0].to_port) == (Strategy.CHANGE_PORT, 9444)


def test_ending_a_process_names_it_and_asks_for_its_name():
    found = resolver("kill_process").resolve(situation())
    assert found.risk is Risk.HIGH
    assert confirmation(PROCESS) == "postgres (pid 812)" == found.option()["confirm"]


@pytest.mark.parametrize(("holder", "moves", "max_risk", "expected"), [
    (PROCESS, [MOVE], "low", "migrate_service"),
    (CONTAINER, [MOVE], "high", "migrate_service"),
    (CONTAINER, [], "medium", "stop_container"),
    (CONTAINER, [], "low", None),
    (PROCESS, [], "high", None),  # nobody's yes
])  # fmt: skip
def test_policy_takes_the_least_risky_way_and_never_ends_a_process(holder, moves, max_risk, expected):
    found = automatic(situation(holder, moves=moves), max_risk)
    assert (found.strategy.value if found else None) == expected

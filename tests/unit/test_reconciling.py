from datetime import UTC, datetime, timedelta

import pytest

from domain.observation import Instance, Phase
from domain.reconciling import (
    Act,
    Cause,
    Decision,
    Down,
    Mode,
    Need,
    Policy,
    World,
    back_off,
    cause_of,
    decide,
    policy_of,
    repairs,
)
from domain.specs import RestartPolicy, RuntimeKind

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
DOCKER, PROCESS = RuntimeKind.DOCKER, RuntimeKind.PROCESS


def _at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def _exited(began: float = 0, ended: float | None = 100, **more) -> Instance:
    return Instance("x", Phase.EXITED, "ref", exit_code=more.pop("code", 137), started_at=_at(began),
                    ended_at=None if ended is None else _at(ended), **more)  # fmt: skip


@pytest.mark.parametrize(
    ("what", "runtime", "instance", "world", "cause"),
    [
        ("by itself", DOCKER, _exited(code=1), World(), Cause.CRASH),
        ("killed, and nothing says by whom", DOCKER, _exited(), World(), Cause.CRASH),
        ("stopped by hand", DOCKER, _exited(by_hand=True), World(engine_since=_at(-50)), Cause.PERSON),
        ("out of memory beats a kill", DOCKER, _exited(oom_killed=True, by_hand=True), World(), Cause.CRASH),
        ("before the engine's present start", DOCKER, _exited(), World(engine_since=_at(101)), Cause.ENGINE),
        ("also if its events look like a person's", DOCKER, _exited(by_hand=True), World(engine_since=_at(101)),
         Cause.ENGINE),
        ("whatever it ended with", DOCKER, _exited(code=0), World(engine_since=_at(101)), Cause.ENGINE),
        ("the engine began before it did", DOCKER, _exited(began=50), World(engine_since=_at(10)), Cause.CRASH),
        ("it outlived the engine (live restore), then died", DOCKER, _exited(ended=200), World(engine_since=_at(100)),
         Cause.CRASH),
        ("while the engine was away", DOCKER, _exited(), World(away=(_at(90), _at(120))), Cause.ENGINE),
        ("after that window", DOCKER, _exited(ended=130), World(away=(_at(90), _at(120))), Cause.CRASH),
        ("an engine's window says nothing of a process", PROCESS, _exited(), World(away=(_at(90), _at(120))),
         Cause.CRASH),
        ("under an earlier boot", DOCKER, _exited(), World(host_since=_at(500), engine_since=_at(510)), Cause.HOST),
        ("a process under an earlier boot", PROCESS, _exited(ended=None, code=None), World(host_since=_at(500)),
         Cause.HOST),
        ("a process killed with its wrapper", PROCESS, _exited(ended=None, code=None, by_hand=True), World(),
         Cause.PERSON),
        ("begun after the boot", DOCKER, _exited(began=600, ended=700), World(host_since=_at(500)), Cause.CRASH),
        ("removed", DOCKER, Instance("x"), World(engine_since=_at(50)), Cause.PERSON),
        ("removed, and the host was restarted: that removes nothing", DOCKER, Instance("x"), World(host_since=_at(50)),
         Cause.PERSON),
        ("another engine answers at its address", DOCKER, Instance("x"), World(engine_new_since=_at(50)), Cause.ENGINE),
        ("a process's folder was removed", PROCESS, Instance("x"), World(), Cause.PERSON),
        ("a process's folder did not outlive the boot", PROCESS, Instance("x"), World(host_since=_at(5)), Cause.HOST),
    ],
)  # fmt: skip
def test_the_cause_of_a_death_is_told_from_what_was_seen(what, runtime, instance, world, cause):
    assert cause_of(runtime, instance, T0, world) is cause, what


def _down(cause: Cause | None = Cause.CRASH, policy: str = "unless-stopped", **more) -> Down:
    return Down(cause, RestartPolicy(policy), **{"exit_code": 1, "fresh": True} | more)


@pytest.mark.parametrize(
    ("what", "down", "act", "deaths", "wait_s"),
    [
        ("the first death of one that ran well", _down(), Act.REPAIR, 1, 0),
        ("the second waits", _down(deaths=1), Act.WAIT, 2, 1),
        ("and the third longer", _down(deaths=2), Act.WAIT, 3, 2),
        ("up to a minute", _down(deaths=8), Act.WAIT, 9, 60),
        ("the tenth in a row is the last", _down(deaths=9), Act.GIVE_UP, 10, None),
        ("and stays so", _down(deaths=10, fresh=False), Act.GIVE_UP, 10, None),
        ("it still waits", _down(deaths=2, fresh=False, not_before=_at(1)), Act.WAIT, 2, 1),
        ("it has waited", _down(deaths=2, fresh=False, not_before=_at(-1)), Act.REPAIR, 2, -1),
        ("a repair that failed is one more death", _down(deaths=1, fresh=False, tried_in_vain=True), Act.WAIT, 2, 1),
        ("one that was not attempted is none", _down(deaths=1, fresh=False), Act.REPAIR, 1, 0),
        ("no", _down(policy="no"), Act.LEAVE, 0, None),
        ("on-failure, and it did not fail", _down(policy="on-failure", exit_code=0), Act.LEAVE, 0, None),
        ("on-failure", _down(policy="on-failure"), Act.REPAIR, 1, 0),
        ("always", _down(policy="always", exit_code=0), Act.REPAIR, 1, 0),
        ("the engine's", _down(restart_by_engine=True), Act.LEAVE, 0, None),
        ("no cause is known", _down(None), Act.LEAVE, 0, None),
        ("a person did it", _down(Cause.PERSON), Act.REPORT, 0, None),
        ("the engine, and `no` is about its own end", _down(Cause.ENGINE, "no"), Act.REPAIR, 0, 0),
        ("the host, and it is no death", _down(Cause.HOST, deaths=3), Act.REPAIR, 3, 0),
        ("its repair failed", _down(Cause.HOST, fresh=False, tried_in_vain=True), Act.WAIT, 1, 1),
    ],
)  # fmt: skip
def test_what_is_done_follows_from_cause_policy_and_deaths(what, down, act, deaths, wait_s):
    decided = decide(down, Policy(), T0)
    assert decided == Decision(act, deaths, None if wait_s is None else _at(wait_s)), what


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize(("mode", "act"), [("off", Act.LEAVE), ("report", Act.REPORT), ("repair", Act.REPAIR)])
def test_a_groups_policy_decides_per_cause(cause, mode, act):
    policy = policy_of(Policy(), {cause.value: mode})
    assert decide(_down(cause), policy, T0).act is act
    others = [each for each in Cause if each is not cause]
    assert all(policy.mode(each) is Policy().mode(each) for each in others)


def test_what_an_older_clos_wrote_as_a_policy_says_nothing():
    default = Policy(engine=Mode.REPORT, crash_loop_limit=3)
    assert policy_of(default, {"enabled": True, "interval": 5, "person": "nonsense"}) == default
    assert policy_of(default, None) == default


def test_the_back_off_doubles_from_a_second_to_a_minute():
    waits = [back_off(deaths).total_seconds() for deaths in range(1, 11)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_hangs_together_is_brought_back_together_and_what_does_not_apart():
    needs = [Need("web", "api"), Need("api", "db"), Need("job", "db"), Need("other", "cache")]
    found = repairs({"web", "job", "other"}, needs, held=())
    assert {(named, services) for named, services in found.sets} == {
        (frozenset({"web", "job"}), frozenset({"web", "api", "job", "db"})),
        (frozenset({"other"}), frozenset({"other", "cache"})),
    }


def test_who_cannot_do_without_something_that_stays_down_waits_for_it():
    needs = [Need("web", "api"), Need("api", "db"), Need("job", "db", required=False), Need("job", "cache")]
    found = repairs({"web", "api", "job"}, needs, held={"db"})
    assert found.held_up == {"web": "db", "api": "db"}
    assert found.sets == ((frozenset({"job"}), frozenset({"job", "cache"})),)

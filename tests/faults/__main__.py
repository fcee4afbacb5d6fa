"""The fault campaigns: `python -m tests.faults --rounds 50 --seed 7 [--only killed_workers] [--jobs 3]`."""

import argparse
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from tests.conftest import missing
from tests.faults import (
    allocations,
    cancelled_steps,
    cut_clients,
    killed_adopts,
    killed_steps,
    killed_updates,
    killed_workers,
    lost_messages,
    one_port,
    port_races,
    side_by_side,
    stopped_processes,
)
from tests.faults.side_by_side import Line
from tests.unit.any_world.again import explore, leaves


def _killed(rounds: int, seed: int, docker: bool) -> tuple[bool, dict[str, object]]:
    done = killed_workers.campaign(rounds, seed, docker)
    wrong = [f"round {each.number} (kill after {each.after_s:.2f} s): {each.wrong}" for each in done if each.wrong]
    slowest = max(each.ended_s for each in done)
    return not wrong, {"rounds": rounds, "slowest_end_after_kill_s": round(slowest, 1), "wrong": wrong}


def _messages(campaign: Callable[[int], dict[str, object]], count: int) -> tuple[bool, dict[str, object]]:
    seen = campaign(count)
    return seen["ended"] == {"completed": count} and seen["copies"] == {1: count}, seen


def _cut(cuts: int, seed: int) -> tuple[bool, dict[str, object]]:
    seen = cut_clients.campaign(cuts, seed)
    return bool(seen["identical"]) and seen["operation"] == "completed", seen


def _terminated(count: int) -> tuple[bool, dict[str, object]]:
    seen = stopped_processes.terminated(count)
    well = seen["ended"] == {"completed": count} and seen["copies"] == {1: count} and not seen["strange"]
    return well and bool(seen["in_time"]), seen


def _repeated() -> tuple[bool, dict[str, object]]:
    seen = stopped_processes.repeated_posts()
    return bool(seen["one"]) and seen["copies"] == {1: 1}, seen


def _allocations(rounds: int, seed: int) -> tuple[bool, dict[str, object]]:
    clients, each = (64, 500) if rounds >= 50 else (8, 25)
    seen = allocations.campaign(clients, each, seed)
    return not seen["wrong"] and seen["granted"] + seen["full"] == clients * each, seen


def _one_port(docker: bool) -> tuple[bool, dict[str, object]]:
    seen = one_port.thirty_starts(docker)
    return bool(seen["well"]), seen


def _port_races(rounds: int, seed: int, docker: bool) -> tuple[bool, dict[str, object]]:
    done = port_races.campaign(rounds, seed, docker)
    wrong = [f"round {each.number} ({each.on_conflict}): {each.wrong}" for each in done if each.wrong]
    won = [each for each in done if each.won]
    return not wrong, {
        "rounds": rounds,
        "port_grabbed": len(won),
        "moved": sum(each.moved for each in won),
        "failed_with_holder": sum(each.ended == "failed" for each in won),
        "slowest_s": max(each.took_s for each in done),
        "wrong": wrong,
    }


def _killed_steps(rounds: int, verb: str, docker: bool) -> tuple[bool, dict[str, object]]:
    return _kills(killed_steps.campaign(verb, docker, 1 if rounds >= 50 else 17))


def _kills(done: list[killed_steps.Round]) -> tuple[bool, dict[str, object]]:
    wrong = [f"{each.step} at {each.edge}: {each.wrong}" for each in done if each.wrong]
    return not wrong, {
        "kills": len(done),
        "before_the_end": sum(each.struck for each in done),
        "slowest_end_after_kill_s": round(max(each.ended_s for each in done), 1),
        "wrong": wrong,
    }


def _killed_updates(rounds: int, back: bool, docker: bool) -> tuple[bool, dict[str, object]]:
    return _kills(killed_updates.campaign(back, docker, 1 if rounds >= 50 else 13))


def _killed_adopts(rounds: int, what: str) -> tuple[bool, dict[str, object]]:
    # They have some 20, 35 and 5 moments: two or three of each.
    sample = {killed_adopts.ADOPT: 9, killed_adopts.BACK: 13, killed_adopts.DROP: 2}
    return _kills(killed_adopts.campaign(what, 1 if rounds >= 50 else sample[what]))


def _cancelled(rounds: int, verb: str, docker: bool) -> tuple[bool, dict[str, object]]:
    every = 1 if rounds >= 50 else 4 if verb == "stop" else 8
    done = cancelled_steps.update(docker, every) if verb == "update" else cancelled_steps.simple(verb, docker, every)
    wrong = [f"{each.step}: {each.wrong}" for each in done if each.wrong]
    return not wrong, {
        "cancels": len(done),
        "before_the_end": sum(each.struck for each in done),
        "slowest_end_after_cancel_s": round(max(each.ended_s for each in done), 1),
        "wrong": wrong,
    }


def _any_world(rounds: int, seed: int) -> tuple[bool, dict[str, object]]:
    worlds = 40 * rounds if rounds >= 50 else max(1, min(8, 40 * rounds))
    try:
        explore(worlds, seed)
    except Exception as found:  # what is told is the world, which the exception's text holds
        told = "\n".join(str(each) or repr(each) for each in leaves(found))
        print(f"python -m tests.unit.any_world.again FILE plays this once more:\n{told}", flush=True)
        return False, {"worlds": worlds, "found": told}
    return True, {"worlds": worlds}


def campaigns(rounds: int, seed: int) -> dict[str, Callable[[], tuple[bool, dict[str, object]]]]:
    """Every campaign by name. A full run is 50 rounds; a sample takes fewer operations along as well."""
    count = 100 if rounds >= 50 else 20
    return {
        "killed_workers_process": lambda: _killed(rounds, seed, False),
        "killed_workers_docker": lambda: _killed(rounds, seed, True),
        "killed_steps_start_process": lambda: _killed_steps(rounds, "start", False),
        "killed_steps_start_docker": lambda: _killed_steps(rounds, "start", True),
        "killed_steps_stop_process": lambda: _killed_steps(rounds, "stop", False),
        "killed_steps_stop_docker": lambda: _killed_steps(rounds, "stop", True),
        "killed_updates_process": lambda: _killed_updates(rounds, False, False),
        "killed_updates_docker": lambda: _killed_updates(rounds, False, True),
        "killed_rollbacks_process": lambda: _killed_updates(rounds, True, False),
        "killed_rollbacks_docker": lambda: _killed_updates(rounds, True, True),
        "killed_adopts_docker": lambda: _killed_adopts(rounds, killed_adopts.ADOPT),
        "killed_adopts_back_docker": lambda: _killed_adopts(rounds, killed_adopts.BACK),
        "killed_imports_docker": lambda: _killed_adopts(rounds, killed_adopts.DROP),
        "cancelled_start_process": lambda: _cancelled(rounds, "start", False),
        "cancelled_start_docker": lambda: _cancelled(rounds, "start", True),
        "cancelled_stop_process": lambda: _cancelled(rounds, "stop", False),
        "cancelled_stop_docker": lambda: _cancelled(rounds, "stop", True),
        "cancelled_update_process": lambda: _cancelled(rounds, "update", False),
        "cancelled_update_docker": lambda: _cancelled(rounds, "update", True),
        # A sample is of the same worlds each time: new ones are explored by the full run.
        "any_world": lambda: _any_world(rounds, seed if rounds >= 50 else 11),
        "redis_stopped": lambda: _messages(
            lambda n: lost_messages.redis_stopped(n, 10.0 if rounds >= 50 else 4.0), count
        ),
        "redis_wiped": lambda: _messages(lost_messages.redis_wiped, 100),
        "cut_clients": lambda: _cut(50 if rounds >= 50 else 10, seed),
        "terminated": lambda: _terminated(count),
        "repeated_posts": _repeated,
        # 200 rounds in all, half of them with containers.
        "port_races_process": lambda: _port_races(2 * rounds, seed, False),
        "port_races_docker": lambda: _port_races(2 * rounds, seed, True),
        "allocations": lambda: _allocations(rounds, seed),
        "thirty_starts_process": lambda: _one_port(False),
        "thirty_starts_docker": lambda: _one_port(True),
        "delivered_twice": lambda: _messages(lost_messages.delivered_twice, count),
    }


def _carried_out(name: str, campaign: Callable[[], tuple[bool, dict[str, object]]]) -> Line:
    """Run one campaign here; what is printed of it."""
    began = time.monotonic()
    try:
        well, seen = campaign()
    except Exception as broke:  # the other campaigns go on, and this one is told of as any that failed
        traceback.print_exc()
        well, seen = False, {"broke": f"{type(broke).__name__}: {broke}"[:2000]}
    return {"campaign": name, "ok": well, "took_s": round(time.monotonic() - began), **seen}


def _lines(names: list[str], rounds: int, seed: int, jobs: int) -> Iterator[Line]:
    if jobs > 1 and len(names) > 1:
        yield from side_by_side.lines(names, rounds, seed, jobs)
        return
    known = campaigns(rounds, seed)
    for name in names:
        yield _carried_out(name, known[name])


def _asked() -> tuple[argparse.Namespace, list[str]]:
    """What was said, and the names of the campaigns that are meant."""
    words = argparse.ArgumentParser(prog="python -m tests.faults")
    words.add_argument("--rounds", type=int, default=50)
    words.add_argument("--seed", type=int, default=None)
    words.add_argument("--only", default="", help="a campaign, or a part of the names of some")
    words.add_argument("--jobs", type=int, default=1, help="how many campaigns go on side by side")
    asked = words.parse_args()
    known = list(campaigns(asked.rounds, 0))
    chosen = [asked.only] if asked.only in known else [name for name in known if asked.only in name]
    if not chosen:
        words.error(f"no campaign is called {asked.only!r}; there are {', '.join(known)}")
    return asked, chosen


def main() -> int:
    """Run what was asked for, print one line of JSON each."""
    asked, chosen = _asked()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(2**31)
    print(f"seed {seed}, {asked.rounds} rounds", flush=True)
    failed: list[Line] = []
    if why := missing("docker"):
        left_out = [name for name in chosen if "docker" in name]
        chosen = [name for name in chosen if name not in left_out]
        for name in left_out:
            print(json.dumps({"campaign": name, "left_out": why}), flush=True)
            failed += [{"campaign": name, "left_out": why}] if os.environ.get("CI") == "true" else []
    for line in _lines(chosen, asked.rounds, seed, asked.jobs):
        print(json.dumps(line), flush=True)
        failed += [] if line["ok"] else [line]
    # Once more, since of a long log often only the end is kept.
    for line in failed:
        print(f"failed: {json.dumps(line)}")
    print("failed: " + ", ".join(str(line["campaign"]) for line in failed) if failed else "all held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""How a service of Compose is restarted, stopped and looked after, as CLOS has it: times are seconds here."""

from collections.abc import Mapping
from typing import Any

from domain.compose import numbers
from domain.compose.problems import Problem

_POLICIES = {each: each for each in ("no", "on-failure", "always", "unless-stopped")}
_OF_A_SWARM = {"none": "no", "on-failure": "on-failure", "any": "always"}
_STOP_TIMEOUT_S = 10.0
_SHORTEST_S, _LONGEST_STOP_S = 0.1, 3600.0


def restart(service: Mapping[str, Any], path: str) -> tuple[str, list[Problem], tuple[str, str]]:
    """The `restart_policy` of a service at that path, what is wrong with its own, and which of its keys wants it given
    up after how many times."""
    if policy := (service.get("deploy") or {}).get("restart_policy"):  # where there are both, as Compose does it
        said, times = str(policy.get("condition") or "any"), str(policy.get("max_attempts") or "")
        key, known, named = "deploy.restart_policy", _OF_A_SWARM, f"{path}.deploy.restart_policy.condition"
    else:
        said, colon, times = str(service.get("restart") or "no").partition(":")
        key, known, named = "restart", _POLICIES, f"{path}.restart"
        if colon and (said != "on-failure" or not times.isdecimal()):
            said = f"{said}:{times}"
    if said not in known:
        return "no", [Problem(named, f"{said[:100]!r} is none of {', '.join(known)}")], (key, "")
    return known[said], [], (key, times)


def stop_timeout(grace: Any, path: str) -> tuple[float, list[Problem]]:
    """How long a service at that path may take to stop, of its `stop_grace_period`, and what is wrong with that."""
    problems: list[Problem] = []
    seconds = _seconds(grace, _STOP_TIMEOUT_S, f"{path}.stop_grace_period", problems)
    return max(_SHORTEST_S, min(_LONGEST_STOP_S, seconds)), problems


def read(check: Mapping[str, Any], runtime: str, path: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The `health_check` of a service, of its `healthcheck` at that path; None: it is not looked at. What is wrong."""
    problems: list[Problem] = []
    test = [str(word) for word in check.get("test") or ()]
    if check.get("disable") or test[:1] == ["NONE"] or not check:
        return None, problems
    found: dict[str, Any] = {
        "type": "docker" if runtime == "docker" else "exec",
        "interval": max(_SHORTEST_S, _seconds(check.get("interval"), 30.0, f"{path}.interval", problems)),
        "timeout": max(_SHORTEST_S, _seconds(check.get("timeout"), 30.0, f"{path}.timeout", problems)),
        "retries": int(check.get("retries") or 3),
        "start_period": _seconds(check.get("start_period"), 0.0, f"{path}.start_period", problems),
    }
    if runtime != "docker":
        found["test"] = ["/bin/sh", "-c", " ".join(test[1:])] if test[:1] == ["CMD-SHELL"] else test[1:]
    return found, problems


def _seconds(given: Any, otherwise: float, path: str, problems: list[Problem]) -> float:
    try:
        return numbers.seconds(given) if given else otherwise
    except ValueError as wrong:
        problems.append(Problem(path, str(wrong)))
        return otherwise

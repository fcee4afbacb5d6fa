"""What worlds are made of: groups of services that need each other, and what may be asked of them and befall them."""

from typing import Any

from hypothesis import strategies as st

from domain.errors import StartFailed
from tests.unit.worker_kit import every

FIRST_PORT = 21000
PLACE = st.integers(0, 11)
_VERBS = st.sampled_from(["start", "start", "start", "stop", "restart", "update", "update"])
_OF = st.sampled_from(["service", "service", "group", "group", "some", "groups"])
WAYS = st.sets(st.sampled_from(["wait", "wait", "after", "keep", "cascade", "afresh"]), max_size=2).map(sorted)
# A verb, of what, which one, and how.
REQUEST = st.tuples(_VERBS, _OF, PLACE, WAYS)
REQUESTS = st.lists(REQUEST, min_size=1, max_size=3)
BATCH = st.tuples(st.sampled_from(["start", "stop", "restart"]), st.lists(PLACE, max_size=2))
# What is wrong with a new version, by name; nothing with every third.
VERSIONS: dict[str, dict[str, Any]] = {
    "well": {},
    "well again": {},
    "never healthy": {"unhealthy": True},
    "ends": {"ends_with": 1},
    "refused": {"fail_on": {"start": StartFailed("no such program")}},
    "not made": {"fail_on": {"replace": StartFailed("the image is gone")}},
    "slow": {"delay_s": 0.02},
}
_CHANGE = st.tuples(PLACE, st.sampled_from([*VERSIONS, "port", "port"]))
CHANGES = st.lists(_CHANGE, min_size=1, max_size=3, unique_by=lambda each: each[0])
FATE = st.dictionaries(
    # The number of the boundary at which it comes.
    st.integers(1, 30) | st.integers(1, 90),
    st.tuples(
        st.sampled_from(
            [
                "die",
                "die",
                "die",
                "freeze",
                "late",
                "late",
                "leave",
                "cancel",
                "cancel",
                "end",
                "ill",
                "refuse",
                "hold",
                "unreachable",
                "not restored",
            ]
        ),
        PLACE,
    ),
    max_size=3,
)
FAULTS: dict[str, dict[str, Any]] = {
    "ill": {"unhealthy": True},
    "slow": {"delay_s": 0.02},
    "crashes": {"ends_with": 1},
    "does not stop": {"fail_on": {"stop": StartFailed("it does not end")}},
    "is not made": {"fail_on": {"create": StartFailed("no room")}},
    "refuse": {"fail_on": {"start": StartFailed("refused")}},
    "not restored": {"fail_on": {"restore": StartFailed("it is gone")}},
    "not settled": {"fail_on": {"settle": StartFailed("it is in use")}},
    "is well": {},
}
BEFALLS = st.sampled_from(
    ["end", "end", "by hand", "removed", "cancel", "reach", "wiped", "reboot", "deadly", "worker", "worker", *FAULTS]
)


@st.composite
def graphs(draw):
    """Groups of services that need each other, also over groups; every third world or so has a job in it."""
    groups, made = [], []
    for number in range(draw(st.integers(1, 3))):
        services = []
        for _ in range(draw(st.integers(1, 4))):
            service = draw(_service(made))
            services.append(service)
            made.append((f"g{number}", service))
        depends = draw(st.sets(st.integers(0, number - 1), max_size=1)) if number else set()
        groups.append({"name": f"g{number}", "services": services, "dependencies": [f"g{each}" for each in depends],
                       "start_order": draw(st.integers(0, 2))})  # fmt: skip
    return groups


@st.composite
def _service(draw, made):
    number = len(made)
    kind = draw(st.sampled_from(["plain", "checked", "checked", "job"]))
    body = {"name": f"s{number}", "depends_on": [], "restart_policy": "no" if kind == "job" else "unless-stopped"}
    body |= draw(st.sampled_from([{"runtime": "process", "command": ["x"]}, {"runtime": "docker", "image": "x"}]))
    if kind == "checked":
        body["health_check"] = every(0.01)
    if kind != "job" and draw(st.integers(0, 4)) == 0:
        body["ports"] = [{"host_port": FIRST_PORT + number, "container_port": 80} if body["runtime"] == "docker"
                         else {"host_port": FIRST_PORT + number}]  # fmt: skip
    for place in sorted(draw(st.sets(st.integers(0, number - 1), max_size=2))) if number else ():
        group, provider = made[place]
        body["depends_on"].append(
            {"service": f"{group}/{provider['name']}", "condition": draw(_condition(provider)),
             "required": draw(st.integers(0, 5)) > 0, "restart": draw(st.booleans())})  # fmt: skip
    return body


def _condition(provider):
    if provider["restart_policy"] == "no":
        return st.just("completed")
    return st.sampled_from(["started", "healthy"] if "health_check" in provider else ["started"])

"""Ports of a Compose service as CLOS claims them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domain.compose.problems import Problem
from domain.specs import MOST_PORTS

_LOOPBACK = "127.0.0.1"
MOST = 1000
_LAST = 65_535
_NUMBERS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
# The last part of the short form: what is published inside, which Compose writes out one by one.
_RANGE = re.compile(r"(?:.*:)?(\d{1,9})-(\d{1,9})(?:/\w+)?")


class Ports:
    """The ports of one service, and what had to be said about them."""

    def __init__(self, service: str, ports: list[Mapping[str, Any]]) -> None:
        self._path = f"services.{service}.ports"
        self.warnings: list[str] = []
        self.problems: list[Problem] = []
        self._names: set[str] = set()
        self._taken: set[tuple[str, int]] = set()
        if len(ports) > MOST_PORTS:
            said = f"{len(ports)} ports are published: a service has at most {MOST_PORTS}"
            self.problems.append(Problem(self._path, said))
            ports = []
        self.found = [self._one(place, port) for place, port in enumerate(ports)]
        self.found = [port for port in self.found if port]

    def _one(self, place: int, port: Mapping[str, Any]) -> dict[str, Any]:
        protocol = str(port.get("protocol") or "tcp")
        if protocol not in ("tcp", "udp"):
            self._refuse(place, f"{protocol} is not published: tcp and udp are")
            return {}
        target = int(port.get("target") or 0)
        if not 1 <= target <= _LAST:
            self._refuse(place, f"the container's port is a number from 1 to {_LAST}, and not {target}")
            return {}
        claim: dict[str, Any] = {
            "name": self._name(place, port, target, protocol),
            "host_ip": str(port.get("host_ip") or _LOOPBACK),
            "container_port": target,
            "protocol": protocol,
        }
        published = str(port.get("published") or "")
        if not port.get("host_ip") and published:
            self._say("are published on 127.0.0.1, not on every address: give a host IP to reach them from elsewhere")
        number = self._published(place, published, protocol)
        if number is not None:
            claim["host_port"] = number
        return claim

    def _published(self, place: int, published: str, protocol: str) -> int | None:
        if published in ("", "0"):
            return None
        numbers = _numbers(published)
        if not numbers:
            self._refuse(place, f"{published[:100]!r} is no port from 1 to {_LAST}, and no range such as 8000-8010")
            return None
        free = next((each for each in numbers if (protocol, each) not in self._taken), None)
        if free is None:
            self._refuse(place, f"no port of {published} is left")
            return None
        if len(numbers) > 1:
            self._say(f"may take any of {published}: CLOS claims {free}")
        self._taken.add((protocol, free))
        return free

    def _refuse(self, place: int, reason: str) -> None:
        self.problems.append(Problem(f"{self._path}[{place}]", reason))

    def _say(self, text: str) -> None:
        warning = f"{self._path}: {text}"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _name(self, place: int, port: Mapping[str, Any], target: int, protocol: str) -> str:
        """A port keeps its lease by its name: the first one has none, the others are named by what they are."""
        if port.get("name"):
            wish = str(port["name"])
        elif place == 0:
            wish = ""
        else:
            wish = f"{target}" if protocol == "tcp" else f"{target}-{protocol}"
        name, number = wish, 1
        while name in self._names:
            number += 1
            name = f"{wish}-{number}" if wish else f"port-{number}"
        self._names.add(name)
        return name


def _numbers(published: str) -> range:
    """The numbers that a text means; none, where it is no port and no range."""
    found = _NUMBERS.fullmatch(published)
    if found is None:
        return range(0)
    first, last = int(found[1]), int(found[2] or found[1])
    return range(first, last + 1) if first >= 1 and last <= _LAST else range(0)


def written(ports: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Claims as Compose's long form, as it prints them; a port that was left open is left open.

    One that has no number at all is none of Compose's: a process is told its port when it has one.
    """
    for port in ports:
        target = port.get("container_port") or port.get("host_port")
        if not target:
            continue
        found: dict[str, Any] = {"mode": "ingress", "target": target, "protocol": port.get("protocol") or "tcp"}
        if port.get("name"):
            found["name"] = port["name"]
        found["host_ip"] = port.get("host_ip") or _LOOPBACK
        if port.get("host_port"):
            found["published"] = str(port["host_port"])
        yield found


def too_many(ports: Any) -> str | None:
    """Why a service's ports are not taken, if they are more than 1000: Compose would write out every range in full."""
    entries: Iterable[Any] = ports if isinstance(ports, list) else ()
    number = sum(_number(each) for each in entries)
    return f"{number} ports: at most {MOST} of a service" if number > MOST else None


def _number(entry: Any) -> int:
    found = _RANGE.fullmatch(entry.strip()) if isinstance(entry, str) else None
    return max(int(found[2]) - int(found[1]) + 1, 1) if found else 1

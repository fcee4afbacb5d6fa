"""Which sockets are bound on this host, and by whom: every process that holds one, and what it is part of.

Read from the kernel directly. Light on purpose: `cli/local` imports it too.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from domain import ports as decide
from domain.errors import PortHeld
from domain.observation import Binding, Listener, PortFacts
from domain.specs import PortRequest
from workers.runtimes import sockets
from workers.runtimes.bind_probe import can_bind, hidden_reason
from workers.runtimes.namespaces import blind_because
from workers.runtimes.process_names import command_of, user_name
from workers.runtimes.process_tree import Home, Tree
from workers.runtimes.sockets import SocketsUnseen, ephemeral_range

__all__ = ["SocketsUnseen", "can_bind", "ephemeral_range"]
PROC = sockets.PROC
# A process and when it began: what tells it from all that had or will have its pid.
Key = tuple[int, int]


def _nobody(_pids: Collection[int]) -> Mapping[int, str]:
    return {}


@dataclass
class Lookout:
    """Looks at the sockets of a host, again and again: what cannot change is remembered between two looks.

    `owners` says which of some processes belong to which service of ours; CLOS itself runs on `home`.
    """

    owners: Callable[[Collection[int]], Mapping[int, str]] = _nobody
    home: Path | None = None
    proc: str = PROC
    _containers: dict[Key, str | None] = field(default_factory=dict)

    def look(self, port: int | None = None, protocol: str | None = None) -> list[Listener]:
        """Every listening TCP and every bound, unconnected UDP socket, once per address and process that holds it.

        A socket whose process cannot be seen (another user's, and we are not root) has no pid, only its user. Bound
        TCP sockets that do not listen are in no table; `can_bind` finds them.

        Raises:
            SocketsUnseen: the tables cannot be read, or are not the host's.
        """
        if self.proc == PROC and (because := blind_because()) is not None:
            raise SocketsUnseen(because)
        found = sockets.bound(port, protocol, self.proc)
        holders = holders_of({each.inode for each in found if each.inode}, self.proc)
        told = self._told({pid for pids in holders.values() for pid in pids})
        if port is None:
            living = {(pid, known["start_ticks"]) for pid, known in told.items()}
            self._containers = {key: value for key, value in self._containers.items() if key in living}
        facts: list[Listener] = []
        for each in found:
            place = (each.host_ip, each.port, each.protocol)
            seen = [told[pid] for pid in holders.get(each.inode, ()) if pid in told]
            facts += [Listener(*place, **facts_of) for facts_of in seen]
            if not seen:
                facts.append(Listener(*place, user=user_name(each.uid)))
        return facts

    def _told(self, pids: Collection[int]) -> dict[int, dict[str, Any]]:
        """What is known of each process that holds a socket; those that are gone since are left out."""
        tree = Tree(self.proc)
        services = self.owners(pids)
        home = None if self.home is None else Home(self.home)
        told = {}
        for pid in pids:
            found = tree.process(pid)
            if found is None or found.dead:
                continue
            key = (pid, found.start_ticks)
            service_id = services.get(pid)
            own = service_id is not None or (home is not None and home.has(pid, tree))
            told[pid] = {
                "pid": pid,
                "name": found.name,
                "command": command_of(pid, self.proc),
                "user": _user_of(pid, self.proc),
                "start_ticks": found.start_ticks,
                "parents": tuple((parent.pid, parent.name) for parent in tree.parents(pid)),
                "service_id": service_id,
                "container_id": self._container(key, tree),
                "own": own,
            }
        return told

    def _container(self, key: Key, tree: Tree) -> str | None:
        if key not in self._containers:
            self._containers[key] = tree.container(key[0])
        return self._containers[key]


def _user_of(pid: int, proc: str) -> str | None:
    try:
        return user_name(os.stat(f"{proc}/{pid}").st_uid)
    except OSError:
        return None


def holders_of(inodes: Collection[int], proc: str = PROC) -> dict[int, list[int]]:
    """The processes that hold each of some sockets, as far as we may see them."""
    found: dict[int, list[int]] = {}
    if not inodes:
        return found
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for name in os.listdir(proc):
        if name[0] not in "123456789" or not name.isdigit():
            continue
        folder = f"{proc}/{name}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        mine = set()
        for number in numbers:
            try:
                link = os.readlink(f"{folder}/{number}")
            except OSError:
                continue
            if link in links:
                mine.add(links[link])
        for inode in mine:
            found.setdefault(inode, []).append(int(name))
    return found


def listeners() -> list[Listener]:
    """Every bound socket of this host, without saying what of it is ours (`Lookout.look`)."""
    return Lookout().look()


def holders(
    port: int,
    protocol: str = "tcp",
    host_ip: str | None = None,
    bindings: Iterable[Binding] = (),
    lookout: Lookout | None = None,
) -> list[dict[str, Any]]:
    """Who holds a port, as Holder objects of the interface; with `host_ip`, who is in a bind's way there.

    `bindings` are what containers publish: where they are given, no engine's proxy is named; `lookout` knows which
    processes are services of ours. Where the sockets cannot be read nobody is named.
    """
    try:
        found = (lookout or Lookout()).look(port, protocol)
    except SocketsUnseen:
        found = []
    facts = PortFacts(datetime.now(UTC), tuple(found), tuple(bindings))
    every: list[Listener | Binding] = [*facts.listeners, *facts.bindings]
    places = [host_ip] if host_ip is not None else [*dict.fromkeys(each.host_ip for each in every)]
    shown: list[dict[str, Any]] = []
    for place in places:
        for each in decide.holders(place, protocol, port, facts, {}):
            if each not in shown:
                shown.append(each)
    return [each | {"started_at": started_at(each["start_ticks"])} for each in shown]


# What stands in a bind's way where nobody listens, in place of a name.
_HIDDEN = {
    "connected": "a connection that has the port as its own end",
    "time_wait": "a connection that was closed a moment ago",
    "bound_not_listening": "a socket that is bound and does not listen",
}


def blocking(
    port: int, protocol: str, host_ip: str, bindings: Iterable[Binding] = (), lookout: Lookout | None = None
) -> dict[str, Any]:
    """Who makes a bind there fail, after one has failed: the first holder, or what is known where there is none."""
    if found := holders(port, protocol, host_ip, bindings, lookout):
        return found[0]
    nobody = decide.holder(Listener(host_ip, port, protocol), {})
    return nobody | {"name": _HIDDEN[hidden_reason(host_ip, port, protocol)], "hint": None}


def refuse_held(ports: Iterable[PortRequest], lookout: Lookout | None = None) -> None:
    """The last look before a start. Raises: PortHeld: a bind to one of these fails now."""
    for each in ports:
        if each.host_port is not None and can_bind(each.host_ip, each.host_port, each.protocol)[0] == "held":
            holder = blocking(each.host_port, each.protocol, each.host_ip, lookout=lookout)
            raise PortHeld(each.host_port, each.protocol, each.host_ip, holder)


def started_at(start_ticks: int | None) -> str | None:
    """When a process began, as the interface writes it; None where that is not known."""
    boot = sockets.boot()
    if start_ticks is None or not boot:
        return None
    at = datetime.fromtimestamp(boot["at"], UTC) + timedelta(seconds=start_ticks / boot["ticks"])
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

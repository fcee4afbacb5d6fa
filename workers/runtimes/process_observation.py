"""What the records and the process table together say of each launched service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from domain.observation import Instance, Phase
from workers.runtimes import process_identity as processes
from workers.runtimes.process_state import Identity, StateFolder

_CANNOT_RUN = {126: "the command could not be run (exit 126)", 127: "the command was not found (exit 127)"}


Wrappers = Sequence[processes.Marked]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the process table found: wrappers by launch, and living members of sessions without one."""

    wrappers: Mapping[str, processes.Marked]
    members: Mapping[int, Sequence[processes.Stat]]


class Sightings:
    """Joins the records of one home with the processes of this boot."""

    def __init__(self, state: StateFolder, instance_id: str, boot_id: str) -> None:
        self._state = state
        self._instance_id = instance_id
        self._boot_id = boot_id
        # Launches that were seen to have left nobody behind. Their session's number may be somebody else's since.
        self._over: set[str] = set()
        # Of the last look: wrappers of a service of which another one counts.
        self.beside: tuple[Instance, ...] = ()

    def wrappers(self) -> Wrappers:
        """Every wrapper that runs now. It takes longer than all the rest, so what is done under one service's lock may
        share it: nobody else starts that service meanwhile."""
        return processes.marked(self._instance_id)

    def look(self, identities: Iterable[Identity], running_now: Wrappers | None = None) -> Look:
        """One look at the process table; a second one only where a wrapper is gone and others may live on."""
        wrappers = {found.launch: found for found in (self.wrappers() if running_now is None else running_now)}
        without = [found for found in identities if found.pid and found.launch not in wrappers]
        orphaned = {found.pid or 0: found.start_ticks or 0 for found in without if self._may_live_on(found)}
        members: dict[int, list[processes.Stat]] = {pid: [] for pid in orphaned}
        for stat in processes.every_stat() if orphaned else ():
            if stat.session in orphaned and not stat.dead and stat.start_ticks >= orphaned[stat.session]:
                members[stat.session].append(stat)
        self._over |= {found.launch for found in without if not members.get(found.pid or 0)}
        return Look(wrappers, members)

    def _may_live_on(self, identity: Identity) -> bool:
        """Whether something of its session may live: its command, if the wrapper was killed, or what that started."""
        if identity.boot_id != self._boot_id or identity.pid is None or identity.launch in self._over:
            return False
        leader = processes.read_stat(identity.pid)
        # Another process that bears the number proves that nobody of the old session was left.
        return leader is None or leader.start_ticks == identity.start_ticks

    def all(self) -> dict[str, Instance]:
        """Every service that was launched or runs."""
        identities = self._state.identities()
        look = self.look(identities)
        seen = {found.service_id: self.instance(found, look) for found in identities}
        beside = []
        for wrapper in look.wrappers.values():
            found = _running(wrapper, processes.started_at(wrapper.start_ticks).isoformat())
            counted = seen.get(wrapper.service_id, Instance(""))
            if not counted.alive:
                seen[wrapper.service_id] = found
            elif counted.ref != found.ref:
                beside.append(found)
        self.beside = tuple(beside)
        return seen

    def instance(self, identity: Identity, look: Look) -> Instance:
        """What became of a launch."""
        if (wrapper := look.wrappers.get(identity.launch)) is not None:
            return _running(wrapper, identity.launched_at)
        if identity.pid is None and self._state.ending(identity) is None:
            return Instance(identity.service_id)
        members = look.members.get(identity.pid or 0)
        if self._state.ending(identity) is not None:
            return replace(self._ended(identity), leftovers=bool(members))
        if members:
            return Instance(
                identity.service_id,
                Phase.RUNNING,
                identity.ref,
                members[0].pid,
                started_at=identity.started_at,
                spec_hash=identity.spec_hash,
                detail=None if members[0].pid == identity.pid else "its wrapper was killed, it runs on",
            )
        return self._ended(identity)

    def _ended(self, identity: Identity) -> Instance:
        rebooted = identity.boot_id != self._boot_id
        ending = self._state.ending(identity)
        if ending is None and not rebooted:
            # From now on its number may become somebody else's session: never look there again.
            self._state.record_ending(identity, None)
            ending = self._state.ending(identity)
        code = ending.exit_code if ending else None
        unknown = "this machine was restarted" if rebooted else "it was killed together with its wrapper"
        return Instance(
            identity.service_id,
            Phase.EXITED,
            identity.ref,
            exit_code=code,
            started_at=identity.started_at,
            ended_at=ending.ended_at if ending else None,
            spec_hash=identity.spec_hash,
            # Nothing but a kill ends both at once, and the wrapper is told to end only with its whole group.
            by_hand=not rebooted and ending is not None and (ending.told or code is None),
            detail=unknown if code is None else _CANNOT_RUN.get(code),
        )

    def adopted(self, service_id: str, running_now: Wrappers | None = None) -> Identity | None:
        """A service's latest launch, its record completed from the process where a killed starter left it
        incomplete, or made anew where it was lost. Only under the service's lock."""
        identity = self._state.identity(service_id)
        running_now = self.wrappers() if running_now is None else running_now
        wrappers = [w for w in running_now if w.service_id == service_id]
        if not wrappers or (identity and identity.pid and identity.launch in {w.launch for w in wrappers}):
            return identity
        wrapper = next((w for w in wrappers if identity and w.launch == identity.launch), wrappers[0])
        if identity is None or identity.launch != wrapper.launch:
            since = processes.started_at(wrapper.start_ticks).isoformat()
            identity = Identity(service_id, wrapper.launch, wrapper.spec_hash, self._boot_id, since)
        identity = identity.running_as(wrapper.pid, wrapper.start_ticks)
        self._state.write(identity)
        return identity

    def one(self, service_id: str, running_now: Wrappers | None = None) -> Instance:
        """One service, under its lock."""
        running_now = self.wrappers() if running_now is None else running_now
        identity = self.adopted(service_id, running_now)
        return self.instance(identity, self.look([identity], running_now)) if identity else Instance(service_id)

    def sessions(self, service_id: str, running_now: Wrappers | None = None) -> list[tuple[int, int]]:
        """Sessions (leader's pid and start ticks) in which something of the service may still live."""
        found = {
            (wrapper.pid, wrapper.start_ticks)
            for wrapper in (self.wrappers() if running_now is None else running_now)
            if wrapper.service_id == service_id
        }
        identity = self._state.identity(service_id)
        if identity and identity.pid and identity.boot_id == self._boot_id:
            leader = processes.read_stat(identity.pid)
            if leader is None or leader.start_ticks == identity.start_ticks:
                found.add((identity.pid, identity.start_ticks or 0))
        return sorted(found)


def _running(wrapper: processes.Marked, since: str) -> Instance:
    identity = Identity(wrapper.service_id, wrapper.launch, wrapper.spec_hash, "", since)
    return running(identity.running_as(wrapper.pid, wrapper.start_ticks))


def running(identity: Identity) -> Instance:
    """The instance of a launch whose wrapper runs."""
    return Instance(
        identity.service_id,
        Phase.RUNNING,
        identity.ref,
        identity.pid,
        started_at=identity.started_at,
        spec_hash=identity.spec_hash,
    )

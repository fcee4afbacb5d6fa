"""A process that takes another one's place, and the way back: what was launched is launched again."""

from dataclasses import replace

from domain.errors import StartFailed
from domain.observation import Instance
from domain.specs import ServiceSpec
from workers.runtimes.fence import before_effect
from workers.runtimes.process_ending import end_session
from workers.runtimes.process_launcher import Launcher
from workers.runtimes.process_launches import Launches, Previous
from workers.runtimes.process_observation import Sightings
from workers.runtimes.process_state import StateFolder


class Replacing:
    """Remembers launches, and goes back to them."""

    def __init__(self, state: StateFolder, sightings: Sightings, launches: Launches, launcher: Launcher) -> None:
        self._state = state
        self._sightings = sightings
        self._launches = launches
        self._launcher = launcher

    def replace(self, spec: ServiceSpec) -> Instance:
        """Remember what the present launch was made from. There is no second instance beside it: they would share its
        ports.

        Raises:
            StartFailed, PermissionRefused: the new command cannot be run.
        """
        self._launcher.command_of(spec)
        with self._state.lock(spec.id):
            self._launcher.reap()
            identity = self._sightings.adopted(spec.id)
            if identity is not None and identity.spec_hash != spec.hash():
                before_effect()
                self._launches.remember(identity)
            return self._sightings.one(spec.id)

    def restore(self, spec: ServiceSpec, ref: str | None, run: bool) -> Instance:
        """Launch again what was launched as `ref`; what runs so already is left alone.

        Raises:
            StartFailed: what it was launched with was not remembered.
            PortHeld, PermissionRefused, TimedOut: as of a start or a stop.
        """
        with self._state.lock(spec.id, limit_s=spec.stop_timeout_s + 10.0) as lock_fd:
            self._launcher.reap()
            found, previous = self._sightings.one(spec.id), self._launches.remembered(spec.id)
            if previous is not None and previous.ref != ref:
                previous = None
            if _is_restored(found, previous, ref, run):
                return found
            if run and previous is None:
                raise _unknown(spec)
            before_effect()
            for session, ticks in self._sightings.sessions(spec.id):
                end_session(session, ticks, spec.stop_timeout_s)
            self._launcher.reap()
            if run and previous is not None:
                return self._launcher.start(previous.spec, lock_fd)
            return self._sightings.one(spec.id)

    def settle(self, spec: ServiceSpec) -> None:
        """Forget the launch before."""
        with self._state.lock(spec.id):
            self._launches.forget(spec.id)

    def as_made(self, spec: ServiceSpec) -> ServiceSpec:
        """The spec with the ports of the latest launch."""
        identity = self._state.identity(spec.id)
        made = self._launches.of(identity) if identity is not None else None
        return replace(spec, ports=made.ports) if made is not None else spec


def _is_restored(found: Instance, previous: Previous | None, ref: str | None, run: bool) -> bool:
    """Whether what is there is what is to be there: untouched, or launched again already."""
    if ref is not None and found.ref == ref:
        return found.alive or not run
    again = previous is not None and found.spec_hash == previous.spec.hash()
    return found.alive and run and again


def _unknown(spec: ServiceSpec) -> StartFailed:
    return StartFailed(
        f"{spec.id}: it is not known how what ran before was launched",
        hint=f"what is there now is left as it is; see: clos status {spec.id}",
        service_id=spec.id,
    )

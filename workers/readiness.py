"""Waiting for a condition: alive and listening, healthy, or completed. It ends as soon as it can be told."""

import time
from dataclasses import replace

from domain.errors import StartFailed, TimedOut, Unhealthy
from domain.needs import may_end
from domain.observation import Instance, Phase
from domain.planning import Step
from domain.specs import Condition, RuntimeKind, ServiceSpec
from domain.states import HealthStatus
from workers.claims import Claim
from workers.observer import Observer
from workers.runtimes.kept_logs import REMARK
from workers.runtimes.probes import ProbeResult, default_ready, probe
from workers.runtimes.protocol import Runtime

_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 1.0
_LOG_LINES = 20
# How often a wait looks whether it still makes sense: cancelled, lost, or its service ended.
_LOOK_UP_S = 0.5
# Without a health check: how long it may take until it listens.
_LISTEN_TIMEOUT_S = 60.0


class Readiness:
    """Waits for one service."""

    def __init__(
        self, spec: ServiceSpec, runtime: Runtime, observer: Observer, claim: Claim, seen: Instance | None = None
    ) -> None:
        # What its start showed a moment ago saves the first look at all instances.
        self._seen = seen
        self._spec = spec
        self._runtime = runtime
        self._observer = observer
        self._claim = claim

    def wait(self, step: Step, deadline: float) -> tuple[Instance, HealthStatus]:
        """Wait until the step's condition holds; `deadline` is the operation's, on the monotonic clock.

        Raises:
            StartFailed: it ended, with `exit_code` and its last lines.
            Unhealthy: its check failed `retries` times in a row after its start period.
            TimedOut: neither happened in time.
        """
        if step.condition is Condition.COMPLETED:
            return self._until_completed(deadline)
        if self._spec.health_check is not None:
            return self._until_healthy(deadline)
        return self._until_listening(min(deadline, time.monotonic() + _LISTEN_TIMEOUT_S))

    def _look(self) -> Instance:
        instance, self._seen = self._seen or self._observer.instance(self._spec), None
        if self._spec.runtime is RuntimeKind.EXTERNAL:
            return replace(instance, phase=Phase.RUNNING)  # nobody can see whether it runs; its ports tell
        if instance.phase in (Phase.EXITED, Phase.ABSENT) and not ended_well(self._spec, instance):
            raise died(self._spec, self._runtime, instance)
        return instance

    def _pause(self, pause_s: float, deadline: float, what: str, look: bool = False) -> float:
        """Wait, in pieces: a check's interval may be long. The next pause."""
        over_at = time.monotonic() + pause_s
        while True:
            self._claim.check_waiting()
            left_s = min(over_at, deadline) - time.monotonic()
            if left_s <= 0:
                break
            self._claim.stopping.wait(min(left_s, _LOOK_UP_S))
            if look and left_s > _LOOK_UP_S:
                self._look()
        if time.monotonic() >= deadline:
            raise TimedOut(f"{self._spec.id} {what} in time", hint="look at its logs, or give it longer")
        return min(pause_s * 1.5, _LAST_PAUSE_S)

    def _until_listening(self, deadline: float) -> tuple[Instance, HealthStatus]:
        pause_s = _FIRST_PAUSE_S
        while True:
            instance = self._look()
            if instance.phase is Phase.EXITED or default_ready(self._spec, self._runtime, instance).ok:
                return instance, HealthStatus.NONE
            pause_s = self._pause(pause_s, deadline, "does not listen on its port")

    def _until_healthy(self, deadline: float) -> tuple[Instance, HealthStatus]:
        check = self._spec.health_check
        assert check is not None  # noqa: S101 - the caller looked
        grace_ends = time.monotonic() + check.start_period_s
        failures, pause_s = 0, _FIRST_PAUSE_S
        while True:
            instance = self._look()
            result: ProbeResult = probe(self._spec, check, self._runtime)
            if result.ok:
                return self._look(), HealthStatus.HEALTHY
            if time.monotonic() >= grace_ends:
                failures += 1
                if failures >= check.retries:
                    raise _unhealthy(self._spec, self._runtime, result, failures, instance)
                pause_s = check.interval_s
            pause_s = min(self._pause(pause_s, deadline, "did not become healthy", look=True), check.interval_s)

    def _until_completed(self, deadline: float) -> tuple[Instance, HealthStatus]:
        pause_s = _FIRST_PAUSE_S
        while True:
            instance = self._observer.instance(self._spec)
            if instance.phase is Phase.EXITED:
                if instance.exit_code == 0:
                    return instance, HealthStatus.NONE
                raise died(self._spec, self._runtime, instance)
            if instance.phase is Phase.ABSENT:
                raise died(self._spec, self._runtime, instance)
            pause_s = self._pause(
                pause_s, deadline, "still runs; what needs it waits until it has completed, which it did not"
            )


def ended_well(spec: ServiceSpec, instance: Instance) -> bool:
    """Whether it has done what it is for: it ended with exit code 0, and nothing brings it back then."""
    return may_end(spec) and instance.phase is Phase.EXITED and instance.exit_code == 0


def died(spec: ServiceSpec, runtime: Runtime, instance: Instance) -> StartFailed:
    """The error of a service that ended when it should run, with its exit code and last lines."""
    how = f"ended with exit code {instance.exit_code}" if instance.exit_code is not None else "is gone"
    reason = f": {instance.detail}" if instance.detail else ""
    return StartFailed(
        f"{spec.id} {how}{reason}",
        hint=f"read its last lines below, or: clos logs {spec.id}",
        service_id=spec.id,
        exit_code=instance.exit_code,
        logs=last_lines(spec, runtime, instance),
    )


def _unhealthy(
    spec: ServiceSpec, runtime: Runtime, result: ProbeResult, failures: int, instance: Instance
) -> Unhealthy:
    return Unhealthy(
        f"{spec.id} is not healthy after {failures} checks: {result.detail}",
        hint=f"clos logs {spec.id}",
        service_id=spec.id,
        exit_code=instance.exit_code,
        logs=last_lines(spec, runtime, instance),
    )


def last_lines(spec: ServiceSpec, runtime: Runtime, instance: Instance) -> list[str]:
    """A service's last lines, for an error; none if they cannot be read.

    What was kept of containers that were removed before explains nothing of one that is there.
    """
    try:
        lines = runtime.logs(spec.id, _LOG_LINES)
    except Exception:  # the error that is being told matters more than its illustration
        return []
    if instance.phase is not Phase.ABSENT:
        lines = lines[max((at for at, line in enumerate(lines, 1) if line.stream == REMARK), default=0) :]
    return [line.text for line in lines]

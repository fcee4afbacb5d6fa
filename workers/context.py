"""What a worker process has: the record, the wire and the machine, made once and handed to everything."""

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from bus.replies import Replies
from domain.configuration import Conflicts, Reconcile
from domain.container_policy import ContainerPolicy
from models.record import Record
from workers.claims import Claims
from workers.observer import Observer
from workers.runtimes.protocol import Runtime


@dataclass(frozen=True)
class Limits:
    """How much at once, and how long."""

    parallel_steps: int = 8
    # What one operation may take, unless its request says otherwise.
    operation_timeout_s: float = 1800.0


@dataclass(frozen=True)
class Context:
    """The parts of one worker process."""

    record: Record
    feed: Feed
    sender: Sender
    outbox: Outbox
    replies: Replies
    runtimes: Mapping[str, Runtime]
    observer: Observer
    claims: Claims
    limits: Limits = field(default_factory=Limits)
    stopping: threading.Event = field(default_factory=threading.Event)
    own_ports: frozenset[int] = frozenset()
    conflicts: Conflicts = field(default_factory=Conflicts)
    reconcile: Reconcile = field(default_factory=Reconcile)
    # What imported containers may have of this machine; the runtime asks again before each effect.
    policy: ContainerPolicy = field(default_factory=ContainerPolicy)
    retention_s: Mapping[str, float] = field(default_factory=dict)


def worker_identity(process: Mapping[str, Any]) -> dict[str, Any]:
    """Who this worker is: what a starting worker on the same host checks before it takes over."""
    return {"host": socket.gethostname(), **process, "parent": os.getppid()}

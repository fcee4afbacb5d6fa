"""What the views of one app share; it hangs on `app.extensions["clos"]`."""

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis
from flask import current_app

from api.courier import Courier
from api.feed import FeedReader
from api.limits import RateLimits
from bus.feed import Feed
from bus.messages import Sender
from bus.outbox import Outbox
from bus.replies import Replies
from bus.tickets import Tickets
from models.record import Record
from settings import Settings

if TYPE_CHECKING:
    from api.auth import Memory


@dataclass(frozen=True)
class Parts:
    """The record, the wire, and what this process remembers.

    `wait_slots` bounds the threads that `?wait` may hold, `body_slots` those that read a body.
    """

    settings: Settings
    record: Record
    sender: Sender
    outbox: Outbox
    feed: Feed
    replies: Replies
    tickets: Tickets
    redis: "redis.Redis"
    reader: FeedReader
    limits: RateLimits
    courier: Courier
    principals: "Memory"
    wait_slots: threading.BoundedSemaphore
    body_slots: threading.BoundedSemaphore
    started_at: float = field(default_factory=time.monotonic)


def parts() -> Parts:
    """The parts of the app that answers the current request."""
    found: Parts = current_app.extensions["clos"]
    return found

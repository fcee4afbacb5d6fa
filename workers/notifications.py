"""The queue `notifications`. Nothing is sent there yet: alerts come with the monitoring part."""

import dramatiq


def declare(_broker: dramatiq.Broker) -> None:
    """Declare the queue's actors: none so far, so a message there is refused by name, not lost in silence."""

"""The event feed where the gateway says odd things."""

import json
from typing import Any

import pytest

from cli.live import RESYNC, Feed


class Socket:
    """Gives these messages, one after another."""

    def __init__(self, *messages: Any) -> None:
        self.messages = [each if isinstance(each, str) else json.dumps(each) for each in messages]

    def recv(self) -> str:
        return self.messages.pop(0)

    def settimeout(self, _: float) -> None:
        """It never waits."""


def feed(*messages: Any, after: int | None = None) -> Feed:
    made = Feed(None, [], after)  # type: ignore[arg-type]
    made._socket = Socket(*messages)
    return made


def event(number: int | None) -> dict[str, Any]:
    return {"id": number, "type": "log.line", "timestamp": "now"}


def test_events_that_were_seen_are_left_out_and_a_gap_is_told() -> None:
    made = feed(event(3), event(5), {"type": "resync"}, {"type": "pong"}, event(None), after=4)
    assert [made.next(0.1) for _ in range(5)] == [None, event(5), RESYNC, None, event(None)]
    assert made.last_id == 5


def test_what_comes_before_the_answer_is_kept_for_later() -> None:
    made = feed(event(1), {"type": "subscribed", "last_id": 1})
    assert made._expect("subscribed")["last_id"] == 1
    assert made.next(0.1) == event(1)


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("", OSError, "closed the socket"),
        ("[]", ValueError, "not an object"),
        ({"type": "error", "detail": "no such event"}, ValueError, "no such event"),
    ],
)
def test_a_message_that_cannot_be_one_is_an_error(message: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        feed(message)._expect("hello")

"""What a person is asked about a conflict, and what an answer means."""

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

from domain import strategies
from domain.strategies import Resolution, Situation, Strategy
from models.base import now, written


class Asked(Exception):
    """A person has to answer first; `question` is what."""

    def __init__(self, question: dict[str, Any]) -> None:
        super().__init__(question["text"])
        self.question = question


def question(key: str, situation: Situation, timeout_s: float, held: Collection[str] | None = None) -> dict[str, Any]:
    """What a person is asked about one conflict (interface.md, Operation `question`).

    `held` are the services that the operation holds: no other one of ours is offered to be stopped.
    """
    holder_id = (situation.conflict.holder or {}).get("service_id")
    choices = []
    for each in strategies.options(situation):
        foreign = each["strategy"] == Strategy.STOP_CONTAINER and held is not None and holder_id not in (None, *held)
        if each["strategy"] == Strategy.ASK or foreign:
            continue
        choice = each["strategy"]
        if choice == Strategy.MIGRATE_SERVICE and len(situation.moves) > 1:
            choice = f"{choice}:{each['service_id']}"
        choices.append(
            {
                "choice": choice,
                "description": each["description"],
                "risk_level": each["risk_level"],
                "effects": each["effects"],
            }
            | ({"confirm": each["confirm"]} if "confirm" in each else {})
        )
    return {
        "key": key,
        "port": situation.conflict.port,
        "protocol": situation.conflict.protocol,
        "host_ip": situation.conflict.host_ip,
        "text": f"{situation.conflict.detail}. What shall be done?",
        "choices": choices,
        "expires_at": written(now() + timedelta(seconds=timeout_s)),
    }


def chosen(situation: Situation, answer: str) -> Resolution | None:
    """The resolution that an answer means; None where it is to be left alone, or fits no longer."""
    name, _, detail = answer.partition(":")
    if name == Strategy.IGNORE:
        return None
    moves = [
        move for move in situation.moves if not detail or name == Strategy.CHANGE_PORT or move.service_id == detail
    ]
    port = int(detail) if name == Strategy.CHANGE_PORT and detail else None
    narrowed = replace(situation, moves=moves, port=port)
    resolver = strategies.resolver(name)
    return resolver.resolve(narrowed) if resolver.can_resolve(narrowed) else None

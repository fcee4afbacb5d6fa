"""A project whose containers Compose made, on made-up containers, and take-overs of it that come to a moment."""

from dataclasses import replace

import pytest

from domain.errors import ClaimLost
from domain.planning import Action
from models import operation_requests, operations
from tests.unit.worker_kit import Kit, plain
from workers import adoption_record
from workers.adoption_record import Foreign
from workers.journal import Journal
from workers.port_steps import PortSteps


class Project:
    """The containers that Compose had started, and what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *services: str) -> None:
        made = [Foreign(name * 64, f"shop-{name}-1", name, running=True) for name in services]
        self.there = {each.target: each for each in made}
        self.done: list[str] = []
        monkeypatch.setattr(adoption_record, "find", lambda *_words, **_how: list(self.there.values()))
        monkeypatch.setattr(PortSteps, "does", lambda _steps, step: step.target.startswith("container:"))
        monkeypatch.setattr(PortSteps, "run", lambda _steps, step, _spec: self._do(step))

    def _do(self, step) -> None:
        self.done.append(step.id)
        if step.action is Action.REMOVE:
            del self.there[step.target]
        else:
            self.there[step.target] = replace(self.there[step.target], running=step.action is Action.START)


def asked(kit: Kit, project: Project) -> str:
    """A take-over of the project that has promised what it promises. Its id."""
    box = {"runtime": "docker", "image": "x", "command": None}
    kit.group("shop", *(plain(each.service, **box) for each in project.there.values()))
    with kit.record.write() as session:
        made = operations.create(session, "group.import", group_name="shop", initiated_by="test")
        containers = [each.as_dict() for each in project.there.values()]
        made.compensation = {
            "group": "shop", "project": "shop", "containers": containers, "result": {"group": "shop"},
        }  # fmt: skip
        made.parameters = {}
        return made.id


def cancel(kit: Kit, operation_id: str) -> None:
    """As somebody asks for it."""
    with kit.record.write() as session:
        operation_requests.cancel(session, operations.get(session, operation_id))


def cancel_during(kit: Kit, monkeypatch: pytest.MonkeyPatch, operation_id: str, action: Action) -> None:
    """Ask for an operation's end while a step of that kind is done and not yet on record; its worker hears of it."""
    completed = Journal.completed

    def cancelled(journal, step, *words):
        if step.action is action:
            cancel(kit, operation_id)
            journal._claim.cancelled.set()
        return completed(journal, step, *words)

    monkeypatch.setattr(Journal, "completed", cancelled)


def dies_after(monkeypatch: pytest.MonkeyPatch, step_id: str) -> None:
    """Let its worker come no further than the end of that step, once: what follows it is not begun."""
    completed = Journal.completed

    def dies(journal, step, done, *following):
        if step.id != step_id:
            return completed(journal, step, done, *following)
        completed(journal, step, done)
        monkeypatch.setattr(Journal, "completed", completed)
        raise ClaimLost("its worker is dead")

    monkeypatch.setattr(Journal, "completed", dies)

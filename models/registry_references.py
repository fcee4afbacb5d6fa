"""What is refused when a definition is written: references that mean nothing, and changes that make them mean nothing.

Whoever calls this holds the write transaction, and has written what is to be checked.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import references
from domain.errors import UnreachableReference, ValidationFailed
from domain.reachability import Consumer, consumer_of, prober_of
from domain.references import Fault
from models import resolved_specs
from models.groups import Group
from models.services import Service

_SHOWN = 20
# What those who refer to a service may feel, in the order in which it is blamed.
_FELT = ("ports", "port", "runtime", "network_mode")
_Path = tuple[str | int, ...]
_Found = Sequence[tuple[_Path, Fault]]
# By consumer, field and text.
_Key = tuple[str, str, str]


def check(session: Session, service: Service) -> None:
    """See that everything that a service refers to is there, and can be reached from where it runs.

    Raises:
        ValidationFailed: a service or a port is not there; the fields are named.
        UnreachableReference: it is there, and does not listen where this one could reach it.
    """
    texts = [each for each in _texts(service) if references.written_in(each[1])]
    if not texts:
        return
    session.flush()
    wanted = references.named_by(references.find([text for _, text, _ in texts]), service.group_name)
    known = resolved_specs.providers(session, wanted)
    found: list[tuple[_Path, Fault]] = []
    for path, text, consumer in texts:
        meant = references.meaning(consumer, references.find([text]), known)
        found += [(path, fault) for fault in meant.faults]
    if found:
        raise _refusal(session, service, found)


def _texts(service: Service) -> Iterator[tuple[_Path, str, Consumer]]:
    consumer = consumer_of(service.spec())
    for row in service.environment:
        yield ("secrets" if row.secret else "environment", row.key), row.value, consumer
    for place, word in enumerate(service.command or ()):
        yield ("command", place), word, consumer
    if service.health_url:
        yield ("health_check", "url"), service.health_url, prober_of(consumer)


def _refusal(session: Session, service: Service, found: _Found) -> ValidationFailed:
    missing = [each for each in found if not each[1].unreachable]
    errors: dict[Any, Any] = {}
    for path, fault in missing or found:
        here = errors
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here.setdefault(path[-1], []).append(_sentence(session, service, fault))
    if missing:
        return ValidationFailed(errors)
    first = found[0][1]
    assert first.provider is not None  # noqa: S101 - what cannot be reached is there
    text = first.reference.text
    return UnreachableReference(
        errors,
        f"{text} cannot be reached from {service.id}: {first.why}",
        hint=_remedy(first),
        reference=text,
        service_id=first.provider.id,
        host_ip=first.host_ip,
    )


def _remedy(fault: Fault) -> str:
    if fault.host_ip is None:
        return "give it a network"
    assert fault.provider is not None  # noqa: S101 - what cannot be reached is there
    return f"give that port of {fault.provider.id} host_ip 0.0.0.0, and let it listen there ($HOST)"


def _sentence(session: Session, service: Service, fault: Fault) -> str:
    text = fault.reference.text
    if fault.unreachable:
        return f"{text} cannot be reached from here: {fault.why}; {_remedy(fault)}."
    if fault.provider is not None:
        return f"{text}: {fault.why}."
    known = _what_there_is(session, fault.reference.readings(service.group_name)[-1].group)
    return f"{text}: {fault.why}; {known}. To mean the text itself, write ${text}."


def _what_there_is(session: Session, group: str) -> str:
    if session.get(Group, group) is None:
        return f"there is no group {group!r}"
    names = session.scalars(select(Service.name).where(Service.group_name == group).order_by(Service.name)).all()
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"group {group!r} has {', '.join(names[:_SHOWN]) or 'none'}{more}"


class Referring:
    """Who may refer to a service, looked at before it is written, and whether they still can afterwards."""

    def __init__(self, session: Session, group: str, name: str, within: str | None = None) -> None:
        """`within`: only the services of that group are looked at."""
        self._near = [each for each in resolved_specs.mentions(session, within) if (group, name) in each.named()]
        self._before = self._faults(session)

    def _faults(self, session: Session) -> Mapping[_Key, Fault]:
        known = resolved_specs.providers(session, {pair for each in self._near for pair in each.named()})
        return {
            (each.consumer.id, each.field, each.reference.text): fault
            for each in self._near
            for fault in references.meaning(each.consumer, [each.reference], known).faults
        }

    def refuse_if_broken(self, session: Session, service: Service, fields: Collection[str]) -> None:
        """See that they still can, after `fields` of the service were written.

        Raises:
            ValidationFailed, UnreachableReference: somebody cannot who could before, and is named.
        """
        if not self._near:
            return
        session.flush()
        # Its own references may have been written anew, and are checked by themselves.
        now = {key: fault for key, fault in self._faults(session).items() if key[0] != service.id}
        if new := {key: fault for key, fault in now.items() if key not in self._before}:
            raise _left_behind(service, new, next((each for each in _FELT if each in fields), "name"))


def is_felt(fields: Collection[str]) -> bool:
    """Whether writing these of a service may matter to those who refer to it."""
    return any(each in fields for each in _FELT)


def _left_behind(service: Service, new: Mapping[_Key, Fault], field: str) -> ValidationFailed:
    said = [f"{who} refers to it in {where} ({text}): {fault.why}." for (who, where, text), fault in new.items()]
    errors = {field: said[:_SHOWN]}
    consumers = sorted({who for who, _, _ in new})
    named = ", ".join(consumers[:_SHOWN])
    if not all(fault.unreachable for fault in new.values()):
        return ValidationFailed(errors, f"{named} could not refer to {service.id} any more")
    return UnreachableReference(
        errors,
        f"{named} could not reach {service.id} any more",
        hint="change what refers to it first, or leave host_ip where they reach it",
        required_by=consumers,
        host_ip=next(iter(new.values())).host_ip,
    )


def referring(session: Session, service_ids: Collection[str]) -> list[str]:
    """Services outside of these that refer to one of them."""
    found = {mention.consumer.id for mention, _ in resolved_specs.meeting(session, service_ids)}
    return sorted(found - set(service_ids))

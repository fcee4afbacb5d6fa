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
Broken = Mapping[tuple[str, str, str], Fault]


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


def broken(session: Session, group: str, name: str, within: str | None = None) -> Broken:
    """References that may mean this service and mean nothing, by consumer, field and text, in one group or in all."""
    near = [each for each in resolved_specs.mentions(session, within) if (group, name) in each.named()]
    known = resolved_specs.providers(session, {pair for each in near for pair in each.named()})
    found = {}
    for each in near:
        for fault in references.meaning(each.consumer, [each.reference], known).faults:
            found[each.consumer.id, each.field, each.reference.text] = fault
    return found


def is_felt(fields: Collection[str]) -> bool:
    """Whether writing these of a service may matter to those who refer to it."""
    return any(each in fields for each in _FELT)


def refuse_newly_broken(
    session: Session, service: Service, before: Broken, fields: Collection[str], within: str | None = None
) -> None:
    """See that everybody who refers to a service still can, after `fields` of it were written.

    Raises:
        ValidationFailed, UnreachableReference: somebody cannot, and is named.
    """
    after = broken(session, service.group_name, service.name, within)
    own = service.id
    new = {key: fault for key, fault in after.items() if key not in before and key[0] != own}
    if not new:
        return
    field = next((each for each in _FELT if each in fields), "name")
    said = [
        f"{consumer} refers to it in {where} ({text}): {fault.why}." for (consumer, where, text), fault in new.items()
    ]
    consumers = sorted({consumer for consumer, _, _ in new})
    errors = {field: said[:_SHOWN]}
    if all(fault.unreachable for fault in new.values()):
        first = next(iter(new.values()))
        raise UnreachableReference(
            errors,
            f"{', '.join(consumers[:_SHOWN])} could not reach {own} any more",
            hint="change what refers to it first, or leave host_ip where they reach it",
            required_by=consumers,
            host_ip=first.host_ip,
        )
    raise ValidationFailed(errors, f"{', '.join(consumers[:_SHOWN])} could not refer to {own} any more")


def referring(session: Session, service_ids: Collection[str]) -> list[str]:
    """Services outside of these that refer to one of them."""
    found = {mention.consumer.id for mention, _ in resolved_specs.meeting(session, service_ids)}
    return sorted(found - set(service_ids))

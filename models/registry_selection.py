"""Which groups and services a request for several targets means: by name, tag or glob."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import matching
from domain.errors import ValidationFailed
from domain.specs import RuntimeKind
from models.groups import Group
from models.services import Service, ServiceTag

MOST_TARGETS = 500
_FIELDS = ("groups", "services", "tags", "match")


@dataclass(frozen=True)
class Selection:
    """Groups as a whole, and services beside them: each service's id with its group's name."""

    groups: tuple[str, ...]
    services: Mapping[str, str]


@dataclass
class _Registry:
    groups: list[str]
    # Of services that CLOS runs: (group, name, id).
    services: list[tuple[str, str, str]]
    external: set[str]
    tags: Mapping[str, set[str]]


@dataclass
class _Found:
    groups: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    errors: dict[str, dict[int, list[str]]] = field(default_factory=lambda: defaultdict(dict))


def select_targets(session: Session, asked: Mapping[str, Any]) -> Selection:
    """What `groups`, `services` (an id, or group/service), `tags` and `match` of a request mean together.

    Services of a group that is named as a whole are not named beside it. What is only watched is never meant by a tag
    or a glob.

    Raises:
        ValidationFailed: by field and place, what is not there or matches nothing; or there are too many.
    """
    if not any(asked.get(name) for name in _FIELDS):
        raise ValidationFailed({"groups": ["Name groups, services, tags or globs (match)."]})
    registry, found = _read(session), _Found()
    _by_name(registry, asked, found)
    for place, tag in enumerate(asked.get("tags") or ()):
        _add(found, "tags", place, f"No service has the tag {tag!r}.", services=registry.tags.get(tag, ()))
    for place, pattern in enumerate(asked.get("match") or ()):
        groups = matching.groups(pattern, registry.groups)
        services = matching.services(pattern, registry.services)
        nothing = f"{pattern!r} matches no {'service' if '/' in pattern else 'group'}."
        _add(found, "match", place, nothing, groups=groups, services=services)
    if found.errors:
        raise ValidationFailed(dict(found.errors))
    return _selected(registry, found)


def _read(session: Session) -> _Registry:
    rows = session.execute(select(Service.group_name, Service.name, Service.id, Service.runtime)).all()
    external = {row.id for row in rows if row.runtime == RuntimeKind.EXTERNAL.value}
    tags: dict[str, set[str]] = defaultdict(set)
    for service_id, tag in session.execute(select(ServiceTag.service_id, ServiceTag.tag)):
        if service_id not in external:
            tags[tag].add(service_id)
    services = [(row.group_name, row.name, row.id) for row in rows if row.id not in external]
    return _Registry(sorted(session.scalars(select(Group.name))), sorted(services), external, tags)


def _by_name(registry: _Registry, asked: Mapping[str, Any], found: _Found) -> None:
    for place, name in enumerate(asked.get("groups") or ()):
        known = [name] if name in registry.groups else []
        _add(found, "groups", place, f"There is no group {name!r}.", groups=known)
    for place, wanted in enumerate(asked.get("services") or ()):
        if wanted in registry.external:
            found.errors["services"][place] = [f"{wanted} is external: it is watched, never started or stopped."]
            continue
        known = [each[2] for each in registry.services if wanted in (each[2], f"{each[0]}/{each[1]}")]
        _add(found, "services", place, f"There is no service {wanted!r}.", services=known)


def _add(found: _Found, name: str, place: int, nothing: str, groups: Sequence[str] = (), services: Any = ()) -> None:
    found.groups.update(groups)
    found.services.update(services)
    if not groups and not services:
        found.errors[name][place] = [nothing]


def _selected(registry: _Registry, found: _Found) -> Selection:
    group_of = {service_id: group for group, _name, service_id in registry.services}
    beside = {each: group_of[each] for each in sorted(found.services) if group_of[each] not in found.groups}
    if (many := len(found.groups) + len(beside)) > MOST_TARGETS:
        raise ValidationFailed({"match": [f"At most {MOST_TARGETS} targets; these are {many}."]})
    return Selection(tuple(sorted(found.groups)), beside)

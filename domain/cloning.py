"""A group made anew under another name: what its definition says of itself, said of the clone.

Values in, values out: definitions are bodies of `POST /groups` as mappings, with `secrets` among them. What cannot be
told (a number in a text that happens to be the original's port) is remarked on, never guessed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from domain import clone_paths, clone_storage, references
from domain.clone_paths import Directory
from domain.clone_remarks import Remark, Remarks
from domain.reachability import alias
from domain.references import Reference
from domain.specs import RuntimeKind

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Original:
    """A group as it is to be cloned: its own fields, and its services' with all of their ports' numbers."""

    group: Mapping[str, Any]
    services: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.group["name"])

    def external(self) -> set[str]:
        """Its services that are only watched: there is one of each, for the original and all clones."""
        return {str(each["name"]) for each in self.services if each["runtime"] == RuntimeKind.EXTERNAL}


@dataclass(frozen=True, slots=True)
class Cloning:
    """What becomes of which name. `mark` is what the clone's volumes are known by as its own."""

    names: Mapping[str, str]
    mark: str
    directory: str | None = None
    # Names of the engine's networks that services of other groups name as well.
    networks_elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Clones:
    """The new definitions, as bodies of `POST /groups`, and what is to be said about them."""

    groups: tuple[Fields, ...]
    remarks: tuple[Remark, ...] = ()


@dataclass(slots=True)
class _Work:
    cloning: Cloning
    originals: Mapping[str, Original]
    remarks: Remarks = field(default_factory=Remarks)


def clones(originals: Mapping[str, Original], cloning: Cloning) -> Clones:
    """Write the definitions of all of `originals` (by name) anew."""
    work = _Work(cloning, originals)
    made = tuple(_group(work, each) for each in originals.values())
    return Clones(made, work.remarks.all())


def _group(work: _Work, original: Original) -> Fields:
    cloning = work.cloning
    name = cloning.names[original.name]
    directory = Directory.of(original.group.get("directory"), cloning.directory)
    storage = clone_storage.of(
        original.group, original.services, name, cloning.mark, directory, cloning.networks_elsewhere, work.remarks
    )
    made = dict(original.group) | {
        "name": name,
        "directory": cloning.directory or original.group.get("directory"),
        "dependencies": [cloning.names.get(each, each) for each in original.group.get("dependencies") or ()],
        "networks": storage.networks or None,
        "volumes": storage.volumes or None,
        # The file describes the original: importing it again must not find its changes in the clone.
        "compose_file": None,
        "compose": None,
    }
    if made.pop("network_name", None):
        text = f"the network {original.group['network_name']!r} stays the original's: the clone has one of its own"
        work.remarks.add(None, "network_name", text)
    watched = original.external()
    for each in sorted(watched):
        work.remarks.add(each, "runtime", "an external service is shared with the original")
    made["services"] = [
        _service(work, original, each, directory) for each in original.services if each["name"] not in watched
    ]
    return made


def _service(work: _Work, original: Original, service: Mapping[str, Any], directory: Directory | None) -> Fields:
    made = clone_paths.moved(service, directory, work.remarks)
    made |= clone_storage.without_addresses(made, work.remarks)
    made["tags"] = sorted({*(service.get("tags") or ()), "clone"})
    made["depends_on"] = [_dependency(work, original, each) for each in service.get("depends_on") or ()]
    made["ports"] = [{**each, "host_port": None} for each in service.get("ports") or ()]
    # The ports that the original has: what names them may follow.
    made["was"] = list(service.get("ports") or ())
    anew = _anew(work, original, str(service["name"]))
    for name in ("environment", "secrets"):
        made[name] = {key: references.rewrite(value, anew) for key, value in (made.get(name) or {}).items()}
    if made.get("command"):
        made["command"] = [references.rewrite(word, anew) for word in made["command"]]
    check = made.get("health_check")
    if check and check.get("url"):
        made["health_check"] = {**check, "url": references.rewrite(check["url"], anew)}
    _remark_on_literals(work, original, service)
    return made


def _dependency(work: _Work, original: Original, wanted: Mapping[str, Any]) -> Fields:
    group, slash, name = str(wanted["service"]).rpartition("/")
    group = group if slash else original.name
    other = work.originals.get(group)
    shared = other is None or name in other.external()
    target = group if shared else work.cloning.names[group]
    own = target == work.cloning.names[original.name]
    return {**wanted, "service": name if own else f"{target}/{name}"}


def _anew(work: _Work, original: Original, service: str) -> Callable[[Reference], str | None]:
    own = {str(each["name"]) for each in original.services} - original.external()

    def said(reference: Reference) -> str | None:
        for target in reference.readings(original.name):
            other = work.originals.get(target.group)
            if other is None or target.service not in {each["name"] for each in other.services}:
                continue
            shared = target.service in other.external()
            group = target.group if shared else work.cloning.names[target.group]
            if group == work.cloning.names[original.name]:
                parts = [target.service] if target.port is None else [target.service, target.port]
            else:
                parts = [group, target.service] + ([] if target.port is None else [target.port])
                if target.port is None and group in own:
                    # `a/b` would mean the port b of the clone's own service a.
                    work.remarks.add(
                        service, "references", f"{reference.text} cannot be said of {group!r} without a port's name"
                    )
                    return None
            return f"${{{reference.kind}:{'/'.join(parts)}}}"
        return None

    return said


def _remark_on_literals(work: _Work, original: Original, service: Mapping[str, Any]) -> None:
    name = str(service["name"])
    bridged = service["runtime"] == RuntimeKind.DOCKER and service.get("network_mode", "bridge") == "bridge"
    known = [(found, other) for other in work.originals.values() for found in _literals(other)]
    for place, text in _texts(service):
        for literal, other in known:
            if literal.says(text, from_a_container=bridged):
                said = f"the text holds {literal.text!r}, {literal.what}: the clone says the same"
                of = literal.of if other is original else f"{other.name}/{literal.of}"
                work.remarks.add(name, place, f"{said}; write ${{{literal.kind}:{of}}}")


@dataclass(frozen=True, slots=True)
class _Literal:
    """What a text may hold that means the original, and the reference that would mean the clone."""

    text: str
    what: str
    kind: str
    of: str
    # A number that is the port inside as well means, between containers, no port of this host.
    inside: bool = False

    def says(self, text: str, from_a_container: bool) -> bool:
        if self.text not in text:
            return False
        if not self.text.isdigit():
            return True
        if self.inside and from_a_container and "host.docker.internal" not in text:
            return False
        return re.search(rf"(?<![\w.]){self.text}(?![\w.]*\w)", text) is not None


def _literals(original: Original) -> Iterator[_Literal]:
    for service in original.services:
        name = str(service["name"])
        if name in original.external():
            continue
        for port in service.get("ports") or ():
            if port.get("host_port"):
                of = f"{name}/{port['name']}" if port.get("name") else name
                yield _Literal(
                    str(port["host_port"]),
                    f"a port of {original.name}/{name}",
                    "port",
                    of,
                    port["host_port"] == port.get("container_port"),
                )
        known_as = alias(name, original.name)
        yield _Literal(known_as, f"the name of {original.name}/{name} in its network", "host", name)


def _texts(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field_name in ("environment", "secrets", "labels"):
        for key, value in (service.get(field_name) or {}).items():
            yield f"{field_name}.{key}", str(value)
    for place, word in enumerate(service.get("command") or ()):
        yield f"command.{place}", str(word)
    for place, word in enumerate((service.get("health_check") or {}).get("test") or ()):
        yield f"health_check.test.{place}", str(word)
    entrypoint = (service.get("container") or {}).get("entrypoint") or ()
    for place, word in enumerate(entrypoint if isinstance(entrypoint, list) else [entrypoint]):
        yield f"container.entrypoint.{place}", str(word)

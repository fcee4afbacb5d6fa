"""References: `${port:api}`, `${host:api}`, `${url:shop/api}` in a definition, and what they mean for who says them.

A text whose kind or name is another (a shell's `${port:-8080}`) is no reference and stays as it is; `$${port:api}` is
the text `${port:api}`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from domain.reachability import GATEWAY, Address, Consumer, Provider, Unreachable, address, consumer_of, prober_of
from domain.specs import PortRequest, ServiceSpec

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_REFERENCE = re.compile(rf"(\$?)(\$\{{(port|host|url):({_NAME}(?:/{_NAME}){{0,2}})\}})")
# By group and name.
Providers = Mapping[tuple[str, str], Provider]


class Kind(StrEnum):
    """What of a service is meant."""

    PORT = "port"
    HOST = "host"
    URL = "url"


@dataclass(frozen=True, slots=True)
class Target:
    """A service by its names, and the name of one of its ports; None means its first one."""

    group: str
    service: str
    port: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference as it is written."""

    text: str
    kind: Kind
    parts: tuple[str, ...]

    def readings(self, group: str) -> tuple[Target, ...]:
        """What it may mean in a service of `group`. The first one counts whose service there is.

        `a/b` is the port `b` of the group's own service `a`; only where there is no such service, `b` of group `a`.
        """
        if len(self.parts) == 1:
            return (Target(group, self.parts[0]),)
        if len(self.parts) == 2:
            first, second = self.parts
            return (Target(group, first, second), Target(first, second))
        return (Target(*self.parts),)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a reference means nothing. `provider` is None where there is no such service.

    `unreachable`: what it means is there, but not for its consumer; `host_ip` is where it listens, if another address
    would do.
    """

    reference: Reference
    why: str
    provider: Provider | None = None
    unreachable: bool = False
    host_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the references of one consumer mean, by their texts, and what its container needs for that."""

    values: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    joins: tuple[tuple[str, str], ...] = ()
    extra_hosts: tuple[str, ...] = ()


def written_in(text: str | None) -> bool:
    """Whether anything in it is to be put in or unescaped."""
    return text is not None and "${" in text and _REFERENCE.search(text) is not None


def find(texts: Iterable[str | None]) -> list[Reference]:
    """Every reference in these texts, each once."""
    found = {}
    for text in texts:
        for escape, whole, kind, rest in _REFERENCE.findall(text) if text and "${" in text else ():
            if not escape:
                found[whole] = Reference(whole, Kind(kind), tuple(rest.split("/")))
    return list(found.values())


def put_in(text: str, values: Mapping[str, str]) -> str:
    """The text with these references replaced, the others as they are, and one `$` of an escaped one taken away."""
    if "${" not in text:
        return text
    return _REFERENCE.sub(lambda m: m[2] if m[1] else values.get(m[2], m[2]), text)


def rewrite(text: str, anew: Callable[[Reference], str | None]) -> str:
    """The text with each reference written as `anew` says; None leaves it, and escaped ones are left anyway."""

    def said(found: re.Match[str]) -> str:
        reference = Reference(found[2], Kind(found[3]), tuple(found[4].split("/")))
        return found[0] if found[1] else anew(reference) or found[0]

    return _REFERENCE.sub(said, text) if "${" in text else text


def named_by(references: Iterable[Reference], group: str) -> set[tuple[str, str]]:
    """The groups and names of all services that these references may mean in a service of `group`."""
    return {(each.group, each.service) for reference in references for each in reference.readings(group)}


def provider_of(reference: Reference, group: str, providers: Providers) -> tuple[Provider, Target] | None:
    """The service that a reference means in a service of `group`; None if there is none."""
    for target in reference.readings(group):
        if (found := providers.get((target.group, target.service))) is not None:
            return found, target
    return None


def meaning(consumer: Consumer, references: Iterable[Reference], providers: Providers) -> Meaning:
    """What the references of one consumer mean. One that means nothing is among the faults."""
    named = [(each, provider_of(each, consumer.group, providers)) for each in references]
    joins: set[tuple[str, str]] = set()
    if consumer.bridged:
        meant = [found[0] for _, found in named if found is not None]
        joins = {(each.group, each.network_name) for each in meant if each.bridged and each.group != consumer.group}
        consumer = replace(consumer, crowded=consumer.crowded or bool(joins))
    values: dict[str, str] = {}
    faults: list[Fault] = []
    hosts: set[str] = set()
    for reference, found in named:
        met = Fault(reference, "there is no such service") if found is None else _look(consumer, reference, *found)
        if isinstance(met, Fault):
            faults.append(met)
            continue
        values[reference.text] = _said(reference.kind, met)
        if met.host == GATEWAY:
            hosts.add(f"{GATEWAY}:host-gateway")
    return Meaning(values, tuple(faults), tuple(sorted(joins)), tuple(sorted(hosts)))


def _said(kind: Kind, found: Address) -> str:
    if kind is Kind.HOST:
        return found.host
    return str(found.port) if kind is Kind.PORT else found.url()


def _look(consumer: Consumer, reference: Reference, provider: Provider, target: Target) -> Address | Fault:
    port = _port(provider, target.port)
    if port is None:
        # A container has a name for its neighbours also where it has no port.
        if reference.kind is not Kind.HOST or target.port or not (consumer.bridged and provider.bridged):
            return Fault(reference, _no_port(provider, target.port), provider)
        port = PortRequest()
    if reference.kind is Kind.URL and port.protocol != "tcp":
        return Fault(reference, f"that port of {provider.id} is {port.protocol}, which has no URL", provider)
    found = address(consumer, provider, port)
    if isinstance(found, Unreachable):
        return Fault(reference, found.why, provider, unreachable=True, host_ip=found.host_ip)
    if found.port is None and reference.kind is not Kind.HOST:
        return Fault(reference, f"that port of {provider.id} has no number yet", provider)
    return found


def _port(provider: Provider, name: str | None) -> PortRequest | None:
    if name is None:
        return provider.ports[0] if provider.ports else None
    return next((each for each in provider.ports if each.name == name), None)


def _no_port(provider: Provider, name: str | None) -> str:
    if not provider.ports:
        return f"{provider.id} has no port"
    names = [each.name for each in provider.ports if each.name]
    has = f"it has {', '.join(names)}" if names else "its ports have no names"
    return f"{provider.id} has no port named {name!r}: {has}"


def texts_of(spec: ServiceSpec) -> tuple[str, ...]:
    """Where the references of an instance stand. Its health URL is apart: that one is asked from the host."""
    return (*spec.environment.values(), *spec.command)


def resolved(spec: ServiceSpec, providers: Providers) -> ServiceSpec:
    """The spec with what its references mean. One that means nothing stays as it is, and stands in `unresolved`."""
    check = spec.health_check
    url = check.url if check is not None else None
    if not any(written_in(text) for text in (*texts_of(spec), url)):
        return spec
    consumer = consumer_of(spec)
    meant = meaning(consumer, find(texts_of(spec)), providers)
    asked = meaning(prober_of(consumer), find([url]), providers)
    if check is not None and url is not None:
        check = replace(check, url=put_in(url, asked.values))
    return replace(
        spec,
        environment={name: put_in(value, meant.values) for name, value in spec.environment.items()},
        command=tuple(put_in(word, meant.values) for word in spec.command),
        health_check=check,
        joins=meant.joins,
        extra_hosts=meant.extra_hosts,
        references=meant.values,
        unresolved={each.reference.text: each.why for each in (*meant.faults, *asked.faults)},
    )


def changes(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which references mean something else than they did, as sentences."""
    moved = [text for text in sorted(was) if text in now and now[text] != was[text]]
    return [f"{text} was {was[text]} and is {now[text]}" for text in moved]

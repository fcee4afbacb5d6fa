"""What an import says where a project has not as many ports as its files leave open.

What its own services were leased until then is taken back along with them, so it is nobody's by the time that it is
told: the file is what wants too much, or others have the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.errors import RangeFull
from models import port_search, ports, range_full
from models.ports import PortRange
from models.services import Service


@contextmanager
def told_of_others(session: Session, body: Mapping[str, Any]) -> Iterator[None]:
    """Let a range that is found full inside the block be told as the import's matter, with the service whose port did
    not fit."""
    try:
        yield
    except RangeFull as full:
        own = _own(session, str(body["name"]))
        told = _told(session, body, full, own) if full.facts.get("ranges") else full
        told.service = own.get(full.service or "")
        raise told from full


def _own(session: Session, group: str) -> dict[str, str]:
    """The names of its services by their ids, those that are about to be taken back among them."""
    rows = session.execute(select(Service.id, Service.name).where(Service.group_name == group)).all()
    return {row.id: row.name for row in rows}


def _told(session: Session, body: Mapping[str, Any], full: RangeFull, own: Mapping[str, str]) -> RangeFull:
    project, protocol = str(full.facts["project"]), str(full.facts["protocol"])
    ranges = ports.ranges_of(session, project)
    others = range_full.holders(session, protocol, ranges, port_search.REST_S, but=own)
    claims = [each for service in body["services"] for each in service.get("ports") or () if _is(each, protocol)]
    left_open = sum(1 for each in claims if not each.get("host_port"))
    fixed = {each["host_port"] for each in claims if each.get("host_port")} & _numbers(ranges)
    wants = f"the import needs {left_open} {protocol} ports" + (f" beside {len(fixed)} that it fixes" if fixed else "")
    crowded = range_full.admitting([each for each in ranges if each.id in full.crowded])
    words = "; ".join([*(others.words() or ["no other has any of them"]), *crowded])
    return RangeFull(
        f"{wants}, and project {project!r} has {len(_numbers(ranges))} ({range_full.spans(ranges)}): {words}",
        hint="leave fewer ports open, or widen the range",
        **full.facts | others.facts() | {"needed": left_open},
    )


def _is(claim: Mapping[str, Any], protocol: str) -> bool:
    return (claim.get("protocol") or "tcp") == protocol


def _numbers(ranges: Sequence[PortRange]) -> set[int]:
    return {port for each in ranges for port in range(each.start_port, each.end_port + 1)}

"""The administrator's word on containers, asked when something is defined. The worker asks again before each effect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.parts import parts
from domain.container_policy import PolicyDenied, refuse
from models import registry_groups, resolved_specs
from models.services import Service

# The parts of a definition that can ask for something of the machine.
_OF_A_SERVICE = {"build", "container", "network_mode", "networks", "runtime", "volumes"}
_OF_A_GROUP = {"directory", "network_name", "networks", "volumes"}


def refuse_denied(session: Session, services: Sequence[Service]) -> None:
    """Raises: PolicyDenied: one of them asks for what the policy forbids. The API only reads what is written."""
    settings = parts().settings
    policy = settings.security.container_policy(str(settings.home), str(Path.home()), settings.docker.host)
    for spec in resolved_specs.specs(session, services).values():
        refuse(spec, policy)


def refuse_denied_change(session: Session, service: Service, body: Mapping[str, Any]) -> None:
    """The same of a change. One that touches nothing of the kind is none of the policy's business.

    Raises:
        PolicyDenied: what it asks for now is forbidden.
    """
    if _OF_A_SERVICE & body.keys():
        refuse_denied(session, [service])


def refuse_denied_group(session: Session, name: str, body: Mapping[str, Any]) -> None:
    """The same of a group that was made or changed, with its services.

    Raises:
        PolicyDenied: its errors name the service by its place in the request, where it stands there.
    """
    wanted = body.get("services") or ()
    if not wanted and not _OF_A_GROUP & body.keys():
        return
    places = {each["name"]: place for place, each in enumerate(wanted)}
    for service in registry_groups.members(session, name):
        try:
            refuse_denied(session, [service])
        except PolicyDenied as denied:
            if service.name in places:
                denied.errors = {"services": {places[service.name]: denied.errors}}
            raise

"""What a TARGET on the command line means: a group, or a service by its name, its id or `group/service`."""

from dataclasses import dataclass
from typing import Any

from cli.client import Client, segment
from cli.command import did_you_mean
from cli.errors import NOT_FOUND, ApiError, CliError


@dataclass(frozen=True, slots=True)
class Target:
    """What was found. `found` is the API's object."""

    kind: str
    found: dict[str, Any]

    @property
    def path(self) -> str:
        """Where its calls are."""
        if self.kind == "group":
            return f"/groups/{segment(self.found['name'])}"
        return f"/services/{segment(self.found['id'])}"

    @property
    def name(self) -> str:
        """How a person calls it."""
        return str(self.found["name"] if self.kind == "group" else self.found["id"])

    def services(self, client: Client) -> list[dict[str, Any]]:
        """The services that it stands for, as they are now."""
        if self.kind == "group":
            return list(client.pages("/services", group=self.found["name"]))
        return [client.get(self.path)]


def find(client: Client, wanted: str) -> Target:
    """The group or service of that name. A group comes before a service of the same name, as in v1.

    Raises:
        CliError: there is none, or more than one (exit code 4).
    """
    if "/" not in wanted:
        group = _get(client, f"/groups/{segment(wanted)}")
        if group is not None:
            return Target("group", group)
    try:
        return Target("service", service(client, wanted))
    except CliError as missing:
        if missing.exit_code != NOT_FOUND or missing.message.startswith("more than one"):
            raise
    groups = [str(group["name"]) for group in client.pages("/groups")]
    raise did_you_mean("group or service", wanted, groups + _names(client))


def service(client: Client, wanted: str) -> dict[str, Any]:
    """The service of that name, id or `group/service`.

    Raises:
        CliError: there is none, or more than one (exit code 4).
    """
    group, _, name = wanted.rpartition("/")
    if not group:
        by_id = _get(client, f"/services/{segment(wanted)}")
        if by_id is not None:
            return by_id
    known = list(client.pages("/services", group=group or None))
    fitting = [one for one in known if one.get("name") == name and (not group or one.get("group") == group)]
    if len(fitting) > 1:
        which = ", ".join(sorted(f"{one['group']}/{one['name']}" for one in fitting))
        raise CliError(f"more than one service is called {wanted!r}", NOT_FOUND, hint=f"say which: {which}")
    if not fitting:
        raise did_you_mean("service", wanted, _names(client))
    return fitting[0]


def group(client: Client, wanted: str) -> dict[str, Any]:
    """The group of that name.

    Raises:
        CliError: there is none (exit code 4).
    """
    found = _get(client, f"/groups/{segment(wanted)}")
    if found is None:
        raise did_you_mean("group", wanted, [str(one["name"]) for one in client.pages("/groups")])
    return found


def _names(client: Client) -> list[str]:
    services = list(client.pages("/services"))
    return sorted({str(one["name"]) for one in services} | {str(one["id"]) for one in services})


def _get(client: Client, path: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.get(path)
    except ApiError as refused:
        # A name that cannot exist may be refused as malformed; to a person it is just not there.
        if refused.status in (400, 404, 422):
            return None
        raise
    return found

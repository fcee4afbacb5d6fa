"""What CLOS is told, without its secrets. Works while no server runs, as v1's `config` did."""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from settings import Settings


def described(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, passwords left out."""
    return {
        "home": str(settings.home),
        "config_file": str(settings.config_file) if settings.config_file else None,
        "environment": settings.environment,
        "database": str(settings.database.path or without_password(settings.database.url)),
        "redis": without_password(settings.redis.url) if settings.redis.url else "embedded",
        "docker_host": settings.docker.host,
        "api": settings.api.public_url or f"http://{settings.api.host}:{settings.api.port}",
        "websocket": settings.websocket.public_url or f"ws://{settings.websocket.host}:{settings.websocket.port}",
        "dashboard": f"http://{settings.dashboard.host}:{settings.dashboard.port}",
        "workers": {"processes": settings.workers.processes, "threads": settings.workers.threads},
        "conflicts": {"on_start": settings.conflicts.on_start, "auto_resolve": settings.conflicts.auto_resolve},
        "port_ranges": [
            {"project": one.project, "start_port": one.start, "end_port": one.end} for one in settings.port_ranges
        ],
        "service_groups": [one.name for one in settings.service_groups],
        "warnings": list(settings.warnings),
    }


def without_password(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))

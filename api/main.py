"""The API process: `python -m api.main`."""

import importlib
import os
import sys

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

import settings
from api import first_start
from api.app import BLUEPRINTS, create_app
from api.server import THREADS, Server, address
from bus import log_lines, process_identity
from domain.errors import ClosError

GRACE_S = 4
_MAX_CONNECTIONS = 1000


def _stop(app: Flask) -> None:
    shared = app.extensions["clos"]
    shared.reader.close()
    shared.courier.close()


def _make(configured: settings.Settings) -> Flask:
    app = create_app(configured)
    try:
        first_start.prepare(configured, app.extensions["clos"].record)
    except (SQLAlchemyError, ClosError, OSError) as refused:
        print(f"the record cannot be used: {refused}", file=sys.stderr)
        raise SystemExit(1) from refused
    return app


def main() -> int:
    """Serve until SIGTERM. Returns the exit status."""
    try:
        configured = settings.load(os.environ)
        configured.redis_url()
    except settings.SettingsError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    log_lines.configure(configured.logging.level, configured.logging.format, "api")
    for module in BLUEPRINTS:
        # Before gunicorn forks, so that its two processes share the memory of what is imported.
        importlib.import_module(module)
    registered = process_identity.register(configured.home, "api")
    options = {
        "bind": [address(configured.api.host, configured.api.port)],
        "threads": THREADS,
        "worker_connections": _MAX_CONNECTIONS,
        "graceful_timeout": GRACE_S,
        "proc_name": "clos-api",
    }
    try:
        Server(lambda: _make(configured), _stop, options, configured).run()
    finally:
        registered.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

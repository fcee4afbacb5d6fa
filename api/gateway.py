"""The WebSocket gateway: `python -m api.gateway`. A process of its own: a socket must never cost the API a thread."""

import os
import sys

from flask import Flask

import settings
from api.gateway_app import create_gateway
from api.server import Server, address
from bus import log_lines, process_identity

GRACE_S = 2
_SPARE_THREADS = 64


def _make(configured: settings.Settings) -> Flask:
    app = create_gateway(configured)
    app.extensions["clos_hub"].start()
    return app


def _stop(app: Flask) -> None:
    app.extensions["clos_hub"].close()
    app.extensions["clos"].reader.close()


def main() -> int:
    """Serve until SIGTERM. Returns the exit status."""
    try:
        configured = settings.load(os.environ)
        configured.redis_url()
    except settings.SettingsError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    log_lines.configure(configured.logging.level, configured.logging.format, "websocket")
    registered = process_identity.register(configured.home, "websocket")
    threads = configured.websocket.max_clients + _SPARE_THREADS
    options = {
        "bind": [address(configured.websocket.host, configured.websocket.port)],
        "threads": threads,
        "worker_connections": threads + 200,
        "graceful_timeout": GRACE_S,
        "proc_name": "clos-websocket",
    }
    try:
        Server(lambda: _make(configured), _stop, options, configured).run()
    finally:
        registered.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How every process of CLOS writes its log: one line per event, `noun.verb` and keys, as text or JSON.

Values are escaped, so a hostile name or command cannot forge a line (pitfalls 7.15).
"""

import logging
import sys
from typing import Any

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_NOISY = ("apscheduler", "urllib3", "docker", "werkzeug")


# Control characters other than the newline, which both forms escape.
_CONTROLS = dict.fromkeys((*range(10), *range(11, 32), *range(127, 160)))


def _harmless(value: Any) -> Any:
    return value.translate(_CONTROLS) if isinstance(value, str) else value


def configure(level: str, form: str, role: str) -> None:
    """Set up structlog and the standard library's logging of this process. Called by entrypoints, once."""
    threshold = _LEVELS.get(level, logging.INFO)
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )

    def sign(_logger: Any, _name: str, line: Any) -> Any:
        return {"process": role, **{key: _harmless(value) for key, value in line.items()}}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            sign,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=threshold, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    # It warns of its own middleware when two of its workers share a process, which is what is wanted.
    logging.getLogger("dramatiq").setLevel(logging.ERROR)

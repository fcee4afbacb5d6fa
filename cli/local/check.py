"""What one look of `clos doctor` found."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Check(NamedTuple):
    """What was looked at, `ok`, `warn` or `fail`, what was seen, and what to do about it."""

    name: str
    state: str
    detail: str
    remedy: str = ""

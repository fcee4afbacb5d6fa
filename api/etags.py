"""`ETag` is `"<spec_version>"`: raised by changes of what is wanted, not of what is seen."""

from flask import request

from domain.errors import StaleVersion


def etag(spec_version: int) -> str:
    """The header's value, quoted."""
    return f'"{spec_version}"'


def check_if_match(spec_version: int) -> None:
    """Compare the request's `If-Match`, if there is one, with the current version. Call it inside the transaction.

    Raises:
        StaleVersion: it names another version.
    """
    if "If-Match" not in request.headers:
        return
    wanted = request.if_match
    if wanted.star_tag or wanted.contains(str(spec_version)):
        return
    raise StaleVersion("it was changed since it was read", hint="read it again", current=etag(spec_version))

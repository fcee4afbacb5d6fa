"""Passwords and API keys: what is kept of them, and how they are compared."""

import functools
import hashlib
import secrets
import threading
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from api.errors import Overloaded

# OWASP's parameters: the library's own take 64 MiB each, and 32 logins at once took 2 GB (pitfalls 7.9).
_hasher = PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)
_turns = threading.BoundedSemaphore(4)
_TURN_S = 5.0


@functools.cache
def _nobody() -> str:
    """Compared with where there is no such user, so that the time taken says nothing."""
    return _hasher.hash(secrets.token_hex())


def hash_password(password: str) -> str:
    """What is kept of a password.

    Raises:
        Overloaded: too many others are at it.
    """
    with _Turn():
        return _hasher.hash(password)


def is_password(kept: str | None, password: str) -> bool:
    """Whether it is the password; takes as long where nothing is kept.

    Raises:
        Overloaded: too many others are at it.
    """
    with _Turn():
        try:
            _hasher.verify(kept or _nobody(), password)
        except (VerificationError, InvalidHashError):
            return False
        return kept is not None


class _Turn:
    def __enter__(self) -> None:
        if not _turns.acquire(timeout=_TURN_S):
            raise Overloaded("too many logins at once")

    def __exit__(self, *_: object) -> None:
        _turns.release()


@dataclass(frozen=True)
class NewKey:
    """An API key as it is shown, once, and the digest that is kept."""

    id: str
    text: str
    digest: str


def new_key() -> NewKey:
    """A new API key: `clos_<id>_<256 bit>`."""
    key_id = secrets.token_hex(6)
    text = f"clos_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(key_id, text, hashlib.sha256(text.encode()).hexdigest())

"""Passwords as argon2id hashes (RFC 9106). Slow on purpose: never on the event loop or the writer.

Kept apart because few processes need it, and its library takes time to import.
"""

import secrets
import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's smallest recommendation: a small machine stays usable while people sign in.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def made() -> str:
    """A new password of 120 random bits."""
    return secrets.token_urlsafe(15)


def hashed(password: str) -> str:
    """What is stored, in PHC's form, with a salt of its own."""
    return _HASHER.hash(_normal(password))


def matches(stored: str | None, password: str) -> bool:
    """Whether it is the password. None, for nobody's, takes as long and never matches."""
    try:
        right = _HASHER.verify(stored or _nobodys(), _normal(password))
    except (VerificationError, InvalidHashError):
        return False
    return right and stored is not None


@cache
def _nobodys() -> str:
    return hashed(made())


def _normal(password: str) -> str:
    # The same characters typed on two machines may come in two forms (NIST SP 800-63B).
    return unicodedata.normalize("NFKC", password)

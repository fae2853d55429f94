"""Names that an upstream gives out, sealed so that they open for one caller at one server only.

To an upstream every project is the same principal, the gateway; so whoever knew another's session
or task could act in it. Sealed, a name is of no use to anybody but the key it was given to, and no
table of names has to be kept.
"""

import base64
import binascii
from functools import lru_cache
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from gateway.values import Caller

Kind = Literal["session", "session+pages", "event", "task", "task of ours", "state", "approval"]
_Bound = tuple[bytes, bytes, bytes, bytes]

_REMEMBERED = 4096


class Seals:
    """AES-SIV (RFC 5297): the same name has the same seal every time, as clients expect of names.

    Sealed names are base64url, which every place that a name stands in can hold.
    """

    def __init__(self, key: AESSIV) -> None:
        self._key = key
        # A session's name comes with each of its calls, and opening it costs more than looking.
        self._opened = lru_cache(_REMEMBERED)(self._open)

    def seal(self, kind: Kind, caller: Caller, name: bytes) -> bytes:
        return self._seal(_bound(kind, caller), name)

    def opens(self, kind: Kind, caller: Caller, sealed: bytes) -> bool:
        """Whether this caller was given the name."""
        return self._opened(_bound(kind, caller), sealed) is not None

    def open(self, kind: Kind, caller: Caller, sealed: bytes) -> bytes:
        """The upstream's own name; for one that this caller was never given, a name that the
        upstream never gave to anybody.

        So a foreign name is answered as the upstream answers one that it has forgotten, in its
        own words, and nothing tells whether it is anybody else's.
        """
        bound = _bound(kind, caller)
        name = self._opened(bound, sealed)
        return self._seal((b"unknown", *bound[1:]), sealed) if name is None else name

    def _seal(self, bound: _Bound, name: bytes) -> bytes:
        return base64.urlsafe_b64encode(self._key.encrypt(name, list(bound))).rstrip(b"=")

    def _open(self, bound: _Bound, sealed: bytes) -> bytes | None:
        try:
            raw = base64.b64decode(sealed + b"=" * (-len(sealed) % 4), b"-_", validate=True)
            return self._key.decrypt(raw, list(bound))
        except (InvalidTag, ValueError, binascii.Error):
            return None


def _bound(kind: Kind, caller: Caller) -> _Bound:
    """What a name is good for; all of it is authenticated, none of it stands in the name."""
    return (
        kind.encode(),
        caller.project.id.encode(),
        caller.key.id.encode(),
        caller.server.id.encode(),
    )

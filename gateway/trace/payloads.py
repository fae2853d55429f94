"""Payloads: encrypted beside the log under a key per project and month, erasable at any time.

The month is the one in which the payload's time is over, so that when a month is past all that its
key opens is to be forgotten: dropping the key erases it wherever a copy of the rows has got to.

A payload's plaintext is a random 32-byte nonce followed by the value; the record holds
HMAC-SHA256(nonce, value). Without the row, or without the month's key, the record's commitment is
noise that says nothing of the value, and every proof still verifies.
"""

import os
from dataclasses import field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, select, text

from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt, encrypt
from gateway.store.tables import payload_keys
from gateway.trace.record import Mac, commitment
from gateway.values import ProjectId

NONCE_BYTES = 32
_UNTIL = "until-"
_MAKE_KEY = text(
    "INSERT INTO payload_keys (id, wrapped, created_at) VALUES (:id, :wrapped, :created_at)"
    " ON CONFLICT DO NOTHING"
)


@frozen
class PayloadKey:
    """One project's key for one month."""

    aead: AESGCM = field(repr=False)
    mac: Mac = field(repr=False)

    @classmethod
    def of(cls, raw: bytes) -> "PayloadKey":
        """``raw`` are the key's 32 bytes."""
        return cls(AESGCM(raw), Mac(raw))

    def derived_nonce(self, place: bytes) -> bytes:
        """The nonce of a value that is committed to and not kept: gone when the key is."""
        return self.mac(b"commit/" + place)


class PayloadErased(Exception):
    """The value was erased; its record and proof stay."""


class PayloadKeys:
    """Opens and makes the keys; belongs to the log, whose transactions it follows."""

    def __init__(self, keyring: Keyring) -> None:
        self._data = keyring.data
        self._open: dict[str, PayloadKey] = {}
        self._new: list[str] = []

    def key_id(self, project_id: ProjectId, expires_at: str) -> str:
        """``<project>/until-<yyyy-mm>``."""
        return f"{project_id}/{_UNTIL}{expires_at[:7]}"

    def drop_past(self, connection: Connection, now: str) -> list[tuple[ProjectId, str]]:
        """Drop the keys of months that are past, here and in memory; by project and month.

        Nothing is written under them any more: what is kept is kept until after now. Rows of
        theirs that are still there are lost with them.
        """
        month = now[:7]
        self._open = {one: key for one, key in self._open.items() if _month(one) >= month}
        held = connection.execute(select(payload_keys.c.id)).scalars()
        past = [one for one in held if _UNTIL in one and _month(one) < month]
        connection.execute(delete(payload_keys).where(payload_keys.c.id.in_(past)))
        return [(ProjectId(one.partition("/")[0]), _month(one)) for one in sorted(past)]

    def for_writing(self, connection: Connection, key_id: str, ts: str) -> PayloadKey:
        """The key of a project and month, made now if this is its first payload."""
        key = self._open.get(key_id)
        if key is None:
            key = self._stored(connection, key_id)
        if key is None:
            raw = os.urandom(32)
            wrapped = encrypt(self._data, raw, wrapping_context(key_id))
            row = {"id": key_id, "wrapped": wrapped, "created_at": ts}
            if connection.execute(_MAKE_KEY, row).rowcount:
                self._new.append(key_id)
                key = PayloadKey.of(raw)
            else:  # another gateway made it in this moment
                key = self.for_reading(connection, key_id)
        self._open[key_id] = key
        return key

    def for_reading(self, connection: Connection, key_id: str) -> PayloadKey:
        """Raises `PayloadErased` when the month's key was dropped."""
        key = self._stored(connection, key_id)
        if key is None:
            raise PayloadErased(key_id)
        return key

    def committed(self) -> None:
        self._new.clear()

    def rewound(self) -> None:
        """Read keys made in this transaction again: the savepoint may have undone them."""
        for key_id in self._new:
            self._open.pop(key_id, None)

    def rolled_back(self) -> None:
        self.rewound()
        self._new.clear()

    def _stored(self, connection: Connection, key_id: str) -> PayloadKey | None:
        wrapped = connection.execute(
            select(payload_keys.c.wrapped).where(payload_keys.c.id == key_id)
        ).scalar_one_or_none()
        if wrapped is None:
            return None
        raw = decrypt(self._data, wrapped, wrapping_context(key_id))
        return PayloadKey.of(raw)


def _month(key_id: str) -> str:
    return key_id[-7:]


def wrapping_context(key_id: str) -> bytes:
    """Binds a wrapped key to its project and month."""
    return key_id.encode()


def context(log: int, idx: int, name: str) -> bytes:
    """Binds a sealed payload to its place, so that rows cannot be swapped."""
    return f"{log}/{idx}/{name}".encode()


def seal(key: PayloadKey, value: bytes, place: bytes) -> tuple[str, bytes]:
    """Return the commitment for the record and the sealed bytes for the table."""
    nonce = os.urandom(NONCE_BYTES)
    return commitment(nonce, value), encrypt(key.aead, nonce + value, place)


def unseal(key: PayloadKey, sealed: bytes, place: bytes) -> tuple[bytes, bytes]:
    """Return nonce and value; raises `cryptography.exceptions.InvalidTag` when altered."""
    opened = decrypt(key.aead, sealed, place)
    return opened[:NONCE_BYTES], opened[NONCE_BYTES:]

"""The deployment's four keys, each a file of its own with mode 600.

``data`` wraps what is kept encrypted (payloads, upstream credentials), ``log`` signs checkpoints
(Ed25519), ``bundle`` signs policy bundles, ``seal`` protects what clients carry for us.

While a key is being rotated the one that follows lies beside it, as ``data.next.key``: whatever
moment a crash comes at, both are there, and the same command goes on with the same key.
"""

import os
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.durable import sync_folder, write_file
from gateway.frozen import frozen

NAMES = ("data", "log", "bundle", "seal")
_NONCE_BYTES = 12


class KeyringFault(Exception):
    """A key file is missing, too open, or not what it should be; the message says which."""


class DataKey:
    """Seals with the first of its keys, and opens what any of them has sealed."""

    def __init__(self, keys: Sequence[AESGCM]) -> None:
        self._keys = tuple(keys)

    def encrypt(self, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
        return self._keys[0].encrypt(nonce, plaintext, context)

    def decrypt(self, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        """Raises `InvalidTag` when none of them has."""
        for key in self._keys[:-1]:
            try:
                return key.decrypt(nonce, sealed, context)
            except InvalidTag:
                continue
        return self._keys[-1].decrypt(nonce, sealed, context)


@frozen
class Keyring:
    """The opened keys. Never printed: `repr` shows none of them."""

    data: DataKey = field(repr=False)
    seal: AESGCM = field(repr=False)
    handles: AESSIV = field(repr=False)
    """Derived from the seal key: what names of upstreams are sealed with."""
    log: Ed25519PrivateKey = field(repr=False)
    bundle: bytes = field(repr=False)


def create(directory: Path) -> None:
    """Make the four key files, each 32 random bytes; existing ones are left as they are."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in NAMES:
        path = directory / f"{name}.key"
        if not path.exists():
            write_file(path, os.urandom(32))


def load(directory: Path) -> Keyring:
    """Open the four keys. Raises `KeyringFault`."""
    raw = {name: _read(directory / f"{name}.key") for name in NAMES}
    following = _next(directory, "data")
    data = [raw["data"], _read(following)] if following.exists() else [raw["data"]]
    return Keyring(
        data=DataKey([AESGCM(one) for one in data]),
        seal=AESGCM(raw["seal"]),
        handles=AESSIV(HKDF(SHA256(), 64, salt=None, info=b"handles").derive(raw["seal"])),
        log=Ed25519PrivateKey.from_private_bytes(raw["log"]),
        bundle=raw["bundle"],
    )


def stage(directory: Path, name: str) -> bytes:
    """The key that is to follow, on disk from here on: made now, or by a rotation cut short.

    Raises `KeyringFault`, OSError.
    """
    path = _next(directory, name)
    if not path.exists():
        write_file(path, os.urandom(32))
    return _read(path)


def follow(directory: Path, name: str) -> None:
    """The staged key takes its predecessor's place, which is gone with that. Raises OSError."""
    _next(directory, name).rename(directory / f"{name}.key")
    sync_folder(directory)


def staged(directory: Path) -> list[str]:
    """The keys whose rotation was begun and not ended."""
    return [name for name in NAMES if _next(directory, name).exists()]


def _next(directory: Path, name: str) -> Path:
    return directory / f"{name}.next.key"


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode & 0o777
        raw = path.read_bytes()
    except OSError as error:
        raise KeyringFault(f"cannot read {path}: {error.strerror}; run `gateway init`") from None
    if mode & 0o077:
        raise KeyringFault(f"{path} can be read by others (mode {mode:o}); run `chmod 600` on it")
    if len(raw) != 32:
        raise KeyringFault(f"{path} holds {len(raw)} bytes instead of 32; restore it from a backup")
    return raw


def encrypt(key: AESGCM | DataKey, plaintext: bytes, context: bytes) -> bytes:
    """AES-256-GCM (NIST SP 800-38D): nonce, ciphertext, tag. `context` is authenticated too."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + key.encrypt(nonce, plaintext, context)


def decrypt(key: AESGCM | DataKey, sealed: bytes, context: bytes) -> bytes:
    """The inverse of `encrypt`; raises `cryptography.exceptions.InvalidTag` when altered."""
    return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)

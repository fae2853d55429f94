"""Signed notes and log checkpoints as C2SP defines them (signed-note, tlog-checkpoint). Pure.

A checkpoint's text is three lines, the log's origin, its size and the root in base64; the note is
this text, a blank line and signatures. The name of the key is the log's origin. Needs only
`cryptography` besides the standard library, because whoever verifies evidence has nothing else.
"""

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.frozen import frozen

_ED25519 = 0x01
_SIGNATURE = "\N{EM DASH} "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteFault(Exception):
    """A note, checkpoint or verifier key that is malformed, or that nobody trusted has signed."""


@frozen
class Checkpoint:
    """A log's head: the root over its first `size` records."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


@frozen
class VerifierKey:
    """An Ed25519 key with the name that it signs under."""

    name: str
    public: bytes

    @classmethod
    def of(cls, name: str, key: Ed25519PrivateKey) -> "VerifierKey":
        return cls(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """From ``<name>+<key id>+<base64>``. Raises `NoteFault`."""
        # The base64 may hold a plus sign; the name may not.
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _decoded(encoded)
        if not _is_name(name) or len(raw) != 33 or raw[0] != _ED25519:
            raise NoteFault("this is no Ed25519 verifier key: <name>+<key id>+<base64>")
        key = cls(name, raw[1:])
        if key.id.hex() != key_id:
            raise NoteFault(f"the verifier key of {name} was altered: its key id does not fit")
        return key

    @property
    def id(self) -> bytes:
        return hashlib.sha256(
            self.name.encode() + b"\n" + bytes([_ED25519]) + self.public
        ).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([_ED25519]) + self.public)}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The checkpoint as a note, signed under its origin's name."""
    signer = VerifierKey.of(checkpoint.origin, key)
    if not _is_name(signer.name):
        raise NoteFault(f"{signer.name!r} cannot name a log: no spaces and no plus sign")
    text = checkpoint.text()
    signature = _base64(signer.id + key.sign(text.encode()))
    return f"{text}\n{_SIGNATURE}{signer.name} {signature}\n"


def cosign(note: str, key: Ed25519PrivateKey) -> str:
    """The same note with another key's signature beside those that it has, under the same name."""
    text = note.rpartition("\n\n")[0] + "\n"
    line = sign(parse(text), key).rpartition("\n\n")[2]
    return note if line in note else note + line


def opened(note: str, key: VerifierKey) -> str:
    """The text of a note that this key has signed. Raises `NoteFault`.

    Signatures by others are passed over, as signed-note demands.
    """
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteFault("this is no signed note: it has no signatures after a blank line")
    text += "\n"
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_SIGNATURE).rpartition(" ")
        if not line.startswith(_SIGNATURE) or not _is_name(name):
            raise NoteFault("a signature line of the note is malformed")
        raw = _decoded(encoded)
        if name != key.name or raw[:4] != key.id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], text.encode())
        except InvalidSignature:
            raise NoteFault(f"the signature of {name} does not fit the text") from None
        return text
    raise NoteFault(f"the note is not signed by {key.name} with the key {key.id.hex()}")


def parse(text: str) -> Checkpoint:
    """The checkpoint in a note's text. Raises `NoteFault`."""
    lines = text.split("\n")
    if len(lines) < 4 or not _is_name(lines[0]) or not _SIZE.fullmatch(lines[1]):
        raise NoteFault("this is no checkpoint: origin, size and root, a line each")
    root = _decoded(lines[2])
    if len(root) != 32:
        raise NoteFault("the checkpoint's root is no SHA-256")
    return Checkpoint(lines[0], int(lines[1]), root)


def checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint of a note that this key has signed, of the log that bears its name."""
    found = parse(opened(note, key))
    if found.origin != key.name:
        raise NoteFault(f"the checkpoint is of {found.origin}, the key of {key.name}")
    return found


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteFault("the note holds base64 that is none") from None

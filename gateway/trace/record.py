"""One record of the log: its fields and its canonical bytes. Pure.

The bytes that are hashed are the bytes that are stored. They are JSON in a profile in which
sorted-key output and RFC 8785 agree: ASCII keys, no floats, integers below 2^53, valid Unicode.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

import orjson

from gateway.frozen import frozen
from gateway.values import ProjectId

Field: TypeAlias = str | int | bool | None | list[str]

VERSION = 1
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
MAX_BODY = 16 * 1024
MAX_NAME = 128
"""Bytes of UTF-8 that a name keeps in a record; the whole name is a payload."""

MAX_LISTED = 1500
"""Of policies, in bytes of UTF-8: with the other columns below what PostgreSQL indexes (2,704)."""


class RecordTooLarge(Exception):
    """A record over 16 KiB: what is long belongs into a payload."""


@frozen
class Draft:
    """A record before the writer gives it its place.

    ``fields`` hold codes, ids and bounded names only; ``payloads`` (reasons, raw names, inputs,
    results, users) are kept encrypted beside the log, erasable, and committed to in the record.
    """

    kind: str
    id: str
    project_id: ProjectId
    fields: Mapping[str, Field] = field(default_factory=dict)
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    commits: Mapping[str, bytes] = field(default_factory=dict)
    """Values that are committed to and not kept: whoever has one can show that it is the one."""
    call_id: str | None = None
    retention_days: int = 30
    """How long the payloads are kept."""


@frozen
class Place:
    """What the writer adds: index, time, position in the project, the previous leaf (hex)."""

    idx: int
    ts: str
    pseq: int
    pprev: str


class Mac:
    """HMAC-SHA256 (RFC 2104) under one key of at most 64 bytes.

    `hmac` and the libraries look their algorithm up for each value, which here costs more than the
    hashing; a test holds the two against each other.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            raise ValueError(f"a key has at most {_BLOCK} bytes")
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def __call__(self, value: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return outer.digest()


def commitment(nonce: bytes, value: bytes) -> str:
    """``hmac-sha256:<hex>``, with a nonce that is erased together with the value.

    Raises ValueError for a nonce of over 64 bytes.
    """
    if len(nonce) > _BLOCK:
        raise ValueError(f"a nonce has at most {_BLOCK} bytes")
    padded = nonce.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(padded.translate(_INNER) + value).digest()
    return "hmac-sha256:" + hashlib.sha256(padded.translate(_OUTER) + inner).hexdigest()


def body(draft: Draft, place: Place, commitments: Mapping[str, str] | None) -> bytes:
    """The canonical bytes. Raises `RecordTooLarge`."""
    document: dict[str, object] = {
        **draft.fields,
        "v": VERSION,
        "idx": place.idx,
        "kind": draft.kind,
        "id": draft.id,
        "ts": place.ts,
        "project": draft.project_id,
        "pseq": place.pseq,
        "pprev": place.pprev,
    }
    if draft.call_id is not None:
        document["call"] = draft.call_id
    if commitments:
        document["payload"] = commitments
    raw = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    if len(raw) > MAX_BODY:
        raise RecordTooLarge(f"record {draft.id} has {len(raw)} bytes, over {MAX_BODY}")
    return raw


def listed_policies(ids: Field) -> str | None:
    """The ids of policies as a column of text, each between line breaks; None for no ids.

    What an index entry has no room for is left out: `MAX_LISTED` bytes.
    """
    if not isinstance(ids, list) or not ids:
        return None
    text = "\n".join(("", *ids, ""))
    while len(text.encode()) > MAX_LISTED:
        text = text[: text.rindex("\n", 0, -1) + 1]
    return text


def bounded(name: str) -> str:
    """At most `MAX_NAME` bytes of a name, cut between characters; NUL as U+FFFD.

    PostgreSQL stores no NUL in text, and what a stranger calls a tool must not keep the refusal of
    it from the log.
    """
    name = name.replace("\0", "\ufffd")
    raw = name.encode()
    if len(raw) <= MAX_NAME:
        return name
    return raw[:MAX_NAME].decode(errors="ignore")

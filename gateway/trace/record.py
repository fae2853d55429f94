"""One record of the log: its fields and its canonical bytes. Pure.

The bytes that are hashed are the bytes that are stored. They are JSON in a profile in which
sorted-key output and RFC 8785 agree: ASCII keys, no floats, integers below 2^53, valid Unicode.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson

from gateway.values import ProjectId

Field: TypeAlias = str | int | bool | None | list[str]

VERSION = 1
MAX_BODY = 16 * 1024
MAX_NAME = 128
"""Bytes of UTF-8 that a name keeps in a record; the whole name is a payload."""

MAX_LISTED = 1500
"""Of policies, in bytes of UTF-8: with the other columns below what PostgreSQL indexes (2,704)."""


class RecordTooLarge(Exception):
    """A record over 16 KiB: what is long belongs into a payload."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Place:
    """What the writer adds: index, time, position in the project, the previous leaf (hex)."""

    idx: int
    ts: str
    pseq: int
    pprev: str


def commitment(nonce: bytes, value: bytes) -> str:
    """``hmac-sha256:<hex>``, with a nonce that is erased together with the value."""
    return "hmac-sha256:" + hmac.digest(nonce, value, "sha256").hex()


def body(draft: Draft, place: Place, commitments: Mapping[str, str]) -> bytes:
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
    """At most `MAX_NAME` bytes of a name, cut between characters."""
    raw = name.encode()
    if len(raw) <= MAX_NAME:
        return name
    return raw[:MAX_NAME].decode(errors="ignore")

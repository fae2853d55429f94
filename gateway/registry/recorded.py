"""Decisions as the trace recorded them, with the input that each was made on.

Read-only, and so possible beside a gateway that runs on the same data directory.
"""

from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal, TypeAlias

import orjson
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, Row, Select, and_, select

from gateway.frozen import frozen
from gateway.keyring import Keyring
from gateway.registry.faults import Missing
from gateway.store import tables
from gateway.trace import payloads
from gateway.trace.payloads import PayloadErased, PayloadKey, PayloadKeys

InputState: TypeAlias = Literal["kept", "erased", "unreadable", "not recorded"]

_t = tables.trace.c
_p = tables.payloads.c


@frozen
class Recorded:
    """One decision. Without `question` nobody can make it again; `input_state` says why."""

    trace_id: str
    ts: str
    tool: str
    action: str
    policy_ids: tuple[str, ...]
    """At most the 32 that a record names, each cut as there."""
    bundle_digest: str | None
    input_state: InputState
    question: bytes | None = field(repr=False)
    """``{"input": …}``, byte for byte what OPA was asked."""


def find(connection: Connection, keyring: Keyring, trace_id: str) -> Recorded:
    """The decision of a call, whichever project it belongs to. Raises `Missing`."""
    query = _query().where(_t.call_id == trace_id).order_by(_t.idx).limit(1)
    for recorded in _read(connection, keyring, query):
        return recorded
    raise Missing("trace")


def since(
    connection: Connection,
    keyring: Keyring,
    start: str,
    limit: int,
    project_id: str | None = None,
) -> Iterator[Recorded]:
    """The newest decisions from `start` (RFC 3339) on, at most `limit`; the newest comes first."""
    query = _query().where(_t.ts >= start)
    if project_id is not None:
        query = query.where(_t.project_id == project_id)
    return _read(connection, keyring, query.order_by(_t.ts.desc(), _t.idx.desc()).limit(limit))


def _query() -> Select[Any]:
    kept = and_(_p.log == _t.log, _p.idx == _t.idx, _p.field == "input")
    return (
        select(_t.log, _t.idx, _t.call_id, _t.ts, _t.body, _p.payload_key, _p.sealed)
        .select_from(tables.trace.outerjoin(tables.payloads, kept))
        .where(_t.kind == "decision")
    )


def _read(connection: Connection, keyring: Keyring, query: Select[Any]) -> Iterator[Recorded]:
    keys = PayloadKeys(keyring)
    opened: dict[str, PayloadKey] = {}
    for row in connection.execute(query).all():
        record = orjson.loads(row.body)
        state, question = _question(connection, keys, opened, row, record)
        yield Recorded(
            trace_id=str(row.call_id),
            ts=row.ts,
            tool=str(record.get("tool", "")),
            action=record["decision"],
            policy_ids=tuple(record.get("rules", ())),
            bundle_digest=record.get("policy"),
            input_state=state,
            question=question,
        )


def _question(
    connection: Connection,
    keys: PayloadKeys,
    opened: dict[str, PayloadKey],
    row: Row[Any],
    record: dict[str, Any],
) -> tuple[InputState, bytes | None]:
    if "input" not in record.get("payload", {}):
        return "not recorded", None
    if row.sealed is None:
        return "erased", None
    try:
        # One key serves a project for a month; unwrapping it for each record would double the time.
        if row.payload_key not in opened:
            opened[row.payload_key] = keys.for_reading(connection, row.payload_key)
        place = payloads.context(row.log, row.idx, "input")
        return "kept", payloads.unseal(opened[row.payload_key], row.sealed, place)[1]
    except PayloadErased:
        return "erased", None
    except InvalidTag:
        return "unreadable", None

"""Decisions as the trace recorded them, with the input that each was made on.

Read-only, and so possible beside a gateway that runs on the same data directory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any, Literal, TypeAlias

import orjson
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, Row, Select, select, tuple_

from gateway.frozen import frozen
from gateway.keyring import Keyring
from gateway.registry import records
from gateway.registry.faults import Missing
from gateway.store import tables
from gateway.trace import payloads
from gateway.trace.payloads import PayloadErased, PayloadKey, PayloadKeys

InputState: TypeAlias = Literal["kept", "erased", "unreadable", "not recorded"]

_INPUTS_AT_ONCE = 400
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
    for recorded in _read(connection, keyring, records.of_id(connection, query, trace_id)[:1]):
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
    query = _query().where(_t.ts >= start).order_by(_t.ts.desc(), _t.idx.desc())
    if project_id is not None:
        query = query.where(_t.project_id == project_id)
    rows = connection.execute(query.limit(limit)).all()
    older = records.older(connection, query, project_id, start, limit - len(rows))
    return _read(connection, keyring, [*rows, *older])


def _query() -> Select[Any]:
    return select(_t.log, _t.idx, _t.call_id, _t.ts, _t.body).where(_t.kind == "decision")


def _read(connection: Connection, keyring: Keyring, rows: Sequence[Row[Any]]) -> Iterator[Recorded]:
    keys = PayloadKeys(keyring)
    opened: dict[str, PayloadKey] = {}
    kept = _kept(connection, rows)
    for row in rows:
        record = orjson.loads(row.body)
        sealed = kept.get((row.log, row.idx))
        state, question = _question(connection, keys, opened, sealed, record)
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


def _kept(connection: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[int, int], Row[Any]]:
    """The inputs that are still there, by log and index."""
    found: dict[tuple[int, int], Row[Any]] = {}
    for start in range(0, len(rows), _INPUTS_AT_ONCE):
        places = [(row.log, row.idx) for row in rows[start : start + _INPUTS_AT_ONCE]]
        query = select(tables.payloads).where(
            tuple_(_p.log, _p.idx).in_(places), _p.field == "input"
        )
        found |= {(row.log, row.idx): row for row in connection.execute(query)}
    return found


def _question(
    connection: Connection,
    keys: PayloadKeys,
    opened: dict[str, PayloadKey],
    kept: Row[Any] | None,
    record: dict[str, Any],
) -> tuple[InputState, bytes | None]:
    if "input" not in record.get("payload", {}):
        return "not recorded", None
    if kept is None:
        return "erased", None
    try:
        # One key serves a project for a month; unwrapping it for each record would double the time.
        if kept.payload_key not in opened:
            opened[kept.payload_key] = keys.for_reading(connection, kept.payload_key)
        place = payloads.context(kept.log, kept.idx, "input")
        return "kept", payloads.unseal(opened[kept.payload_key], kept.sealed, place)[1]
    except PayloadErased:
        return "erased", None
    except InvalidTag:
        return "unreadable", None

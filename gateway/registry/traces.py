"""The trace, read: a list by filter, one record with what belongs to it."""

import base64
from typing import Any, Literal

import orjson
from cryptography.exceptions import InvalidTag
from sqlalchemy import ColumnElement, Connection, Row, Select, select

from gateway import clock
from gateway.cold import reading
from gateway.frozen import frozen
from gateway.ids import made_at
from gateway.keyring import Keyring
from gateway.registry import pages, records
from gateway.registry.faults import Missing
from gateway.registry.pages import Page
from gateway.registry.search import Sought, by_policy
from gateway.store import tables
from gateway.trace import payloads
from gateway.trace.payloads import PayloadErased, PayloadKeys

_t = tables.trace.c
_RANGES = {"1h": 3600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
_LISTED = [
    _t.idx,
    _t.id,
    _t.call_id,
    _t.ts,
    _t.kind,
    _t.decision,
    _t.reason_code,
    _t.risk,
    _t.agent_id,
    _t.server_id,
    _t.tool,
]
_MAX_RELATED = 100
_MOST_TILES = 64
# An event's id is made inside the transaction that gives the record its time.
_BEFORE_ID, _AFTER_ID = 60, 60


@frozen
class Filter:
    """Which records; None leaves a side open. Times are RFC 3339, `start` inclusive."""

    time_range: Literal["1h", "24h", "7d", "30d", "all"] | None = None
    start: str | None = None
    end: str | None = None
    decision: str | None = None
    agent_id: str | None = None
    server_id: str | None = None
    tool: str | None = None
    risk: str | None = None
    kind: str | None = None
    policy_id: str | None = None
    """A policy that the decision names."""
    search: Sought | None = None
    sender: str | None = None
    """Only records of events that this extension sent."""

    def _decided(self) -> list[ColumnElement[bool]]:
        match self.decision:
            case None:
                return []
            case "PASSED":
                return [_t.kind == "decision", _t.reason_code.is_(None)]
            case "BLOCKED":
                return [_t.kind == "decision", _t.reason_code.is_not(None)]
            case action:
                return [_t.decision == action]

    def since(self, now: str) -> str | None:
        """From when on, if not from the beginning."""
        found = self.start
        if self.time_range in _RANGES:
            found = max(found or "", clock.after(now, -_RANGES[self.time_range]))
        return found

    def times(self, now: str) -> list[ColumnElement[bool]]:
        """The period alone."""
        found = []
        if (start := self.since(now)) is not None:
            found.append(_t.ts >= start)
        if self.end is not None:
            found.append(_t.ts < self.end)
        return found

    def conditions(self, now: str) -> list[ColumnElement[bool]]:
        equal = {
            _t.agent_id: self.agent_id,
            _t.server_id: self.server_id,
            _t.tool: self.tool,
            _t.risk: self.risk,
            _t.kind: self.kind,
        }
        found = [column == wanted for column, wanted in equal.items() if wanted is not None]
        found += self._decided()
        found += self.times(now)
        if self.sender is not None:
            found.append(_t.call_id.in_(_sent_by(self.sender)))
        if self.policy_id is not None:
            found.append(by_policy(self.policy_id))
        if self.search is not None:
            found.append(self.search.condition())
        return found


@frozen
class Payload:
    """A payload as it can be shown: JSON where it is JSON, text where it is text."""

    value: Any = None
    encoding: Literal["json", "text", "base64", "erased", "unreadable"] = "erased"


def listed(
    connection: Connection,
    project_id: str,
    wanted: Filter,
    now: str,
    cursor: str | None,
    limit: int,
) -> Page[Row[Any]]:
    """Newest first. A page may be short, or empty, before the last: see `pages.page_back`."""
    query = select(*_LISTED).where(_t.project_id == project_id, *wanted.conditions(now))
    among = select(_t.ts).where(_t.project_id == project_id, *wanted.times(now))

    def hot(cursor: str | None) -> Page[Row[Any]]:
        return pages.page_back(connection, query, (_t.ts, _t.idx), cursor, limit, among)

    sent = wanted.sender is not None
    asked = records.Listed(query, project_id, wanted.since(now), wanted.end, sent)
    return records.page_back(connection, asked, hot, cursor, limit)


def get(
    connection: Connection, project_id: str, trace_id: str, sender: str | None = None
) -> list[Row[Any]]:
    """A call's records in their order, or the one record with this id.

    With ``sender`` only what an extension's events have left. Raises `Missing`.
    """
    mine = select(tables.trace).where(_t.project_id == project_id)
    if sender is not None:
        mine = mine.where(_t.call_id.in_(_sent_by(sender)))
    sent = sender is not None
    calls = mine.where(_t.call_id == trace_id).order_by(_t.idx).limit(_MAX_RELATED)
    rows = records.of_id(connection, calls, trace_id, senders=sent)
    if not rows:
        one = mine.where(_t.id == trace_id, *_around(trace_id))
        rows = records.of_id(connection, one, trace_id, senders=sent)
    if not rows:
        raise Missing("trace")
    return rows


def in_database(connection: Connection, project_id: str, trace_id: str) -> list[Row[Any]]:
    """As `get`, of what has not left the database; none where nothing is there."""
    mine = select(tables.trace).where(_t.project_id == project_id)
    rows = connection.execute(mine.where(_t.call_id == trace_id).order_by(_t.idx)).all()
    return list(rows or connection.execute(mine.where(_t.id == trace_id, *_around(trace_id))))


def events(connection: Connection, project_id: str, first: str, last: str) -> dict[str, str]:
    """What happened between two times, both included: the events' names by id."""
    query = select(_t.id, _t.body).where(
        _t.project_id == project_id, _t.ts >= first, _t.ts <= last, _t.kind == "event"
    )
    some = reading.between(connection, project_id, first, last, _MOST_TILES)
    rows = [*connection.execute(query), *reading.rows(connection, query, some)]
    return {row.id: str(orjson.loads(row.body)["event"]) for row in rows}


def open_payloads(connection: Connection, keyring: Keyring, row: Row[Any]) -> dict[str, Payload]:
    """Every payload that the record commits to, opened as far as it still can be."""
    record = orjson.loads(row.body)
    shown = dict.fromkeys(record.get("payload", {}), Payload())
    p = tables.payloads.c
    keys = PayloadKeys(keyring)
    query = select(tables.payloads).where(p.log == row.log, p.idx == row.idx)
    for stored in connection.execute(query):
        shown[stored.field] = _open(connection, keys, stored)
    return shown


def _sent_by(sender: str) -> Select[tuple[str]]:
    return select(tables.events.c.trace_id).where(tables.events.c.sender == sender)


def _open(connection: Connection, keys: PayloadKeys, stored: Row[Any]) -> Payload:
    place = payloads.context(stored.log, stored.idx, stored.field)
    try:
        key = keys.for_reading(connection, stored.payload_key)
        _, value = payloads.unseal(key, stored.sealed, place)
    except PayloadErased:
        return Payload()
    except InvalidTag:
        return Payload(None, "unreadable")
    return _shown(value)


def _shown(value: bytes) -> Payload:
    if value[:1] in (b"{", b"["):
        try:
            return Payload(orjson.loads(value), "json")
        except ValueError:
            pass  # text that only begins like JSON
    try:
        return Payload(value.decode(), "text")
    except UnicodeDecodeError:
        return Payload(base64.b64encode(value).decode(), "base64")


def _around(trace_id: str) -> list[ColumnElement[bool]]:
    """The time in a UUIDv7 (RFC 9562, section 5.7) bounds the search: ids have no index."""
    try:
        text = clock.rfc3339(made_at(trace_id))
    except (ValueError, OverflowError, OSError):
        return [_t.id.is_(None)]
    return [_t.ts >= clock.after(text, -_BEFORE_ID), _t.ts < clock.after(text, _AFTER_ID)]

"""Where heads of a log were anchored, read: for evidence, for the API, for the command line."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Row, Select, func, select

from gateway.frozen import frozen
from gateway.store import tables
from gateway.trace import heads
from gateway.trace.names import named

_a = tables.anchors.c
_b = tables.anchor_backends.c

BROKEN = frozenset({"wrong_chain", "foreign_code", "fork", "refused"})
"""Conditions that only a person puts right; nothing is anchored in them."""
MOST = 256
"""Anchors that evidence names: the newest covers all records before it."""
NOT_NEWS = ("heads",)
"""Kinds of records that the anchoring itself writes."""

Standing = Literal["LOCAL_ONLY", "PENDING", "ANCHORED", "SKIPPED", "FAILED"]


@frozen
class ChainReceipt:
    """One head, and what shows elsewhere that it was known."""

    log: int
    backend: str
    size: int
    root: bytes
    anchored_at: str
    tx_hash: str | None
    block: int | None
    identity: Mapping[str, object]
    """Of Flare: ``chain_id, contract, writer``."""
    proof: bytes = field(repr=False)
    """The signed transaction, or the time-stamp response (RFC 3161); empty for files."""
    note: str = field(repr=False)
    """The signed checkpoint of the head."""

    def document(self) -> dict[str, object]:
        """As it stands in an evidence bundle: JSON, bytes in base64."""
        chain = {name: self.identity.get(name) for name in ("chain_id", "contract", "writer")}
        return {
            "backend": self.backend,
            "size": self.size,
            "root": b64encode(self.root).decode(),
            "anchored_at": self.anchored_at,
            "tx_hash": self.tx_hash,
            "block": self.block,
            "proof": b64encode(self.proof).decode(),
            "note": self.note,
            **chain,
        }


def of_log(connection: Connection, log: int, size: int) -> list[ChainReceipt]:
    """The newest `MOST` finished anchors of a log's first ``size`` records, smallest first."""
    query = one_by_one().where(_a.log == log, _a.size <= size, _a.state == "final")
    newest = query.order_by(_a.size.desc(), _a.backend).limit(MOST)
    return [_receipt(row) for row in reversed(connection.execute(newest).all())]


def covering(connection: Connection, record: Row[Any]) -> ChainReceipt | None:
    """The first finished anchor over a record of the trace; one on a chain before others."""
    query = one_by_one().where(_a.log == record.log, _a.size > record.idx, _a.state == "final")
    row = connection.execute(query.order_by(_a.tx_hash.is_(None), _a.size).limit(1)).first()
    return None if row is None else _receipt(row)


def _receipt(row: Row[Any]) -> ChainReceipt:
    return ChainReceipt(
        log=row.log,
        backend=row.backend,
        size=row.size,
        root=row.root,
        anchored_at=row.anchored_at,
        tx_hash=row.tx_hash,
        block=row.block,
        identity=row.identity,
        proof=row.proof or b"",
        note=row.note,
    )


@frozen
class BackendStanding:
    """How one backend stands."""

    name: str
    condition: str
    detail: str
    since: str
    size: int
    """Records that it vouches for, of all logs."""
    identity: Mapping[str, object]


@frozen
class LogStanding:
    """How much of all logs somebody outside vouches for."""

    state: Standing
    size: int
    anchored: int
    """Records below the largest anchored head of their log."""
    backends: Sequence[BackendStanding]


def standing(connection: Connection) -> LogStanding:
    """Without a backend that is set up: `LOCAL_ONLY`."""
    query = select(tables.anchor_backends).where(_b.enabled).order_by(_b.name)
    rows = connection.execute(query).all()
    by_backend = [covered(connection, row.name) for row in rows]
    best: dict[int, int] = {}
    for found in by_backend:
        best = {log: max(best.get(log, 0), found.get(log, 0)) for log in best | found}
    backends = [
        BackendStanding(
            row.name, row.condition, row.detail, row.since, sum(found.values()), row.identity
        )
        for row, found in zip(rows, by_backend, strict=True)
    ]
    logs = _logs(connection)
    size = sum(one.size for one in logs)
    news = any(_news(connection, one, best.get(one.number, 0)) for one in logs)
    return LogStanding(_state(backends, not news), size, sum(best.values()), backends)


@frozen
class _Sized:
    number: int
    size: int
    can_be: int
    """Records that can be anchored: a sealed log's behind its last checkpoint never are."""


def _logs(connection: Connection) -> list[_Sized]:
    t = tables.trace.c
    sealed = set(
        connection.execute(
            select(tables.logs.c.log).where(tables.logs.c.sealed_at.is_not(None))
        ).scalars()
    )
    found = []
    for one in heads.newest(connection):
        last = connection.execute(select(func.max(t.idx)).where(t.log == one.log)).scalar()
        size = 0 if last is None else last + 1
        found.append(_Sized(one.log, size, one.size if one.log in sealed else size))
    return found


def _news(connection: Connection, log: _Sized, anchored: int) -> bool:
    t = tables.trace.c
    between = (t.log == log.number, t.idx >= anchored, t.idx < log.can_be)
    query = select(t.idx).where(*between, t.kind.not_in(NOT_NEWS)).limit(1)
    return connection.execute(query).first() is not None


def covered(connection: Connection, backend: str) -> dict[int, int]:
    """How many records of each log a backend vouches for: by the log's own head, or by another's,
    below which lies a `heads` record that names it.
    """
    found: dict[int, int] = {}
    for log in connection.execute(select(tables.logs.c.log)).scalars().all():
        mine = (_a.backend == backend, _a.log == log, _a.state == "final")
        query = select(_a.size).where(*mine).order_by(_a.size.desc()).limit(1)
        size = connection.execute(query).scalar()
        if size is not None:
            for other, named_size in covered_by(connection, log, size).items():
                found[other] = max(found.get(other, 0), named_size)
    return found


def covered_by(connection: Connection, log: int, size: int) -> dict[int, int]:
    """What one anchored head vouches for, of each log."""
    t = tables.trace.c
    last = (t.log == log, t.idx == size - 1, t.kind == "heads")
    body = connection.execute(select(t.body).where(*last)).scalar()
    logs = select(tables.logs.c.origin, tables.logs.c.log)
    numbers = {origin: number for origin, number in connection.execute(logs)}
    found = {
        numbers[one.origin]: one.size
        for one in named({} if body is None else orjson.loads(body))
        if one.origin in numbers
    }
    return found | {log: size}


def _state(backends: Sequence[BackendStanding], nothing_new: bool) -> Standing:
    if not backends:
        return "LOCAL_ONLY"
    if any(backend.condition in BROKEN for backend in backends):
        return "FAILED"
    return "ANCHORED" if nothing_new else "PENDING"


def state_of(row: Row[Any]) -> Standing:
    """Of one anchor, from a row of `one_by_one`."""
    if row.state == "final":
        return "ANCHORED"
    if row.state == "void":
        return "FAILED"
    if not row.enabled:
        return "SKIPPED"
    return "FAILED" if row.condition in BROKEN else "PENDING"


def one_by_one() -> Select[Any]:
    """Anchors with their backends."""
    backend = (_b.identity, _b.enabled, _b.condition, _b.detail)
    return select(tables.anchors, *backend).join(tables.anchor_backends, _b.name == _a.backend)

"""Where heads of a log were anchored, read: for evidence, for the API, for the command line."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, func, select

from gateway.store import tables

_a = tables.anchors.c
_b = tables.anchor_backends.c

BROKEN = frozenset({"wrong_chain", "foreign_code", "fork", "refused"})
"""Conditions that only a person puts right; nothing is anchored in them."""
MOST = 256
"""Anchors that evidence names: the newest covers all records before it."""
NOT_NEWS = ("heads",)
"""Kinds of records that the anchoring itself writes."""

Standing = Literal["LOCAL_ONLY", "PENDING", "ANCHORED", "SKIPPED", "FAILED"]


@dataclass(frozen=True, slots=True)
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
            **chain,
        }


def of_log(connection: Connection, log: int, size: int) -> list[ChainReceipt]:
    """The newest `MOST` finished anchors of a log's first ``size`` records, smallest first."""
    query = one_by_one().where(_a.log == log, _a.size <= size, _a.state == "final")
    newest = query.order_by(_a.size.desc(), _a.backend).limit(MOST)
    rows = reversed(connection.execute(newest).all())
    return [
        ChainReceipt(
            log=row.log,
            backend=row.backend,
            size=row.size,
            root=row.root,
            anchored_at=row.anchored_at,
            tx_hash=row.tx_hash,
            block=row.block,
            identity=row.identity,
            proof=row.proof or b"",
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class BackendStanding:
    """How one backend stands."""

    name: str
    condition: str
    detail: str
    since: str
    size: int
    """Records of the log in use that it vouches for."""
    identity: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LogStanding:
    """How much of the log in use somebody outside vouches for."""

    state: Standing
    size: int
    anchored: int
    """Records below the largest anchored head."""
    backends: Sequence[BackendStanding]


def standing(connection: Connection) -> LogStanding:
    """Without a backend that is set up: `LOCAL_ONLY`."""
    t = tables.trace.c
    log = connection.execute(select(func.max(tables.logs.c.log))).scalar_one()
    last = connection.execute(select(func.max(t.idx)).where(t.log == log)).scalar()
    query = select(tables.anchor_backends).where(_b.enabled).order_by(_b.name)
    backends = [_backend(connection, row, log) for row in connection.execute(query)]
    anchored = max((backend.size for backend in backends), default=0)
    news = connection.execute(
        select(t.idx).where(t.log == log, t.idx >= anchored, t.kind.not_in(NOT_NEWS)).limit(1)
    ).first()
    size = 0 if last is None else last + 1
    return LogStanding(_state(backends, news is None), size, anchored, backends)


def _state(backends: Sequence[BackendStanding], nothing_new: bool) -> Standing:
    if not backends:
        return "LOCAL_ONLY"
    if any(backend.condition in BROKEN for backend in backends):
        return "FAILED"
    return "ANCHORED" if nothing_new else "PENDING"


def _backend(connection: Connection, row: Row[Any], log: int) -> BackendStanding:
    query = select(func.max(_a.size)).where(
        _a.backend == row.name, _a.log == log, _a.state == "final"
    )
    size = connection.execute(query).scalar() or 0
    return BackendStanding(row.name, row.condition, row.detail, row.since, size, row.identity)


def state_of(row: Row[Any]) -> Standing:
    """Of one anchor, from a row of `one_by_one`."""
    if row.state == "final":
        return "ANCHORED"
    if not row.enabled:
        return "SKIPPED"
    return "FAILED" if row.condition in BROKEN else "PENDING"


def one_by_one() -> Select[Any]:
    """Anchors with their backends."""
    backend = (_b.identity, _b.enabled, _b.condition, _b.detail)
    return select(tables.anchors, *backend).join(tables.anchor_backends, _b.name == _a.backend)

"""The log's one writer: gives each record its place, inside the caller's transaction.

Nothing here commits. `Log` is a participant of `gateway.store.writer`: its size, frontier and
sequence numbers advance in memory only once the transaction is durable, so a failed write leaves
neither a gap nor a false alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from gateway.clock import Clock, after
from gateway.keyring import Keyring
from gateway.store import tables
from gateway.store.rows import insert_rows
from gateway.trace import payloads, record
from gateway.trace.merkle import Frontier, leaf_hash, rebuild
from gateway.trace.record import Draft, Place
from gateway.values import ProjectId

MAIN_LOG = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """A record in its place; durable once the transaction is."""

    id: str
    idx: int
    ts: str
    leaf: bytes


@dataclass(slots=True)
class _State:
    frontier: Frontier
    heads: dict[ProjectId, tuple[int, bytes]]
    """Last sequence number and leaf: of every project, or of those that a transaction moved."""

    def copy(self) -> "_State":
        return _State(self.frontier.copy(), dict(self.heads))


_TRACE_COLUMNS = (
    "log, idx, id, call_id, project_id, pseq, ts, kind, decision, reason_code, risk, agent_id,"
    " server_id, tool, body, leaf"
)
_PAYLOAD_COLUMNS = "log, idx, field, payload_key, sealed, expires_at"


class Log:
    """Append-only. `append` may be called from the writing thread only."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._clock = clock
        self._keys = payloads.PayloadKeys(keyring)
        self._durable = _State(Frontier(), {})
        self._pending: _State | None = None
        self._now = ""
        self._expiries: dict[int, str] = {}

    @property
    def size(self) -> int:
        """Durable records."""
        return self._durable.frontier.size

    def root(self) -> bytes:
        """The root over all durable records."""
        return self._durable.frontier.root()

    @property
    def now(self) -> str:
        """The time of the running transaction."""
        return self._now

    def load(self, connection: Connection, origin: str) -> None:
        """Rebuild the state in memory from the database; make the log if there is none.

        Raises ValueError when tiles or leaves are missing.
        """
        trace, tiles = tables.trace, tables.tree_tiles
        if connection.execute(select(tables.logs.c.log)).first() is None:
            connection.execute(
                insert(tables.logs).values(
                    log=MAIN_LOG, origin=origin, created_at=self._clock.now()
                )
            )
        last = connection.execute(
            select(trace.c.idx, trace.c.ts)
            .where(trace.c.log == MAIN_LOG)
            .order_by(trace.c.idx.desc())
            .limit(1)
        ).first()
        size = 0 if last is None else last.idx + 1
        if last is not None:
            self._clock.not_before(last.ts)

        def hashes(level: int, start: int, count: int) -> list[bytes]:
            if level == 0:
                query = (
                    select(trace.c.leaf)
                    .where(
                        trace.c.log == MAIN_LOG, trace.c.idx >= start, trace.c.idx < start + count
                    )
                    .order_by(trace.c.idx)
                )
            else:
                query = (
                    select(tiles.c.hash)
                    .where(
                        tiles.c.log == MAIN_LOG,
                        tiles.c.level == level,
                        tiles.c.n >= start,
                        tiles.c.n < start + count,
                    )
                    .order_by(tiles.c.n)
                )
            return list(connection.execute(query).scalars())

        self._durable = _State(rebuild(size, hashes), self._load_heads(connection))

    def _load_heads(self, connection: Connection) -> dict[ProjectId, tuple[int, bytes]]:
        trace = tables.trace
        heads: dict[ProjectId, tuple[int, bytes]] = {}
        # By project, through the unique index: a scan of ten million records would take minutes.
        for project_id in connection.execute(select(tables.projects.c.id)).scalars().all():
            pseq = connection.execute(
                select(func.max(trace.c.pseq)).where(
                    trace.c.log == MAIN_LOG, trace.c.project_id == project_id
                )
            ).scalar_one()
            if pseq is not None:
                leaf = connection.execute(
                    select(trace.c.leaf).where(
                        trace.c.log == MAIN_LOG,
                        trace.c.project_id == project_id,
                        trace.c.pseq == pseq,
                    )
                ).scalar_one()
                heads[ProjectId(project_id)] = (pseq, leaf)
        return heads

    # --- inside a transaction, on the writing thread ---

    def begin(self, connection: Connection) -> None:
        self._pending = None
        self._now = self._clock.now()
        self._expiries.clear()

    def mark(self) -> object:
        return None if self._pending is None else self._pending.copy()

    def rewind(self, mark: object) -> None:
        assert mark is None or isinstance(mark, _State)
        self._pending = mark
        self._keys.rewound()

    def committed(self, connection: Connection) -> None:
        if self._pending is not None:
            self._durable.heads.update(self._pending.heads)
            self._durable.frontier = self._pending.frontier
            self._pending = None
        self._keys.committed()

    def rolled_back(self) -> None:
        self._pending = None
        self._keys.rolled_back()

    def append(self, connection: Connection, drafts: Sequence[Draft]) -> list[Appended]:
        """Write the records in this order. Raises `record.RecordTooLarge` before writing any."""
        if self._pending is None:
            state = _State(self._durable.frontier.copy(), {})
        else:
            state = self._pending.copy()
        rows: list[tuple[object, ...]] = []
        sealed: list[tuple[object, ...]] = []
        full: list[tuple[int, int, int, bytes]] = []
        appended = []
        for draft in drafts:
            appended.append(self._place(connection, state, draft, rows, sealed, full))
        insert_rows(connection, "trace", _TRACE_COLUMNS, rows)
        insert_rows(connection, "payloads", _PAYLOAD_COLUMNS, sealed)
        for log, level, n, digest in full:
            connection.execute(
                insert(tables.tree_tiles).values(log=log, level=level, n=n, hash=digest)
            )
        self._pending = state
        return appended

    def _place(
        self,
        connection: Connection,
        state: _State,
        draft: Draft,
        rows: list[tuple[object, ...]],
        sealed: list[tuple[object, ...]],
        full: list[tuple[int, int, int, bytes]],
    ) -> Appended:
        idx = state.frontier.size
        head = state.heads.get(draft.project_id) or self._durable.heads.get(draft.project_id)
        pseq, previous = head or (-1, b"")
        place = Place(idx, self._now, pseq + 1, previous.hex())
        commitments = {
            name: self._seal(connection, draft, idx, name, value, sealed)
            for name, value in draft.payloads.items()
        }
        for name, value in draft.commits.items():
            commitments[name] = self._commit_to(connection, draft, idx, name, value)
        body = record.body(draft, place, commitments)
        leaf = leaf_hash(body)
        state.frontier.add(leaf, lambda level, n, tile: full.append((MAIN_LOG, level, n, tile)))
        state.heads[draft.project_id] = (place.pseq, leaf)
        get = draft.fields.get
        rows.append(
            (MAIN_LOG, idx, draft.id, draft.call_id, draft.project_id, place.pseq, self._now)
            + (draft.kind, get("decision"), get("reason_code"), get("risk"), get("agent"))
            + (get("server"), get("tool"), body, leaf)
        )
        return Appended(draft.id, idx, self._now, leaf)

    def _commit_to(
        self, connection: Connection, draft: Draft, idx: int, name: str, value: bytes
    ) -> str:
        key_id = self._keys.key_id(draft.project_id, self._now)
        key = self._keys.for_writing(connection, key_id, self._now)
        nonce = key.derived_nonce(payloads.context(MAIN_LOG, idx, name))
        return record.commitment(nonce, value)

    def _seal(
        self,
        connection: Connection,
        draft: Draft,
        idx: int,
        name: str,
        value: bytes,
        sealed: list[tuple[object, ...]],
    ) -> str:
        key_id = self._keys.key_id(draft.project_id, self._now)
        key = self._keys.for_writing(connection, key_id, self._now)
        committed_to, blob = payloads.seal(key, value, payloads.context(MAIN_LOG, idx, name))
        expires = self._expiry(draft.retention_days)
        sealed.append((MAIN_LOG, idx, name, key_id, blob, expires))
        return committed_to

    def _expiry(self, days: int) -> str:
        if days not in self._expiries:
            self._expiries[days] = after(self._now, days * 86_400)
        return self._expiries[days]

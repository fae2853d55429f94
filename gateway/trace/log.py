"""The log's one writer: gives each record its place, inside the caller's transaction.

Nothing here commits. `Log` is a participant of `gateway.store.writer`: its size, frontier and
sequence numbers advance in memory only once the transaction is durable, so a failed write leaves
neither a gap nor a false alarm.

A database may hold several logs: one beside the other, of each process that writes its own (see
`gateway.trace.slots`); and one after the other, where a log that was found damaged, or behind what
was signed of it, is sealed as it is and a successor goes on from its first record.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from gateway.clock import Clock, after
from gateway.cold import reading
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.keyring import Keyring
from gateway.store import tables
from gateway.store.rows import insert_rows
from gateway.trace import payloads, record, slots
from gateway.trace.merkle import Frontier, Hashes, leaf_hash, rebuild
from gateway.trace.names import LogName
from gateway.trace.record import Draft, Field, Place, bounded
from gateway.trace.slots import Slot
from gateway.values import ProjectId

MAIN_LOG = 0
"""The number of a database's first log."""
LOG_ITSELF = ProjectId("log")
"""Stands for a project in records about the log itself."""


class LogDamaged(Exception):
    """The log cannot be continued: its tree lacks hashes. `Log.succeed` begins another."""


@frozen
class Appended:
    """A record in its place; durable once the transaction is."""

    id: str
    idx: int
    ts: str
    leaf: bytes


@dataclass(slots=True)
class _State:
    number: int
    origin: str
    frontier: Frontier
    heads: dict[ProjectId, tuple[int, bytes]]
    """Last sequence number and leaf: of every project, or of those that a transaction moved."""

    def copy(self) -> "_State":
        return _State(self.number, self.origin, self.frontier.copy(), dict(self.heads))


@frozen
class Head:
    """Where a log stands, what the running transaction has appended included."""

    number: int
    origin: str
    size: int
    root: bytes


_TRACE_COLUMNS = (
    "log, idx, id, call_id, project_id, pseq, ts, kind, decision, reason_code, risk, agent_id,"
    " server_id, tool, policies, body, leaf"
)
_PAYLOAD_COLUMNS = "log, idx, field, payload_key, sealed, expires_at"
_TILE_COLUMNS = "log, level, n, hash"
_Row = tuple[object, ...]


@frozen
class _Appending:
    """Records on their way into the tables, and the state that they lead to."""

    state: _State
    rows: list[_Row]
    sealed: list[_Row]
    tiles: list[_Row]

    def on_tile(self, level: int, n: int, digest: bytes) -> None:
        self.tiles.append((self.state.number, level, n, digest))


class Log:
    """Append-only. `append` may be called from the writing thread only."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._clock = clock
        self._keys = payloads.PayloadKeys(keyring)
        self._durable = _State(MAIN_LOG, "", Frontier(), {})
        self._pending: _State | None = None
        self._slot: Slot | None = None
        self.damage = ""
        """Why nothing can be appended to this log; empty while it is whole."""
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

    @property
    def slot(self) -> Slot:
        """Held by this process; once it is lost, no transaction of the log's writer begins."""
        assert self._slot is not None
        return self._slot

    @property
    def number(self) -> int:
        """Of the log in use."""
        return self._durable.number

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return self._durable.origin

    @property
    def head(self) -> Head:
        """On the writing thread: with what the running transaction has appended."""
        state = self._pending or self._durable
        return Head(state.number, state.origin, state.frontier.size, state.frontier.root())

    def project_heads(self) -> dict[ProjectId, tuple[int, bytes]]:
        """Each project's last sequence number and leaf; on the writing thread."""
        heads = dict(self._durable.heads)
        if self._pending is not None:
            heads = heads if self._pending.number == self._durable.number else {}
            heads |= self._pending.heads
        return heads

    def load(self, connection: Connection, base: str, slot: Slot) -> None:
        """Rebuild the slot's newest log from the database; make its first one if there is none.

        ``base`` names the logs of a new database. A tree that lacks tiles or leaves is loaded as
        `damage`, and only `succeed` goes on then.
        """
        trace, logs = tables.trace, tables.logs
        self._slot = slot
        ours = select(logs).where(logs.c.slot == slot.number).order_by(logs.c.log.desc()).limit(1)
        newest = connection.execute(ours).first()
        if newest is None:
            self._make(connection, base, slot)
            newest = connection.execute(ours).one()
        last = connection.execute(
            select(trace.c.idx, trace.c.ts)
            .where(trace.c.log == newest.log)
            .order_by(trace.c.idx.desc())
            .limit(1)
        ).first()
        size = 0 if last is None else last.idx + 1
        if last is not None:
            self._clock.not_before(last.ts)
        try:
            frontier = rebuild(size, stored_hashes(connection, newest.log))
        except ValueError as fault:
            self.damage = str(fault)
            frontier = Frontier()
        heads = self._load_heads(connection, newest.log)
        self._durable = _State(newest.log, newest.origin, frontier, heads)

    def _make(self, connection: Connection, base: str, slot: Slot) -> None:
        logs, now = tables.logs, self._clock.now()
        first = connection.execute(select(logs.c.origin).order_by(logs.c.log).limit(1)).scalar()
        name = LogName(LogName.parse(first or base).base, slot.number)
        slots.numbered(
            connection,
            logs,
            "log",
            lambda _: {"slot": slot.number, "origin": str(name), "created_at": now},
        )

    def _load_heads(
        self, connection: Connection, number: int
    ) -> dict[ProjectId, tuple[int, bytes]]:
        trace = tables.trace
        cold = select(tables.cold_heads).where(tables.cold_heads.c.log == number)
        heads = {
            ProjectId(row.project_id): (row.pseq, row.leaf) for row in connection.execute(cold)
        }
        # From project to project through the unique index: a scan of ten million records would take
        # minutes.
        c = trace.c
        after: str | None = ""
        ours = c.log == number
        while True:
            following = select(func.min(c.project_id)).where(ours, c.project_id > after)
            after = connection.execute(following).scalar()
            if after is None:
                return heads
            query = select(c.pseq, c.leaf).where(ours, c.project_id == after)
            row = connection.execute(query.order_by(c.pseq.desc()).limit(1)).one()
            last = (row.pseq, row.leaf)
            heads[ProjectId(after)] = max(last, heads.get(ProjectId(after), last))

    # --- inside a transaction, on the writing thread ---

    def begin(self, connection: Connection) -> None:
        if self._slot is not None:
            slots.check(connection, self._slot)
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
            if self._pending.number == self._durable.number:
                self._durable.heads.update(self._pending.heads)
                self._durable.frontier = self._pending.frontier
            else:
                self._durable = self._pending
                self.damage = ""
            self._pending = None
        self._keys.committed()

    def rolled_back(self) -> None:
        self._pending = None
        self._keys.rolled_back()

    def append(self, connection: Connection, drafts: Sequence[Draft]) -> list[Appended]:
        """Write the records in this order. Raises `record.RecordTooLarge` before writing any, and
        `LogDamaged`.
        """
        if self._pending is None:
            if self.damage:
                raise LogDamaged(self.damage)
            durable = self._durable
            state = _State(durable.number, durable.origin, durable.frontier.copy(), {})
        else:
            state = self._pending.copy()
        at = _Appending(state, [], [], [])
        appended = [self._place(connection, at, draft) for draft in drafts]
        insert_rows(connection, "trace", _TRACE_COLUMNS, at.rows)
        insert_rows(connection, "payloads", _PAYLOAD_COLUMNS, at.sealed)
        insert_rows(connection, "tree_tiles", _TILE_COLUMNS, at.tiles)
        self._pending = state
        return appended

    def succeed(self, connection: Connection, why: str) -> Appended:
        """Seal this log as it is and begin its successor, whose first record names this one.

        ``why`` is a sentence for people; the record says it for good.
        """
        logs = tables.logs
        old = self._durable
        origin = str(LogName.parse(old.origin).successor)
        connection.execute(
            update(logs)
            .where(logs.c.log == old.number)
            .values(sealed_at=self._now, sealed_reason=why)
        )
        number = slots.numbered(
            connection,
            logs,
            "log",
            lambda _: {"slot": self.slot.number, "origin": origin, "created_at": self._now},
        )
        self._pending = _State(number, origin, Frontier(), {})
        fields: dict[str, Field] = {
            "sealed": old.origin,
            "sealed_size": old.frontier.size,
            "sealed_root": old.frontier.root().hex(),
            "reason": bounded(why),
            "anchor": "urgent",
        }
        draft = Draft("recovery", new_id("evt"), LOG_ITSELF, fields)
        return self.append(connection, [draft])[0]

    def drop_past_keys(self, connection: Connection) -> list[tuple[ProjectId, str]]:
        """Drop payload keys whose month is past; returns project and month of each."""
        return self._keys.drop_past(connection, self.now)

    def _place(self, connection: Connection, at: "_Appending", draft: Draft) -> Appended:
        state, now, project_id = at.state, self._now, draft.project_id
        number, idx = state.number, state.frontier.size
        head = state.heads.get(project_id)
        if head is None and number == self._durable.number:
            head = self._durable.heads.get(project_id)
        pseq, previous = head or (-1, b"")
        pseq += 1
        commitments = None
        if draft.payloads or draft.commits:
            commitments = self._commit(connection, at, draft)
        body = record.body(draft, Place(idx, now, pseq, previous.hex()), commitments)
        leaf = leaf_hash(body)
        state.frontier.add(leaf, at.on_tile)
        state.heads[project_id] = (pseq, leaf)
        get = draft.fields.get
        at.rows.append(
            (
                *(number, idx, draft.id, draft.call_id, project_id, pseq, now, draft.kind),
                *(get("decision"), get("reason_code"), get("risk"), get("agent"), get("server")),
                *(get("tool"), record.listed_policies(get("rules")), body, leaf),
            )
        )
        return Appended(draft.id, idx, now, leaf)

    def _commit(self, connection: Connection, at: "_Appending", draft: Draft) -> dict[str, str]:
        """Seal what is kept, and commit to that and to the rest; by field."""
        number, idx = at.state.number, at.state.frontier.size
        expires = self._expiry(draft.retention_days)
        key_id = self._keys.key_id(draft.project_id, expires)
        key = self._keys.for_writing(connection, key_id, self._now)
        commitments: dict[str, str] = {}
        for name, value in draft.payloads.items():
            place = payloads.context(number, idx, name)
            commitments[name], blob = payloads.seal(key, value, place)
            at.sealed.append((number, idx, name, key_id, blob, expires))
        for name, value in draft.commits.items():
            nonce = key.derived_nonce(payloads.context(number, idx, name))
            commitments[name] = record.commitment(nonce, value)
        return commitments

    def _expiry(self, days: int) -> str:
        if days not in self._expiries:
            self._expiries[days] = after(self._now, days * 86_400)
        return self._expiries[days]


def stored_hashes(connection: Connection, number: int) -> Hashes:
    """A log's stored leaves and tiles, as `gateway.trace.merkle` asks for them.

    Leaves that are in cold storage are read there; raises `gateway.cold.objects.ColdFault`.
    """
    trace, tiles = tables.trace.c, tables.tree_tiles.c

    def hashes(level: int, start: int, count: int) -> list[bytes]:
        if level == 0:
            cold = min(count, max(0, reading.size(connection, number) - start))
            if cold:
                gone = reading.leaf_hashes(connection, number, start, cold)
                rest = hashes(0, start + cold, count - cold) if cold < count else []
                return [*gone, *rest]
            query = select(trace.leaf).where(
                trace.log == number, trace.idx >= start, trace.idx < start + count
            )
            return list(connection.execute(query.order_by(trace.idx)).scalars())
        query = select(tiles.hash).where(
            tiles.log == number, tiles.level == level, tiles.n >= start, tiles.n < start + count
        )
        return list(connection.execute(query.order_by(tiles.n)).scalars())

    return hashes

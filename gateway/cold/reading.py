"""Reads records that have left the database as if they were in it, and believes no object.

What a tile must hash to stays in the database (`tree_tiles`), so an object that was changed is
never shown. A connection says by its execution option `OPTION` where the objects are; the writing
thread's has none, because nobody may wait there for a network.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import Any, TypeAlias

import orjson
from sqlalchemy import Connection, Engine, Row, Select, Table, create_engine, func, select
from sqlalchemy.pool import StaticPool

from gateway.clock import rfc3339
from gateway.cold import tiles
from gateway.cold.objects import ColdAway, ColdDamaged, Objects
from gateway.frozen import frozen
from gateway.ids import made_at
from gateway.store import tables
from gateway.trace.merkle import TILE_WIDTH, leaf_hash
from gateway.trace.record import listed_policies

OPTION = "cold"
_KEPT = 64
"""Bundles in memory: some 10 MB."""
_AT_ONCE = 8
_READERS = 4
"""At the same time. Others read the database meanwhile, which has twice as many connections."""
_PATIENCE_SECONDS = 10.0
_EVENTS_AT_ONCE = 500
_BEFORE_ID, _AFTER_ID = 1.0, 5.0
"""Seconds. Most calls end within; at 1,000 calls/s this is some 50 tiles to look through."""

_c = tables.cold_tiles.c

Tile: TypeAlias = tuple[int, int]
"""``(log, n)`` of a tile of level 0: the records from 256 n on."""


@frozen
class Wanted:
    """A tile, and what the database says of it."""

    log: int
    n: int
    origin: str
    root: bytes

    def path(self, name: str) -> str:
        return f"{self.origin}/{name}"


class ColdStore:
    """Objects that were compared with the tree; any thread may ask."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._kept: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._door = Lock()
        self._turns = BoundedSemaphore(_READERS)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For whoever holds a connection to the database meanwhile. Raises `ColdAway`."""
        if not self._turns.acquire(timeout=_PATIENCE_SECONDS):
            raise ColdAway(f"cold storage is slow: {self.objects.place}; try again later")
        try:
            yield
        finally:
            self._turns.release()

    def entries(self, one: Wanted) -> list[bytes]:
        """The records of a tile. Raises `ColdFault`."""
        key = one.origin, one.n
        with self._door:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        name = one.path(tiles.entry_bundle(one.n))
        content = self.objects.read(name)
        try:
            entries = tiles.decoded(content)
        except ValueError as fault:
            raise self._damaged(name, str(fault)) from None
        if tiles.root(tiles.leaves(entries)) != one.root:
            raise self._damaged(name, "its records are not those of the log")
        with self._door:
            self._kept[key] = entries
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return entries

    def hashes(self, one: Wanted) -> list[bytes]:
        """The leaf hashes of a tile. Raises `ColdFault`."""
        with self._door:
            kept = self._kept.get((one.origin, one.n))
        return self.stored_hashes(one) if kept is None else tiles.leaves(kept)

    def stored_hashes(self, one: Wanted) -> list[bytes]:
        """As `hashes`, from their own object whatever is known of them."""
        name = one.path(tiles.hash_tile(0, one.n))
        try:
            row = tiles.hashes(self.objects.read(name))
        except ValueError as fault:
            raise self._damaged(name, str(fault)) from None
        if tiles.root(row) != one.root:
            raise self._damaged(name, "its hashes are not those of the log")
        return row

    def all_entries(self, wanted: Sequence[Wanted]) -> list[list[bytes]]:
        if len(wanted) < 2:
            return [self.entries(one) for one in wanted]
        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
            return list(pool.map(self.entries, wanted))

    def _damaged(self, name: str, why: str) -> ColdDamaged:
        place = f"{self.objects.place}/{name}"
        return ColdDamaged(f"{place} is not what was written: {why}; put it back from a copy")


def reading_also(engine: Engine, store: ColdStore | None) -> Engine:
    """The engine, whose connections find in ``store`` what has left the database."""
    return engine if store is None else engine.execution_options(**{OPTION: store})


def store_of(connection: Connection) -> ColdStore:
    """Raises `ColdAway` where none is set up."""
    store = connection.get_execution_options().get(OPTION)
    if not isinstance(store, ColdStore):
        raise ColdAway("these records are in cold storage: set GATEWAY_COLD_STORE to where it is")
    return store


def size(connection: Connection, log: int) -> int:
    """How many of a log's first records are in cold storage."""
    last = connection.execute(select(func.max(_c.n)).where(_c.log == log)).scalar()
    return 0 if last is None else (last + 1) * TILE_WIDTH


def total(connection: Connection) -> tuple[int, int]:
    """Records and bytes in cold storage, of all logs."""
    query = select(func.count(), func.coalesce(func.sum(_c.bytes), 0))
    count, size = connection.execute(query).one()
    return count * TILE_WIDTH, int(size)


def wanted(connection: Connection, some: Sequence[Tile]) -> list[Wanted]:
    """Raises `ColdDamaged` where the tree lacks the hash of one."""
    t, logs = tables.tree_tiles.c, tables.logs.c
    found: dict[Tile, Wanted] = {}
    for log in {log for log, _ in some}:
        numbers = [n for of, n in some if of == log]
        origin = connection.execute(select(logs.origin).where(logs.log == log)).scalar_one()
        query = select(t.n, t.hash).where(t.log == log, t.level == 1, t.n.in_(numbers))
        found |= {(log, n): Wanted(log, n, origin, root) for n, root in connection.execute(query)}
    if lacking := next((one for one in some if one not in found), None):
        raise ColdDamaged(f"the database lacks the hash of tile {lacking[1]} of log {lacking[0]}")
    return [found[one] for one in some]


def leaf_hashes(connection: Connection, log: int, start: int, count: int) -> list[bytes]:
    """Of records that are in cold storage, all of them. Raises `ColdFault`."""
    first, last = start // TILE_WIDTH, (start + count - 1) // TILE_WIDTH
    store = store_of(connection)
    found: list[bytes] = []
    with store.turn():
        for one in wanted(connection, [(log, n) for n in range(first, last + 1)]):
            found += store.hashes(one)
    offset = start - first * TILE_WIDTH
    return found[offset : offset + count]


def near(connection: Connection, made_id: str) -> list[Tile]:
    """Tiles that may hold records of a call, or the record, with this id: `strays` has the rest."""
    s = tables.cold_strays.c
    query = select(s.log, s.idx).where(s.id == made_id)
    found = {(log, idx // TILE_WIDTH) for log, idx in connection.execute(query)}
    if (period := around(made_id)) is not None:
        first, last = period
        query = select(_c.log, _c.n).where(_c.last_ts >= first, _c.first_ts <= last)
        found |= {(log, n) for log, n in connection.execute(query)}
    return sorted(found)


def around(made_id: str) -> tuple[str, str] | None:
    """The first and the last time at which an id's records are looked for without their place."""
    try:
        made = made_at(made_id)
        return rfc3339(made - _BEFORE_ID), rfc3339(made + _AFTER_ID)
    except (ValueError, OverflowError, OSError):
        return None


def between(
    connection: Connection, project_id: str, first: str, last: str, most: int
) -> list[Tile]:
    """Tiles with records of a project from a time to another, the newest ``most`` of them."""
    its = (of_project(project_id), _c.last_ts >= first, _c.first_ts <= last)
    query = select(_c.log, _c.n).where(*its).order_by(_c.last_ts.desc()).limit(most)
    return [(log, n) for log, n in connection.execute(query)]


def of_project(project_id: str) -> Any:
    """Tiles that hold records of it."""
    return _c.projects.contains(f"\n{project_id}\n", autoescape=True)


def rows(
    connection: Connection, query: Select[Any], some: Sequence[Tile], *, senders: bool = False
) -> list[Row[Any]]:
    """What a query of `trace` finds in these tiles; with ``senders`` it may ask `events` too.

    The very statement that the database is asked runs, over the same table: made from the records,
    because every column is only an index into them. Raises `ColdFault`.
    """
    if not some:
        return []
    asked, store = wanted(connection, some), store_of(connection)
    with store.turn():
        bundles = store.all_entries(asked)
    made = [
        row(one.log, one.n * TILE_WIDTH + place, entry)
        for one, entries in zip(asked, bundles, strict=True)
        for place, entry in enumerate(entries)
    ]
    filled = {tables.trace: made, tables.events: _events(connection, made) if senders else []}
    with _in_memory(filled) as memory:
        return list(memory.execute(query))


def row(log: int, idx: int, body: bytes) -> dict[str, Any]:
    """The row of `trace` that a record had. Raises ValueError for bytes that are no record."""
    record = orjson.loads(body)
    get = record.get
    return {
        "log": log,
        "idx": idx,
        "id": record["id"],
        "call_id": get("call"),
        "project_id": record["project"],
        "pseq": record["pseq"],
        "ts": record["ts"],
        "kind": record["kind"],
        "decision": get("decision"),
        "reason_code": get("reason_code"),
        "risk": get("risk"),
        "agent_id": get("agent"),
        "server_id": get("server"),
        "tool": get("tool"),
        "policies": listed_policies(get("rules")),
        "body": body,
        "leaf": leaf_hash(body),
    }


@contextmanager
def _in_memory(filled: Mapping[Table, Sequence[dict[str, Any]]]) -> Iterator[Connection]:
    """A database of these tables, without their indexes: it is asked once."""
    engine = create_engine("sqlite://", poolclass=StaticPool, hide_parameters=True)
    try:
        with engine.connect() as memory:
            driver = memory.connection.driver_connection
            assert driver is not None
            for table, content in filled.items():
                names = ", ".join(table.c.keys())
                driver.execute(f"CREATE TABLE {table.name} ({names})")
                row = ", ".join(f":{name}" for name in table.c.keys())  # noqa: SIM118 - not a dict
                driver.executemany(f"INSERT INTO {table.name} VALUES ({row})", content)
            yield memory
    finally:
        engine.dispose()


def _events(connection: Connection, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    calls = sorted({one["call_id"] for one in made if one["call_id"] is not None})
    found: list[dict[str, Any]] = []
    for start in range(0, len(calls), _EVENTS_AT_ONCE):
        part = calls[start : start + _EVENTS_AT_ONCE]
        query = select(tables.events).where(tables.events.c.trace_id.in_(part))
        found += (dict(one) for one in connection.execute(query).mappings())
    return found

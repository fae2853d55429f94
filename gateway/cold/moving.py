"""Moves what is old and attested out of the database, a tile of 256 records at a time.

For each tile: its objects are written unless they are there; read back, hashed again and held
against the signed root; then one transaction of the writer says that they are cold and deletes
their rows. So a record is in the database or in cold storage, at every moment, whatever dies when:
before the transaction nothing refers to an object, and the next round writes the same bytes or
finds them. An object with other bytes is never overwritten, and its tile stays where it is.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, delete, func, insert, select, update

from gateway.cold import reading, tiles
from gateway.cold.objects import ColdDamaged, Objects
from gateway.frozen import frozen
from gateway.store import tables
from gateway.trace import note
from gateway.trace.log import LOG_ITSELF, stored_hashes
from gateway.trace.merkle import TILE_WIDTH, Root, includes, inclusion_proof, leaf_hash, roots
from gateway.trace.note import Checkpoint, NoteFault
from gateway.trace.receipts import covered

TILES_AT_ONCE = 16
"""That are read, written and read back beside each other."""
_AT_ONCE = 8

_t = tables.trace.c
_k = tables.checkpoints.c


@frozen
class Stretch:
    """Tiles ``first`` to ``end`` of a log can go: they are old, and below a head that is signed."""

    log: int
    origin: str
    first: int
    end: int
    head: Checkpoint
    note: str


@frozen
class Tile:
    """256 records as they are in the database, held against their hashes."""

    log: int
    n: int
    rows: Sequence[Row[Any]] = field(repr=False)
    leaves: Sequence[bytes] = field(repr=False)

    @property
    def start(self) -> int:
        return self.n * TILE_WIDTH


def stretches(connection: Connection, before: str, sinks: Sequence[str]) -> list[Stretch]:
    """What can go, of every log: below the newest checkpoint that was signed before a time, and
    that every anchor and every sink in use is past. A stretch may be empty: its head is new.

    The tile with a log's last record stays: the log goes on from there.
    """
    numbers = connection.execute(select(tables.logs.c.log).order_by(tables.logs.c.log)).scalars()
    anchored = _anchored(connection)
    found = []
    for log in numbers.all():
        last = connection.execute(select(func.max(_t.idx)).where(_t.log == log)).scalar() or 0
        full = min(last, _sent(connection, log, sinks)) // TILE_WIDTH
        # The head's own last tile may be partial, and is then published from the database.
        most = min([(full + 1) * TILE_WIDTH - 1, *(counts.get(log, 0) for counts in anchored)])
        old = select(tables.checkpoints).where(_k.log == log, _k.ts < before, _k.size <= most)
        row = connection.execute(old.order_by(_k.size.desc()).limit(1)).first()
        if row is None:
            continue
        first, end = reading.size(connection, log) // TILE_WIDTH, row.size // TILE_WIDTH
        if first <= end and end > 0:
            head = note.parse(row.note.rpartition("\n\n")[0] + "\n")
            found.append(Stretch(log, head.origin, first, end, head, row.note))
    return found


def _anchored(connection: Connection) -> list[dict[int, int]]:
    b = tables.anchor_backends.c
    names = connection.execute(select(b.name).where(b.enabled)).scalars().all()
    return [covered(connection, name) for name in names]


def _sent(connection: Connection, log: int, sinks: Sequence[str]) -> int:
    """How many of a log's first records every sink has."""
    s = tables.sink_cursors.c
    query = select(s.name, s.idx).where(s.log == log, s.name.in_(sinks))
    sent = {name: idx for name, idx in connection.execute(query)}
    return min((sent.get(name, 0) for name in sinks), default=1 << 62)


class Batch:
    """Some neighbouring tiles of a stretch on their way. Blocks; belongs to no thread."""

    def __init__(self, reader: Engine, objects: Objects, stretch: Stretch) -> None:
        self._reader = reader
        self._objects = objects
        self._stretch = stretch

    def carry(self, first: int, end: int) -> list[Tile]:
        """Read, write and read back; what is returned can be dropped. Raises `ColdFault`."""
        self._same_place(first)
        with self._reader.connect() as connection, connection.begin():
            found = [read(connection, self._stretch.log, n) for n in range(first, end)]
            upper = [one for tile in found for one in self._completed(connection, tile.n)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._write, found))
            list(pool.map(lambda one: self._make(*one), upper))
            read_back = list(pool.map(self._read_back, found))
        with self._reader.connect() as connection, connection.begin():
            root = roots(stored_hashes(connection, self._stretch.log))
            for tile, leaves in zip(found, read_back, strict=True):
                self._attested(tile.n, leaves, root)
        return found

    def publish(self) -> None:
        """The tiles that are not full under the signed head, and the head itself: so the objects
        are a log of their own. Raises `ColdFault`.
        """
        size = self._stretch.head.size
        if self._published() >= size:
            return
        with self._reader.connect() as connection, connection.begin():
            made = list(self._partial(connection, size))
        for name, content in made:
            self._make(name, content)
        name = self._path(tiles.CHECKPOINT)
        self._objects.replace(name, self._stretch.note.encode())

    def _published(self) -> int:
        """The size of the head that is there; 0 without one."""
        try:
            text = self._objects.read(self._path(tiles.CHECKPOINT)).decode()
            return note.parse(text.rpartition("\n\n")[0] + "\n").size
        except (ColdDamaged, UnicodeDecodeError, NoteFault):
            return 0

    def _path(self, name: str) -> str:
        return f"{self._stretch.origin}/{name}"

    def _same_place(self, first: int) -> None:
        """Not into a folder whose disk is not there, nor beside what other settings named."""
        if first > 0:
            self._objects.read(self._path(tiles.hash_tile(0, first - 1)))

    def _completed(self, connection: Connection, n: int) -> Iterator[tuple[str, bytes]]:
        hashes = stored_hashes(connection, self._stretch.log)
        for level, number in tiles.completed(n):
            row = hashes(level, number * TILE_WIDTH, TILE_WIDTH)
            yield self._path(tiles.hash_tile(level, number)), b"".join(row)

    def _write(self, tile: Tile) -> None:
        bodies = [row.body for row in tile.rows]
        self._make(self._path(tiles.entry_bundle(tile.n)), tiles.encoded(bodies))
        self._make(self._path(tiles.hash_tile(0, tile.n)), b"".join(tile.leaves))

    def _make(self, name: str, content: bytes) -> None:
        """What a round before this one has left is as good, if it is the same."""
        if not self._objects.make(name, content) and self._objects.read(name) != content:
            place = f"{self._objects.place}/{name}"
            raise ColdDamaged(
                f"{place} is there and holds something else; nothing of the log refers to it: "
                "see what it is and take it away"
            )

    def _read_back(self, tile: Tile) -> list[bytes]:
        """The leaf hashes of what is in the objects now."""
        entry_name = self._path(tiles.entry_bundle(tile.n))
        hash_name = self._path(tiles.hash_tile(0, tile.n))
        try:
            leaves = tiles.leaves(tiles.decoded(self._objects.read(entry_name)))
        except ValueError as fault:
            raise _unlike(self._objects, entry_name, str(fault)) from None
        if leaves != tile.leaves:
            raise _unlike(self._objects, entry_name, "its records are others")
        if self._objects.read(hash_name) != b"".join(leaves):
            raise _unlike(self._objects, hash_name, "its hashes are others")
        return leaves

    def _attested(self, n: int, leaves: list[bytes], root: Root) -> None:
        """Raises `ColdDamaged` unless these leaves, all of them, lie under the signed head."""
        start = n * TILE_WIDTH
        inner = roots(lambda level, at, count: leaves[at - start : at - start + count])

        def either(first: int, end: int) -> bytes:
            within = start <= first and end <= start + TILE_WIDTH
            return inner(first, end) if within else root(first, end)

        head = self._stretch.head
        proof = inclusion_proof(start, head.size, either)
        if not includes(start, head.size, leaves[0], proof, head.root):
            name = self._path(tiles.entry_bundle(n))
            raise _unlike(self._objects, name, f"it is not under the signed head of {head.size}")

    def _partial(self, connection: Connection, size: int) -> Iterator[tuple[str, bytes]]:
        hashes = stored_hashes(connection, self._stretch.log)
        for level, n, width in tiles.of_tree(size):
            row = hashes(level, n * TILE_WIDTH, width)
            yield self._path(tiles.hash_tile(level, n, width)), b"".join(row)
            if level == 0:
                bodies = _bodies(connection, self._stretch.log, n * TILE_WIDTH, width)
                yield self._path(tiles.entry_bundle(n, width)), tiles.encoded(bodies)


def _unlike(objects: Objects, name: str, why: str) -> ColdDamaged:
    return ColdDamaged(f"{objects.place}/{name} was not written as it should be: {why}")


def read(connection: Connection, log: int, n: int) -> Tile:
    """A tile of the database. Raises `ColdDamaged` when it is not what was hashed."""
    start = n * TILE_WIDTH
    within = (_t.log == log, _t.idx >= start, _t.idx < start + TILE_WIDTH)
    columns = (_t.idx, _t.id, _t.call_id, _t.project_id, _t.pseq, _t.ts, _t.body, _t.leaf)
    query: Select[Any] = select(*columns).where(*within).order_by(_t.idx)
    found = connection.execute(query).all()
    leaves = [leaf_hash(row.body) for row in found]
    stored = stored_hashes(connection, log)(1, n, 1)
    if len(found) != TILE_WIDTH or [tiles.root(leaves)] != list(stored):
        raise ColdDamaged(
            f"records {start} to {start + TILE_WIDTH - 1} of log {log} are not what was hashed: "
            "they stay in the database; see `gateway verify db`"
        )
    return Tile(log, n, found, leaves)


def _bodies(connection: Connection, log: int, start: int, count: int) -> list[bytes]:
    within = (_t.log == log, _t.idx >= start, _t.idx < start + count)
    query = select(_t.body).where(*within).order_by(_t.idx)
    return list(connection.execute(query).scalars())


def drop(connection: Connection, tile: Tile, still: Callable[[Connection], None]) -> int:
    """Say that a tile is cold and delete its rows; inside the writer's transaction.

    The log's own records stay as copies: a start, a proof and a hand-over of keys look for them.
    Returns the rows that are gone. ``still`` raises where another gateway moves tiles by now.
    """
    still(connection)
    if reading.size(connection, tile.log) != tile.start:
        raise ColdDamaged(f"tile {tile.n} of log {tile.log} is not the next one")
    times = [row.ts for row in tile.rows]
    projects = sorted({row.project_id for row in tile.rows})
    size = sum(2 + len(row.body) + len(row.leaf) for row in tile.rows)
    connection.execute(
        insert(tables.cold_tiles).values(
            log=tile.log,
            n=tile.n,
            first_ts=min(times),
            last_ts=max(times),
            projects="\n".join(("", *projects, "")),
            bytes=size,
        )
    )
    if strays := list(_strays(tile)):
        connection.execute(insert(tables.cold_strays), strays)
    _keep_heads(connection, tile)
    gone = delete(tables.trace).where(
        _t.log == tile.log,
        _t.idx >= tile.start,
        _t.idx < tile.start + TILE_WIDTH,
        _t.project_id != LOG_ITSELF,
    )
    count = connection.execute(gone).rowcount
    if count != sum(row.project_id != LOG_ITSELF for row in tile.rows):
        raise ColdDamaged(f"tile {tile.n} of log {tile.log} changed while it was moved")
    return count


def _strays(tile: Tile) -> Iterator[dict[str, object]]:
    for row in tile.rows:
        for made_id in {row.id, row.call_id} - {None}:
            period = reading.around(made_id)
            if period is None or not period[0] <= row.ts <= period[1]:
                yield {"id": made_id, "log": tile.log, "idx": row.idx}


def _keep_heads(connection: Connection, tile: Tile) -> None:
    h = tables.cold_heads
    last = {row.project_id: row for row in tile.rows}
    for project_id, row in last.items():
        values = {"pseq": row.pseq, "leaf": row.leaf}
        mine = (h.c.log == tile.log, h.c.project_id == project_id)
        if connection.execute(update(h).where(*mine).values(values)).rowcount == 0:
            place = {"log": tile.log, "project_id": project_id}
            connection.execute(insert(h).values(place | values))

"""Reads every object of a log's cold part again; one that is wrong or missing is named."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Connection, select

from gateway.cold import reading, tiles
from gateway.cold.objects import ColdAway, ColdDamaged, ColdFault
from gateway.cold.reading import ColdStore, Wanted
from gateway.store import tables
from gateway.trace.merkle import TILE_WIDTH
from gateway.trace.verdicts import Check

_AT_ONCE = 8
_TILES = 32
"""Read ahead of what is hashed: some 5 MB."""

_h = tables.tree_tiles.c


class ColdPart:
    """The records of one log that are in cold storage, tile by tile."""

    def __init__(self, connection: Connection, log: int) -> None:
        self._connection = connection
        self._log = log
        self.size = reading.size(connection, log)
        self._damaged: list[str] = []
        self._away = ""

    def read(self) -> Iterator[tuple[int, list[bytes] | None, bytes]]:
        """``(n, records, hash)`` of each tile; None where its records cannot be had."""
        store = self._store()
        count = self.size // TILE_WIDTH
        for start in range(0, count, _TILES):
            some = self._wanted(range(start, min(count, start + _TILES)))
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found = list(pool.map(lambda one: self._entries(store, one), some))
            for one, entries in zip(some, found, strict=True):
                if store is not None and not self._away:
                    self._above(store, one)
                yield one.n, entries, one.root

    def check(self) -> Check | None:
        """To be asked after `read`; None for a log of which nothing is cold."""
        if not self.size:
            return None
        if self._damaged:
            first, more = self._damaged[0], len(self._damaged) - 1
            return Check("cold.objects", "FAIL", first + (f" (and {more} more)" if more else ""))
        if self._away:
            return Check("cold.objects", "CANNOT TELL", f"{self.size} records: {self._away}")
        return Check("cold.objects", "PASS", f"{self.size} records are in cold storage, as hashed")

    def _store(self) -> ColdStore | None:
        try:
            return reading.store_of(self._connection) if self.size else None
        except ColdAway as fault:
            self._away = str(fault)
            return None

    def _wanted(self, numbers: range) -> list[Wanted]:
        """What the tree has of them; a hash that it lacks is nobody's, so that no object fits."""
        logs = tables.logs.c
        query = select(logs.origin).where(logs.log == self._log)
        origin = self._connection.execute(query).scalar_one()
        its = (_h.log == self._log, _h.level == 1, _h.n >= numbers.start, _h.n < numbers.stop)
        stored = {
            n: digest for n, digest in self._connection.execute(select(_h.n, _h.hash).where(*its))
        }
        return [Wanted(self._log, n, origin, stored.get(n, b"")) for n in numbers]

    def _entries(self, store: ColdStore | None, one: Wanted) -> list[bytes] | None:
        if store is None or self._away:
            return None
        entries = self._read(lambda: store.entries(one))
        self._read(lambda: store.stored_hashes(one))
        return entries

    def _read(self, read: Callable[[], list[bytes]]) -> list[bytes] | None:
        try:
            return read()
        except ColdAway as fault:
            self._away = str(fault)
        except ColdFault as fault:
            self._damaged.append(str(fault))
        return None

    def _above(self, store: ColdStore, one: Wanted) -> None:
        for level, n in tiles.completed(one.n):
            query = select(_h.hash).where(_h.log == self._log, _h.level == level)
            query = query.where(_h.n >= n * TILE_WIDTH, _h.n < (n + 1) * TILE_WIDTH)
            row = b"".join(self._connection.execute(query.order_by(_h.n)).scalars())
            name = one.path(tiles.hash_tile(level, n))

            def same(name: str = name, row: bytes = row) -> list[bytes]:
                if store.objects.read(name) != row:
                    raise ColdDamaged(f"{store.objects.place}/{name} is not what was written")
                return []

            self._read(same)

"""Records wherever they are: first what the database has, then what is in cold storage.

The same statements ask both. A record is in one of them at every moment of one transaction, but
for the log's own, of which the database keeps copies.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select, tuple_

from gateway.cold import reading
from gateway.frozen import frozen
from gateway.registry import pages
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.trace.merkle import TILE_WIDTH

TILES_AT_ONCE = 16
"""4,096 records: one page of what is cold looks through so many, and is short or empty else."""
_MOST_TILES = 4096
"""That are looked through for what nobody pages through."""
_COLD = "cold."
_t = tables.trace.c
_c = tables.cold_tiles.c


def of_id(
    connection: Connection, query: Select[Any], made_id: str, *, senders: bool = False
) -> list[Row[Any]]:
    """What a query finds that asks for one call, or one record, by its id; in the log's order.

    It selects ``log`` and ``idx``. Raises `gateway.cold.objects.ColdFault`.
    """
    found = {(row.log, row.idx): row for row in connection.execute(query)}
    if some := reading.near(connection, made_id):
        for row in reading.rows(connection, query, some, senders=senders):
            found[row.log, row.idx] = row
    return [found[place] for place in sorted(found)]


def older(
    connection: Connection, query: Select[Any], project_id: str | None, since: str, most: int
) -> list[Row[Any]]:
    """What a query that goes back in time finds in cold storage, at most so many."""
    tiles = select(_c.log, _c.n).where(_c.last_ts >= since)
    if project_id is not None:
        tiles = tiles.where(reading.of_project(project_id))
    found: list[Row[Any]] = []
    newest = tiles.order_by(_c.last_ts.desc(), _c.n.desc()).limit(_MOST_TILES)
    for place in connection.execute(newest).all():
        if len(found) == most:
            break
        found += reading.rows(connection, query.limit(most - len(found)), [tuple(place)])
    return found


@frozen
class Place:
    """Behind it a walk goes on: ``idx`` in the log, ``pseq`` in the project."""

    idx: int = -1
    pseq: int = -1


def walk(
    connection: Connection,
    query: Select[Any],
    log: int,
    project_id: str,
    after: Place,
    limit: int,
) -> tuple[Sequence[Row[Any]], Place]:
    """The next records of a project in one log that a query finds, oldest first; none at the end.

    It selects ``idx`` and ``pseq``. Each step may have a transaction of its own: what is moved in
    between is found where it is then. Raises `gateway.cold.objects.ColdFault`.
    """
    mine = query.where(_t.log == log, _t.project_id == project_id)
    cold = reading.size(connection, log)
    while after.idx + 1 < cold:
        start = after.idx + 1
        its = (_c.log == log, _c.n >= start // TILE_WIDTH, reading.of_project(project_id))
        numbers = select(_c.n).where(*its).order_by(_c.n).limit(TILES_AT_ONCE)
        some = [(log, n) for n in connection.execute(numbers).scalars()]
        found = reading.rows(connection, mine.where(_t.idx >= start).order_by(_t.idx), some)
        end = (some[-1][1] + 1) * TILE_WIDTH if len(some) == TILES_AT_ONCE else cold
        after = Place(end - 1, found[-1].pseq if found else after.pseq)
        if found:
            return found, after
    rest = mine.where(_t.pseq > after.pseq, _t.idx >= cold).order_by(_t.pseq).limit(limit)
    page = connection.execute(rest).all()
    return page, Place(page[-1].idx, page[-1].pseq) if page else after


@frozen
class Listed:
    """What a list is of: a query of `trace`, and the same question to `cold_tiles`."""

    query: Select[Any]
    project_id: str
    since: str | None
    until: str | None
    senders: bool

    def tiles(self) -> Select[Any]:
        """Newest first."""
        query = select(_c.last_ts, _c.log, _c.n).where(reading.of_project(self.project_id))
        if self.since is not None:
            query = query.where(_c.last_ts >= self.since)
        if self.until is not None:
            query = query.where(_c.first_ts < self.until)
        return query.order_by(_c.last_ts.desc(), _c.log.desc(), _c.n.desc())


def page_back(
    connection: Connection,
    listed: Listed,
    hot: Callable[[str | None], Page[Row[Any]]],
    cursor: str | None,
    limit: int,
) -> Page[Row[Any]]:
    """A page of ``hot``, and once it has no more, of cold storage, newest first.

    Of several logs the tiles come in the order of their last times. Raises as `walk`.
    """
    items: list[Row[Any]] = []
    if cursor is None or not cursor.startswith(_COLD):
        page = hot(cursor)
        some = listed.tiles().limit(1)
        if page.next_cursor is not None or connection.execute(some).first() is None:
            return page
        items, cursor = page.items, None
    colder = _page_of_tiles(connection, listed, cursor, limit - len(items))
    return Page([*items, *colder.items], colder.next_cursor)


def _page_of_tiles(
    connection: Connection, listed: Listed, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    tiles, place, before = listed.tiles(), None, 0
    if cursor is not None:
        *at, before = pages.decode(cursor.removeprefix(_COLD), (str, int, int, int))
        place = tuple(at)
        tiles = tiles.where(tuple_(_c.last_ts, _c.log, _c.n) <= tuple_(*at))
    some = connection.execute(tiles.limit(TILES_AT_ONCE + 1)).all()
    items: list[Row[Any]] = []
    for tile in some[:TILES_AT_ONCE]:
        query = listed.query.order_by(_t.idx.desc()).limit(limit + 1 - len(items))
        if tile == place:
            query = query.where(_t.idx < before)
        found = reading.rows(connection, query, [(tile.log, tile.n)], senders=listed.senders)
        shown = found[: limit - len(items)]
        items += shown
        if len(found) > len(shown):
            return Page(items, _cursor(tile, shown[-1].idx if shown else None))
    rest = some[TILES_AT_ONCE:]
    return Page(items, _cursor(rest[0], None) if rest else None)


def _cursor(tile: Row[Any], before: int | None) -> str:
    """Goes on in this tile, before a record or with its last one."""
    idx = (tile.n + 1) * TILE_WIDTH if before is None else before
    return _COLD + pages.encode([*tile, idx])

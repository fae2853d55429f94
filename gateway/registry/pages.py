"""Lists a page at a time: a cursor names the last row seen, so that pages neither skip nor repeat.

Offsets would do both while rows are added.
"""

import base64
import binascii
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import Column, Connection, Row, Select, Table, select, tuple_

from gateway.frozen import frozen
from gateway.registry.faults import Invalid, Missing

MAX_LIMIT = 200
REACH = 100_000
"""Rows that are looked through for one page. A filter that nothing fits would read them all."""

Item = TypeVar("Item")


@frozen
class Page(Generic[Item]):
    items: list[Item]
    next_cursor: str | None


def encode(position: list[str | int]) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).rstrip(b"=").decode()


def decode(cursor: str, kinds: tuple[type, ...]) -> list[Any]:
    """The position in a cursor that `encode` made; raises `Invalid`."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = orjson.loads(raw)
    except (ValueError, binascii.Error):
        position = None
    if not isinstance(position, list) or tuple(map(type, position)) != kinds:
        raise Invalid({"cursor": "is not a cursor that a list gave you"})
    return position


def page(
    connection: Connection, query: Select[Any], by: Column[str], cursor: str | None, limit: int
) -> Page[Row[Any]]:
    """One page of the query, in the order of a column with unique text."""
    if cursor is not None:
        query = query.where(by > decode(cursor, (str,))[0])
    rows = list(connection.execute(query.order_by(by).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, encode([getattr(rows[-1], by.name)]) if more else None)


def page_back(
    connection: Connection,
    query: Select[Any],
    by: tuple[Column[Any], Column[Any]],
    cursor: str | None,
    limit: int,
    among: Select[Any] | None = None,
) -> Page[Row[Any]]:
    """As `page`, newest first, in the order of a time and a number that settles ties.

    `among` is what is looked through for rows of the query, `REACH` of them at most: the page is
    then short, or empty, and its cursor goes on where looking ended.
    """
    first, second = by
    order = (first.desc(), second.desc())
    if cursor is not None:
        before = tuple_(first, second) < tuple_(*decode(cursor, (str, int)))
        query = query.where(before)
        among = None if among is None else among.where(before)
    end = None
    if among is not None:
        columns = among.with_only_columns(first, second).order_by(*order)
        end = connection.execute(columns.offset(REACH - 1).limit(1)).first()
    if end is not None:
        query = query.where(tuple_(first, second) >= tuple_(*end))
    rows = list(connection.execute(query.order_by(*order).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    if more:
        end = rows[-1]
    last = [] if end is None else [getattr(end, first.name), getattr(end, second.name)]
    return Page(rows, encode(last) if last else None)


def one(connection: Connection, table: Table, project_id: str, row_id: str, noun: str) -> Row[Any]:
    """A row of this project by id. Raises `Missing`, for another project's rows too."""
    query = select(table).where(table.c.id == row_id, table.c.project_id == project_id)
    row = connection.execute(query).first()
    if row is None:
        raise Missing(noun)
    return row


def exists(connection: Connection, table: Table, project_id: str, row_id: str) -> bool:
    query = select(table.c.id).where(table.c.id == row_id, table.c.project_id == project_id)
    return connection.execute(query).first() is not None

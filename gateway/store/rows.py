"""Statements of the hot path, straight to the driver.

SQLAlchemy's execution costs several times what these small statements do; and `executemany` gives
up and takes back the interpreter's lock for each row, which beside a busy event loop is a wait.
So rows are inserted in powers of two: few steps, and few texts to prepare and keep.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection

from gateway.store.database import is_postgresql

_MOST = 64
"""Rows of one statement; with 16 columns well below SQLite's 32,766 parameters."""


def run(connection: Connection, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
    """Run one statement inside the connection's transaction; return the rows it yields.

    Written for SQLite: ``?`` for values, a list as JSON in ``json_each(?)``, of which ``value`` is
    an item and ``json_extract(value, '$[0]')`` an item's first item, both texts.
    """
    driver: Any = connection.connection.driver_connection
    if not is_postgresql(connection):
        found: list[tuple[Any, ...]] = driver.execute(sql, parameters).fetchall()
        return found
    cursor = driver.cursor()
    try:
        cursor.execute(_for_postgresql(sql), [_storable(value) for value in parameters])
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()


def insert_rows(
    connection: Connection, table: str, columns: str, rows: Sequence[Sequence[object]]
) -> None:
    """``columns`` as in SQL, separated by commas; each row has a value for each of them."""
    start = 0
    while start < len(rows):
        count = min(_MOST, 1 << (len(rows) - start).bit_length() - 1)
        part = rows[start : start + count]
        run(connection, _sql(table, columns, count), tuple(chain.from_iterable(part)))
        start += count


@lru_cache(maxsize=256)
def _sql(table: str, columns: str, count: int) -> str:
    row = "(" + ", ".join("?" for _ in columns.split(",")) + ")"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * count)}"


@lru_cache(maxsize=512)
def _for_postgresql(sql: str) -> str:
    sql = re.sub(r"json_extract\(value, '\$\[(\d+)\]'\)", r"(value::json ->> \1)", sql)
    sql = sql.replace("json_each(?)", "json_array_elements_text(?::json) AS given (value)")
    return sql.replace("%", "%%").replace("?", "%s")


def _storable(value: object) -> object:
    # PostgreSQL's texts hold no NUL; what was hashed is in a column of bytes and keeps it.
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value

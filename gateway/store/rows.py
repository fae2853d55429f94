"""Inserts many rows with few statements.

`executemany` gives up and takes back the interpreter's lock for each row, and beside a busy event
loop every taking back is a wait. Rows go in powers of two instead, so that few texts are prepared
and kept.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from sqlalchemy import Connection

_MOST = 64
"""Rows of one statement; with 16 columns well below SQLite's 32,766 parameters."""


def insert_rows(
    connection: Connection, table: str, columns: str, rows: Sequence[Sequence[object]]
) -> None:
    """``columns`` as in SQL, separated by commas; each row has a value for each of them."""
    start = 0
    while start < len(rows):
        count = min(_MOST, 1 << (len(rows) - start).bit_length() - 1)
        part = rows[start : start + count]
        connection.exec_driver_sql(_sql(table, columns, count), tuple(chain.from_iterable(part)))
        start += count


@lru_cache(maxsize=256)
def _sql(table: str, columns: str, count: int) -> str:
    row = "(" + ", ".join("?" for _ in columns.split(",")) + ")"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * count)}"

"""Moves the SQLite database of a data directory, whose gateway is stopped, to PostgreSQL.

All of it is one transaction on the server: tables, rows, and the comparison of each table with
what was read. Whatever ends it before its commit leaves the target as empty as it was found. After
the commit SQLite's file has another name, so that no gateway goes on with it under the same keys;
where one does all the same, the checkpoint file tells it that it is behind.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, Table, func, inspect, select
from sqlalchemy.exc import DBAPIError

from gateway.cold import reading as cold
from gateway.data_dir.state import NotInitialised
from gateway.database_place import DATABASE, PostgresUrl
from gateway.durable import sync_folder
from gateway.frozen import frozen
from gateway.store import migrations, postgresql, tables
from gateway.store.database import lock_data_dir, reading_engine, take_turn, writing_engine
from gateway.trace.log import stored_hashes
from gateway.trace.merkle import rebuild

COPIED = f"{DATABASE}.copied"
_PAGE = 2000

Progress = Callable[[str, int], object]
"""Told of a table and how many rows of it are copied, from time to time."""
Row = tuple[Any, ...]


class CopyRefused(Exception):
    """Nothing was copied; the message says why."""


@frozen
class Head:
    """One log's end, the same in both databases."""

    origin: str
    size: int
    root: str
    """Hexadecimal; what is wrong where the log is damaged."""


@frozen
class Moved:
    """What the target holds."""

    rows: int
    tables: int
    heads: tuple[Head, ...]
    left: str
    """What SQLite's file is called now."""


def move(data_dir: Path, target: PostgresUrl, progress: Progress = lambda *_: None) -> Moved:
    """Blocks. Raises `CopyRefused`, `NotInitialised`, `gateway.store.database.DatabaseLocked`,
    `gateway.store.postgresql.DatabaseAway`.
    """
    file = data_dir / DATABASE
    if not file.exists():
        raise NotInitialised(f"there is no {file}; only a gateway on SQLite can be copied")
    lock = lock_data_dir(data_dir)
    try:
        with _reading(file) as source, _writing(target) as to:
            _check_source(source, file)
            _make_tables(to)
            rows = sum(_copy_table(source, to, one, progress) for one in _tables())
            heads = _heads(source)
            if heads != _heads(to):
                raise CopyRefused("the logs of the copy have other roots; nothing was kept")
            _set_sequences(to)
        _set_aside(file)
    finally:
        os.close(lock)
    return Moved(rows, len(_tables()), heads, COPIED)


def _tables() -> list[Table]:
    """Each after those that it refers to."""
    return tables.metadata.sorted_tables


@contextmanager
def _reading(file: Path) -> Iterator[Connection]:
    engine = reading_engine(file)
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _writing(target: PostgresUrl) -> Iterator[Connection]:
    """Committed when the block ends without a fault, else as if nothing had happened."""
    engine = writing_engine(target)
    try:
        with engine.connect() as connection, connection.begin():
            postgresql.patient(connection)
            # A gateway that starts on the target waits, and finds a whole database or none.
            take_turn(connection, alone=True)
            yield connection
    except DBAPIError as fault:
        raise CopyRefused(f"PostgreSQL did not take it: {str(fault.orig).strip()}") from None
    finally:
        engine.dispose()


def _check_source(source: Connection, file: Path) -> None:
    found, known = migrations.revision(source), migrations.newest()
    if found != known:
        raise CopyRefused(
            f"{file} has schema {found} and this gateway's is {known}: "
            "run `gateway serve` of this version on it once, and stop it"
        )


def _make_tables(to: Connection) -> None:
    if inspect(to).get_table_names():
        raise CopyRefused("the database of GATEWAY_DATABASE_URL is not empty; make a new one")
    migrations.make_newest(to)


def _copy_table(source: Connection, to: Connection, table: Table, progress: Progress) -> int:
    """Return how many rows. Raises `CopyRefused` when the copy is not what was read."""
    sent, held = _Digest(), _Digest()
    name, names = _quoted(table.name), ", ".join(_quoted(column.name) for column in table.columns)
    order = ", ".join(_quoted(column.name) for column in table.primary_key)
    read = source.connection.cursor()
    read.execute(f"SELECT {names} FROM {name} ORDER BY {order}")
    driver: Any = to.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {name} ({names}) FROM STDIN") as copying:
        for row in sent.over(_pages(read)):
            copying.write_row(row)
            if sent.rows % _PAGE == 0:
                progress(table.name, sent.rows)
    read.close()
    with driver.cursor(name="copied") as cursor:
        cursor.itersize = _PAGE
        told = ", ".join(_as_read(column) for column in table.columns)
        cursor.execute(f"SELECT {told} FROM {name} ORDER BY {order}")
        held.take(_plain(row) for row in cursor)
    if (held.rows, held.digest()) != (sent.rows, sent.digest()):
        raise CopyRefused(f"the table {table.name} of the copy differs; nothing was kept")
    progress(table.name, sent.rows)
    return sent.rows


def _quoted(name: str) -> str:
    return f'"{name}"'


def _as_read(column: Any) -> str:
    """As SQLite gives it: JSON is the text that was written."""
    name = _quoted(column.name)
    return f"{name}::text" if isinstance(column.type, JSON) else name


def _pages(cursor: Any) -> Iterator[Row]:
    while page := cursor.fetchmany(_PAGE):
        yield from page


def _plain(row: Sequence[Any]) -> Row:
    """What SQLite has for truth is a number."""
    return tuple(int(value) if isinstance(value, bool) else value for value in row)


class _Digest:
    """Over rows, in their order, as they pass."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def over(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self._hash.update(repr(row).encode("utf-8", "surrogatepass"))
            self.rows += 1
            yield row

    def take(self, rows: Iterable[Row]) -> None:
        for _ in self.over(rows):
            pass

    def digest(self) -> str:
        return self._hash.hexdigest()


def _heads(connection: Connection) -> tuple[Head, ...]:
    """Of each log its size, and its root over the leaves and tiles as they are stored."""
    l, t = tables.logs.c, tables.trace.c  # noqa: E741
    logs = select(l.origin, l.log, select(func.max(t.idx)).where(t.log == l.log).scalar_subquery())
    heads = []
    for origin, log, last in connection.execute(logs.order_by(l.log)).all():
        # Whole tiles may be in cold storage: of these the database has the root, and that is asked.
        size = cold.size(connection, log) if last is None else last + 1
        try:
            root = rebuild(size, stored_hashes(connection, log)).root().hex()
        except ValueError as fault:
            root = f"none: {fault}"  # a damaged log was sealed, and is copied as it is
        heads.append(Head(origin, size, root))
    return tuple(heads)


def _set_sequences(to: Connection) -> None:
    for table in _tables():
        column = table.autoincrement_column
        if column is not None:
            last = to.execute(select(func.max(column))).scalar()
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            to.execute(select(func.setval(sequence, (last or 0) + 1, False)))


def _set_aside(file: Path) -> None:
    """The journal first: without it the file would be taken for one that has none."""
    for end in ("-wal", "-shm", ""):
        path = file.with_name(file.name + end)
        if path.exists():
            path.rename(path.with_name(COPIED + end))
    sync_folder(file.parent)

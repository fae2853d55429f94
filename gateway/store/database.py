"""Opens the database: a file of one process, or a PostgreSQL server that several share.

SQLite in WAL mode with ``synchronous=FULL``: what was committed survives a power loss. A lock file
keeps a second process out of a data directory. For the other kind see `gateway.store.postgresql`.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool, StaticPool

from gateway.database_place import Place
from gateway.store import postgresql


class DatabaseLocked(Exception):
    """Another process holds this data directory."""


class DataDirUnusable(Exception):
    """The system does not let this process use the data directory, or a file in it."""


@contextmanager
def using(data_dir: Path) -> Iterator[None]:
    """What the system refuses meanwhile is raised as `DataDirUnusable`, which says what to do."""
    try:
        yield
    except OSError as fault:
        what = f"cannot use {fault.filename or data_dir}: {fault.strerror}"
        advice = "name another data directory"
        if isinstance(fault, PermissionError):
            advice = f"run as its owner, give it to the user that runs this, or {advice}"
        raise DataDirUnusable(f"{what}; {advice}") from None


def lock_data_dir(data_dir: Path) -> int:
    """Take the directory's lock and return its file descriptor; the lock ends with the process.

    Raises `DatabaseLocked`, naming the holder's process id, and `DataDirUnusable`.
    """
    path = data_dir / "gateway.lock"
    with using(data_dir):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise DatabaseLocked(
            f"{data_dir} is in use by another gateway (process {holder}); "
            "stop it, or choose another GATEWAY_DATA_DIR"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return fd


def _configure(engine: Engine, *, write: bool) -> Engine:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.execute("PRAGMA foreign_keys=ON")
        if write:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            # A deleted payload leaves no bytes behind (with a checkpoint after it).
            cursor.execute("PRAGMA secure_delete=ON")
        else:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # On the driver: SQLAlchemy's own execution would cost more than the transaction.
        driver = connection.connection.driver_connection
        begin = "BEGIN IMMEDIATE" if write else "BEGIN"
        try:
            driver.execute(begin)
        except sqlite3.Error as error:
            # Nobody wraps what a listener raises, and all who write expect what is wrapped.
            raise OperationalError(begin, None, error) from error

    return engine


def _url(path: Path) -> URL:
    # Not as text: a `?` in a folder's name would end the path.
    return URL.create("sqlite", database=str(path))


def writing_engine(place: Place) -> Engine:
    """The writer's engine: a single connection, made for a single thread."""
    if isinstance(place, str):
        return postgresql.writing_engine(place)
    return _configure(
        create_engine(
            _url(place),
            hide_parameters=True,  # an error is logged, and what was to be written is not its text
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "cached_statements": 512},
        ),
        write=True,
    )


def reading_engine(place: Place) -> Engine:
    """Read-only connections for the API; they never block the writer nor wait for it."""
    if isinstance(place, str):
        return postgresql.reading_engine(place)
    return _configure(
        create_engine(
            _url(place),
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            connect_args={"check_same_thread": False},
        ),
        write=False,
    )


def take_turn(connection: Connection, *, alone: bool) -> float | None:
    """At the begin of a transaction that writes: wait until it is this one's turn.

    On SQLite each transaction has the file to itself. On PostgreSQL those of other gateways run
    beside it unless it, or one of theirs, is ``alone``; returns the server's time in seconds.
    """
    if is_postgresql(connection):
        return postgresql.take_turn(connection, alone=alone)
    return None


def only_one(connection: Connection, what: str) -> None:
    """Until the commit, no other gateway's transaction is at the thing that ``what`` names."""
    if is_postgresql(connection):
        postgresql.only_one(connection, what)


def announce(connection: Connection) -> None:
    """Tell other gateways, once it is durable, that this transaction changes something."""
    if is_postgresql(connection):
        postgresql.announce(connection)


def size(connection: Connection) -> int | None:
    """Bytes that the server keeps for this database; None where it is a file."""
    return postgresql.size(connection) if is_postgresql(connection) else None


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == postgresql.NAME


def is_lost(connection: Connection) -> bool:
    """Whether the connection to the server has ended: what it did last may have been done."""
    return is_postgresql(connection) and postgresql.is_lost(connection)


def may_pass(fault: Exception) -> bool:
    """Whether nothing was written, and the same transaction may succeed when it is tried again."""
    return _is_of_postgresql(fault) and postgresql.may_pass(fault)


def is_chosen(fault: Exception) -> bool:
    """Whether it came of other transactions alone, and says nothing of what was to be written."""
    return _is_of_postgresql(fault) and postgresql.is_chosen(fault)


def is_servers(fault: Exception) -> bool:
    """Whether it says something of the database's server, and not of what was to be written."""
    return _is_of_postgresql(fault) and postgresql.is_servers(fault)


def _is_of_postgresql(fault: Exception) -> bool:
    return type(getattr(fault, "orig", fault)).__module__.startswith("psycopg")

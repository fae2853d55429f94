"""Opens the database: one file, one process, full durability.

SQLite in WAL mode with ``synchronous=FULL``: what was committed survives a power loss. A lock file
beside the database keeps a second process out, because the trace has exactly one writer.
"""

import fcntl
import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool


class DatabaseLocked(Exception):
    """Another process holds this data directory."""


def lock_data_dir(data_dir: Path) -> int:
    """Take the directory's lock and return its file descriptor; the lock ends with the process.

    Raises `DatabaseLocked`, naming the holder's process id.
    """
    path = data_dir / "gateway.lock"
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
        driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _url(path: Path) -> URL:
    # Not as text: a `?` in a folder's name would end the path.
    return URL.create("sqlite", database=str(path))


def writing_engine(path: Path) -> Engine:
    """The writer's engine: a single connection, made for a single thread."""
    return _configure(
        create_engine(
            _url(path),
            hide_parameters=True,  # an error is logged, and what was to be written is not its text
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "cached_statements": 512},
        ),
        write=True,
    )


def reading_engine(path: Path) -> Engine:
    """Read-only connections for the API; they never block the writer nor wait for it."""
    return _configure(
        create_engine(
            _url(path),
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            connect_args={"check_same_thread": False},
        ),
        write=False,
    )

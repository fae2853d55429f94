"""PostgreSQL, where several gateways share one database.

A transaction that writes takes an advisory lock first. Calls take it shared: they run side by side
on all gateways and keep out of each other's way by rows. What a person or a key changes, a stop
above all, takes it alone: it begins when every earlier admission is committed, and admissions that
come after it see it. So what is decided in memory of one gateway is exact for all of them, as it is
where one process writes.

Transactions are READ COMMITTED, so that a statement sees what was committed while it waited for a
lock. Readers have one snapshot each and can write nothing.
"""

import importlib
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import String, Text

from gateway.database_place import PostgresUrl

NAME = "postgresql"
_TURN = 0x67617465
"""The advisory lock of this program; the second number says which of them."""
_WRITING = 0
CHANNEL = "gateway_changes"
"""On which a gateway says that it has changed something."""
READERS = 8
"""Connections of one gateway that read, at most; one more writes, and one listens."""

_CHOSEN = ("40001", "40P01")
"""Serialization failure, deadlock: the server chose this transaction of several to be undone."""
_UNDONE = (*_CHOSEN, "23505")
"""Those, and a unique violation."""
_LIMITS = {
    # A gateway that hangs in a transaction must not hold up all others for long.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "10s",
    "statement_timeout": "30s",
    "synchronous_commit": "on",
    "TimeZone": "UTC",
}
_DIALLING: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "policy-gateway",
}


class DatabaseAway(SQLAlchemyError):
    """The database's server cannot be reached, or takes too long; nothing was written."""


def writing_engine(url: PostgresUrl) -> Engine:
    return _engine(url, 1, isolation_level="READ COMMITTED")


def reading_engine(url: PostgresUrl) -> Engine:
    options = {"postgresql_readonly": True}
    # A reader must notice by itself that the server was away: nobody tries its work again.
    return _engine(
        url,
        READERS,
        isolation_level="REPEATABLE READ",
        execution_options=options,
        pool_pre_ping=True,
    )


def _engine(url: PostgresUrl, connections: int, **options: Any) -> Engine:
    limits = " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())
    try:
        # Of an extra, which SQLite does not need.
        driver = importlib.import_module("gateway.store.postgresql_connection")
    except ModuleNotFoundError:
        raise DatabaseAway(
            "GATEWAY_DATABASE_URL needs the driver: pip install 'policy-gateway[postgresql]'"
        ) from None
    return create_engine(
        "postgresql+psycopg://",
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=min(connections, 4),
        max_overflow=connections - min(connections, 4),
        creator=partial(driver.connect, url, options=limits, **_DIALLING),
        **options,
    )


def take_turn(connection: Connection, *, alone: bool) -> float:
    """Return the server's time in seconds since 1970, as it is once the lock is taken."""
    function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
    turn = f"{function}({_TURN}, {_WRITING})"
    rows = _execute(connection, f"SELECT {turn}, extract(epoch FROM clock_timestamp())::float8")
    return float(rows[0][1])


def only_one(connection: Connection, what: str) -> None:
    _execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", what)


def announce(connection: Connection) -> None:
    _execute(connection, f"NOTIFY {CHANNEL}")


def size(connection: Connection) -> int:
    return int(_execute(connection, "SELECT pg_database_size(current_database())")[0][0])


def patient(connection: Connection) -> None:
    """For a change of the schema: no limit of time until the commit."""
    _execute(connection, "SET LOCAL statement_timeout = 0")
    _execute(connection, "SET LOCAL lock_timeout = 0")


def is_lost(connection: Connection) -> bool:
    if connection.closed or connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    return driver is None or bool(driver.closed)


def may_pass(fault: Exception) -> bool:
    """See `gateway.store.database.may_pass`. It was chosen to end a deadlock, another gateway was
    first at a key, or the connection had ended; that of a commit is none of these.
    """
    error: Any = getattr(fault, "orig", fault)
    if error.sqlstate in _UNDONE:
        return True
    # An error of the driver's own; one that SQLAlchemy wrapped may be of a connection never made.
    return bool(getattr(fault, "connection_invalidated", error is fault and _is_operational(error)))


def is_chosen(fault: Exception) -> bool:
    error: Any = getattr(fault, "orig", fault)
    return error.sqlstate in _CHOSEN


def is_servers(fault: Exception) -> bool:
    error: Any = getattr(fault, "orig", fault)
    return error.sqlstate not in _UNDONE and _is_operational(error)


def _is_operational(error: Exception) -> bool:
    return any(one.__name__ == "OperationalError" for one in type(error).__mro__)


def _execute(connection: Connection, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()


# Texts sort and compare by their bytes, as in SQLite, whatever the server's language is: times,
# ids and their ranges depend on it.
@compiles(String, NAME)
@compiles(Text, NAME)
def _by_bytes(type_: String, compiler: Any, **options: Any) -> str:
    made = "TEXT" if isinstance(type_, Text) else compiler.visit_VARCHAR(type_, **options)
    return f'{made} COLLATE "C"'

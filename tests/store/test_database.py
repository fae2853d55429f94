"""How the database is opened: what was committed survives, what was deleted is gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.store.database import reading_engine, writing_engine

MARK = b"the customer's very own words"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = writing_engine(tmp_path / "x.db")
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE parents (id TEXT PRIMARY KEY, value BLOB)")
        connection.exec_driver_sql("CREATE TABLE children (parent TEXT REFERENCES parents (id))")
    yield engine
    engine.dispose()


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("x.db*"))


def test_a_commit_is_flushed_and_readers_do_not_wait(engine: Engine) -> None:
    with engine.connect() as connection:
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    full = 2  # https://www.sqlite.org/pragma.html#pragma_synchronous
    assert asked == {
        "journal_mode": "wal",
        "synchronous": full,
        "secure_delete": 1,
        "foreign_keys": 1,
    }


def test_a_transaction_takes_the_writers_place_when_it_begins(
    engine: Engine, tmp_path: Path
) -> None:
    other = writing_engine(tmp_path / "x.db")
    with other.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
    with (
        engine.connect() as first,
        first.begin(),
        other.connect() as second,
        pytest.raises(OperationalError, match="locked"),
    ):
        second.begin()
    other.dispose()


def test_a_reader_cannot_write(engine: Engine, tmp_path: Path) -> None:
    reader = reading_engine(tmp_path / "x.db")
    with (
        reader.connect() as connection,
        connection.begin(),
        pytest.raises(OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM parents")
    reader.dispose()


def test_a_transaction_that_cannot_begin_is_a_fault_of_the_database(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
        connection.rollback()
        with pytest.raises(OperationalError, match="readonly"), connection.begin():
            pass


def test_references_are_kept(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql("INSERT INTO children VALUES ('nobody')")


def test_what_was_deleted_leaves_no_bytes_once_it_is_checkpointed(
    engine: Engine, tmp_path: Path
) -> None:
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("INSERT INTO parents VALUES ('a', ?)", (MARK,))
    assert MARK in bytes_on_disk(tmp_path)
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("DELETE FROM parents")
    raw = engine.raw_connection()
    raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    assert MARK not in bytes_on_disk(tmp_path)

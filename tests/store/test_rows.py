"""The statements of the hot path: every row once, in its order, inside the transaction."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateway.database_place import Place
from gateway.store.database import writing_engine
from gateway.store.rows import insert_rows, run


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    engine = writing_engine(place)
    blob = "BLOB" if isinstance(place, Path) else "BYTEA"
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(f"CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c {blob})")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 63, 64, 65, 127, 128, 512])
def test_every_row_is_inserted_once(engine: Engine, count: int) -> None:
    rows = [(n, f"'{n}", None if n % 3 else b"\x00%d" % n) for n in range(count)]
    with engine.connect() as connection, connection.begin():
        insert_rows(connection, "t", "a, b, c", rows)
        assert run(connection, "SELECT a, b, c FROM t ORDER BY a", ()) == rows


def test_a_statement_belongs_to_the_connections_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        insert_rows(connection, "t", "a, b, c", [(1, "x", None)])
        savepoint = connection.begin_nested()
        insert_rows(connection, "t", "a, b, c", [(2, "x", None)])
        savepoint.rollback()
        assert run(connection, "SELECT a FROM t", ()) == [(1,)]
        transaction.rollback()
        assert run(connection, "SELECT a FROM t", ()) == []


def test_a_change_can_say_what_it_changed(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        insert_rows(connection, "t", "a, b, c", [(1, "x", None), (2, "x", None)])
        assert run(connection, "DELETE FROM t WHERE a = ? RETURNING a", (2,)) == [(2,)]
        assert run(connection, "DELETE FROM t WHERE a = ? RETURNING a", (2,)) == []


def test_a_list_is_one_parameter(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        insert_rows(connection, "t", "a, b, c", [(1, "x", None), (2, "%y?", None), (3, "z", None)])
        asked = "SELECT a FROM t WHERE b IN (SELECT value FROM json_each(?)) ORDER BY a"
        assert run(connection, asked, ('["x", "%y?"]',)) == [(1,), (2,)]
        pairs = (
            "SELECT a FROM t WHERE (b, b) IN (SELECT json_extract(value, '$[0]'),"
            " json_extract(value, '$[1]') FROM json_each(?))"
        )
        assert run(connection, pairs, ('[["z", "z"], ["x", "z"]]',)) == [(3,)]


def test_a_text_may_hold_a_byte_that_one_database_cannot_keep(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        insert_rows(connection, "t", "a, b, c", [(1, "a\0b", b"a\0b")])
        ((text, data),) = run(connection, "SELECT b, c FROM t", ())
    assert text in ("a\0b", "a\ufffdb")
    assert data == b"a\0b"

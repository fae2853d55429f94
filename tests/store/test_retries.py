"""A deadlock and a serialization failure of PostgreSQL, real ones: all is written once at last."""

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from gateway.database_place import PostgresUrl
from gateway.store.database import writing_engine
from gateway.store.writer import Writer
from tests.postgresql import a_database
from tests.store.test_writer import Notebook

pytestmark = pytest.mark.anyio

SECONDS = 60
ADD = "UPDATE counted SET n = n + 1 WHERE id = %s"


class Table:
    """Two rows, a writer, and somebody else who is at the same rows."""

    def __init__(self, url: PostgresUrl, rival: "psycopg.Connection[Any]", isolation: str) -> None:
        self.url = url
        self.rival = rival
        rival.execute("CREATE TABLE counted (id int PRIMARY KEY, n int)")
        rival.execute("INSERT INTO counted VALUES (1, 0), (2, 0)")
        rival.commit()
        # Of two in each other's way, the one is undone whose patience ends first: the writer.
        rival.execute("SET deadlock_timeout = '60s'")
        rival.commit()
        self.notebook = Notebook()
        engine = writing_engine(url).execution_options(isolation_level=isolation)
        self.writer = Writer(engine, [self.notebook])
        self.writer.start()

    def counts(self) -> list[int]:
        with psycopg.connect(self.url) as connection:
            return [n for (n,) in connection.execute("SELECT n FROM counted ORDER BY id")]

    def until_the_rival_waits(self) -> None:
        waits = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
        pid = self.rival.info.backend_pid
        ends = monotonic() + SECONDS
        with psycopg.connect(self.url, autocommit=True) as connection:
            while connection.execute(waits, (pid,)).fetchone() != ("Lock",):
                assert monotonic() < ends
                sleep(0.02)

    async def write(self, as_a: str, work: Callable[[Connection], None]) -> None:
        """In a batch, as calls are written, or as a change of a person's."""

        def batch(connection: Connection, items: Sequence[str]) -> list[None]:
            work(connection)
            return [None for _ in items]

        def change(connection: Connection) -> None:
            work(connection)

        asked: Awaitable[None] = (
            self.writer.submit(batch, "") if as_a == "batch" else self.writer.change(change)
        )
        await asked
        # Once more for each time that the rival was slower to go on than the writer to come back.
        again = len(self.notebook.calls) // 2 - 1
        assert again >= 1
        assert self.notebook.calls == ["begin", "rolled_back"] * again + ["begin", "committed"]
        assert not self.writer.failing


@pytest.fixture
def isolation() -> str:
    return "READ COMMITTED"


@pytest.fixture
def table(isolation: str) -> Iterator[Table]:
    with a_database() as url, psycopg.connect(url) as rival:
        made = Table(url, rival, isolation)
        try:
            yield made
        finally:
            made.writer.close()


def add(connection: Connection, row: int) -> None:
    connection.exec_driver_sql(ADD, (row,))


@pytest.mark.parametrize("as_a", ["batch", "change"])
async def test_a_deadlock_is_tried_again_and_everything_written_once(
    table: Table, as_a: str
) -> None:
    table.rival.execute(ADD, (2,))
    met = threading.Event()

    def the_other_order() -> None:
        table.rival.execute(ADD, (1,))
        table.rival.commit()

    with ThreadPoolExecutor(1) as pool:

        def work(connection: Connection) -> None:
            add(connection, 1)
            if not met.is_set():
                met.set()
                pool.submit(the_other_order)
                table.until_the_rival_waits()
            add(connection, 2)

        await table.write(as_a, work)
    assert table.counts() == [2, 2]


@pytest.mark.parametrize("isolation", ["REPEATABLE READ"])
@pytest.mark.parametrize("as_a", ["batch", "change"])
async def test_a_serialization_failure_is_tried_again_and_everything_written_once(
    table: Table, as_a: str
) -> None:
    met = threading.Event()

    def work(connection: Connection) -> None:
        add(connection, 2)
        if not met.is_set():
            met.set()
            # Committed after this transaction's snapshot was taken.
            table.rival.execute(ADD, (1,))
            table.rival.commit()
        add(connection, 1)

    await table.write(as_a, work)
    assert table.counts() == [2, 1]

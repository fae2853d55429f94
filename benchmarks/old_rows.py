"""What it costs PostgreSQL that old records leave `trace` row by row, and what a partition would.

    python -m benchmarks.old_rows [--records 1000000]

Records of the log's own shape and size are deleted as `gateway.cold.archive` does it, a tile of 256
in a transaction, while another connection commits new ones. Then the same records are dropped as a
partition. The server has PostgreSQL's defaults, `fsync` among them.
"""

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter, sleep

import psycopg
from psycopg import sql

from gateway.database_place import PostgresUrl
from gateway.store import migrations
from gateway.store.database import writing_engine
from gateway.trace.merkle import TILE_WIDTH
from tests.postgresql import DurableServer

GROUP = 16
"""Records that a commit of the log writes together."""
PAUSE_SECONDS = 0.005
QUIET_SECONDS = 10.0
_RECORDS = """
INSERT INTO {table} (log, idx, id, call_id, project_id, pseq, ts, kind, decision, risk, agent_id,
  server_id, tool, policies, body, leaf)
SELECT %(log)s, n, 'evt_' || md5(n::text), 'trc_' || md5((n / 2)::text), 'prj_' || n %% 4, n,
  to_char(to_timestamp(1800000000 + n * 0.01), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  CASE n %% 2 WHEN 0 THEN 'decision' ELSE 'outcome' END, CASE n %% 2 WHEN 0 THEN 'ALLOW' END,
  CASE n %% 2 WHEN 0 THEN 'LOW' END, 'agt_' || n %% 100, 'srv_' || n %% 10, 'tool_' || n %% 100,
  E'\\ngateway.default\\n', decode(repeat(md5(n::text), 41), 'hex'), decode(md5(n::text), 'hex')
FROM generate_series(%(first)s::bigint, %(end)s::bigint - 1) n
"""
_SIZE = "SELECT pg_total_relation_size('trace')"
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
_DEAD = "SELECT n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname = 'trace'"


def insert(
    connection: psycopg.Connection, log: int, first: int, end: int, table: str = "trace"
) -> None:
    query = sql.SQL(_RECORDS).format(table=sql.Identifier(table))
    connection.execute(query, {"log": log, "first": first, "end": end})


@dataclass
class Commits:
    """New records of another log, group after group, for as long as somebody wants them."""

    url: str
    at: int = 0
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.seconds, ended = [], threading.Event()

        def commit() -> None:
            with psycopg.connect(self.url) as connection:
                while not ended.is_set():
                    started = perf_counter()
                    insert(connection, 1, self.at, self.at + GROUP)
                    connection.commit()
                    self.seconds.append(perf_counter() - started)
                    self.at += GROUP
                    sleep(PAUSE_SECONDS)

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def told(self) -> str:
        cut = quantiles(self.seconds, n=100)
        return f"commits of {GROUP} records: p50 {cut[49] * 1e3:.1f} ms, p99 {cut[98] * 1e3:.1f} ms"


def delete(connection: psycopg.Connection, records: int) -> tuple[float, float]:
    """Seconds in all, and of the slowest transaction."""
    began, slowest = perf_counter(), 0.0
    for first in range(0, records, TILE_WIDTH):
        started = perf_counter()
        gone = "DELETE FROM trace WHERE log = 0 AND idx >= %s AND idx < %s"
        connection.execute(gone, (first, first + TILE_WIDTH))
        connection.commit()
        slowest = max(slowest, perf_counter() - started)
    return perf_counter() - began, slowest


def number(connection: psycopg.Connection, query: str) -> float:
    row = connection.execute(query).fetchone()
    assert row is not None
    return float(row[0])


def row_by_row(url: str, records: int) -> None:
    with psycopg.connect(url) as connection:
        insert(connection, 0, 0, records)
        connection.commit()
        full, commits = number(connection, _SIZE), Commits(url)
        print(f"{records:,} records take {full / 1e6:,.0f} MB with their indexes")
        with commits.running():
            sleep(QUIET_SECONDS)
        print(f"  nothing else: {commits.told()}")
        wal = number(connection, _WAL)
        with commits.running():
            seconds, slowest = delete(connection, records)
        wal = number(connection, _WAL) - wal
        print(f"  while they go: {commits.told()}")
        print(f"deleted a tile at a time: {seconds:,.1f} s, the slowest {slowest * 1e3:.0f} ms")
        print(f"  {wal / 1e6:,.0f} MB of WAL, with what was committed meanwhile")
        dead, vacuums = connection.execute(_DEAD).fetchone() or (0, 0)
        print(f"  {dead:,} dead rows; autovacuum has run {vacuums} times")
        connection.commit()
        connection.autocommit = True
        with commits.running():
            started = perf_counter()
            connection.execute("VACUUM trace")
            seconds = perf_counter() - started
        print(f"  VACUUM: {seconds:,.1f} s; meanwhile {commits.told()}")
        empty = number(connection, _SIZE)
        insert(connection, 2, 0, records)
        again = number(connection, _SIZE)
        print(f"  then {empty / 1e6:,.0f} MB; with as many new records {again / 1e6:,.0f} MB")


def as_partition(url: str, records: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        # Without the trace's own promise, one record for each place in a project's sequence: a
        # partitioned table can only promise what has its bounds, the place in the log, in it.
        connection.execute("CREATE TABLE part (LIKE trace) PARTITION BY RANGE (idx)")
        connection.execute("ALTER TABLE part ADD PRIMARY KEY (log, idx)")
        connection.execute("CREATE INDEX ON part (call_id)")
        for first in (0, records):
            name = sql.Identifier(f"part_{first}")
            bounds = (sql.Literal(first), sql.Literal(first + records))
            made = "CREATE TABLE {} PARTITION OF part FOR VALUES FROM ({}) TO ({})"
            connection.execute(sql.SQL(made).format(name, *bounds))
        insert(connection, 0, 0, records, "part")
        started, wal = perf_counter(), number(connection, _WAL)
        connection.execute("DROP TABLE part_0")
        wal = number(connection, _WAL) - wal
        print(
            f"dropped as a partition: {perf_counter() - started:.2f} s, {wal / 1e6:,.2f} MB of WAL"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records // TILE_WIDTH * TILE_WIDTH
    server = DurableServer()
    try:
        with server.database() as url:
            engine = writing_engine(PostgresUrl(url))
            migrations.upgrade(engine)
            engine.dispose()
            row_by_row(url, records)
            as_partition(url, records)
    finally:
        server.close()


if __name__ == "__main__":
    main()

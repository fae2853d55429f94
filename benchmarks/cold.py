"""What old records cost, in the database and in cold storage: bytes measured, a year counted.

    python -m benchmarks.cold [--calls 3000]

Calls go through the whole pipeline but the network; then their records move to a folder. Prices are
assumptions that stand below, and are easily exchanged.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from sqlalchemy import Connection, text

from gateway.cold import reading
from gateway.cold.archive import Archive
from gateway.cold.objects import Folder
from gateway.cold.reading import ColdStore
from gateway.frozen import frozen
from gateway.trace.merkle import TILE_WIDTH
from tests.builders import World, a_request, a_state
from tests.pipeline_world import a_line

CALLS_A_SECOND = 1_000
YEAR = 365 * 86_400
AT_ONCE = 50
STANDARD, INFREQUENT, DISK = 0.023, 0.0125, 0.08
"""Dollars for a GB and month: object storage, the same rarely read, a database's disk."""
PUT, GET = 0.005 / 1_000, 0.0004 / 1_000
"""Dollars for a request."""
_TABLES = ("trace", "ix_trace_listed", "ix_trace_call_id", "sqlite_autoindex_trace_%")


@frozen
class Measured:
    records_a_call: float
    hot: float
    """Bytes of a record in the database, its indexes with it."""
    cold: float
    """Bytes of a record in its objects."""
    wall: float
    cpu: float
    """Seconds of moving a record."""


def in_database(connection: Connection) -> tuple[int, int]:
    """Records, and the bytes that they take."""
    like = " OR ".join(f"name LIKE '{name}'" for name in _TABLES)
    size = connection.execute(text(f"SELECT sum(pgsize) FROM dbstat WHERE {like}")).scalar_one()
    return connection.execute(text("SELECT count(*) FROM trace")).scalar_one(), size


async def measure(world: World, store: ColdStore, calls: int) -> Measured:
    line, state = a_line(world), world.state
    for _ in range(calls // AT_ONCE):
        await asyncio.gather(*(line.handle(a_request()) for _ in range(AT_ONCE)))
    await line.quiet()
    await state.writer.change(state.checkpoints.make)
    with state.reader.connect() as connection:
        records, size = in_database(connection)
    archive = Archive(store, state.writer, state.reader, state.clock.now, 0, (), "benchmark")
    wall, cpu = perf_counter(), process_time()
    moved = await asyncio.to_thread(archive.round)
    wall, cpu = (perf_counter() - wall) / moved, (process_time() - cpu) / moved
    with state.reader.connect() as connection:
        cold = reading.total(connection)[1]
    return Measured(records / calls, size / records, cold / moved, wall, cpu)


def told(found: Measured) -> None:
    print(f"{found.records_a_call:.1f} records a call")
    print(f"{found.hot:,.0f} bytes of a record in the database, with its indexes")
    print(f"{found.cold:,.0f} bytes of a record in cold storage")
    print(f"{found.wall * 1e6:,.0f} µs to move one, {found.cpu * 1e6:,.0f} µs of them CPU")
    records = found.records_a_call * CALLS_A_SECOND * YEAR
    hot, cold = records * found.hot / 1e9, records * found.cold / 1e9
    requests = 2 * records / TILE_WIDTH
    print(f"\nA year at {CALLS_A_SECOND:,} calls/s: {records / 1e9:,.1f} billion records")
    print(f"{'in the database':<34}{hot:>10,.0f} GB  ${hot * DISK:>8,.0f} a month at its end")
    print(f"{'in cold storage':<34}{cold:>10,.0f} GB  ${cold * STANDARD:>8,.0f}")
    print(f"{'the same, rarely read':<34}{cold:>10,.0f} GB  ${cold * INFREQUENT:>8,.0f}")
    print(f"{'objects written, and read back':<34}{requests / 1e6:>10,.0f} M   ", end="")
    print(f"${requests * (PUT + GET):>8,.0f} a year")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cold").mkdir()
        store = ColdStore(Folder(folder / "cold"))
        with a_state(folder / "data", cold=store) as world:
            told(asyncio.run(measure(world, store, given.calls)))


if __name__ == "__main__":
    main()

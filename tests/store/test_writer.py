"""The one writing thread: shared commits, separate fates, and what follows a transaction."""

import asyncio
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from gateway.store.database import reading_engine, writing_engine
from gateway.store.writer import MAX_GROUP, Writer, WriterStopped

pytestmark = pytest.mark.anyio

POISON = -1


@dataclass
class Notebook:
    """A participant that keeps, as the log does, what is durable apart from what is pending."""

    durable: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def begin(self, connection: Connection) -> None:
        self.calls.append("begin")
        self.pending = []

    def mark(self) -> object:
        return len(self.pending)

    def rewind(self, mark: object) -> None:
        assert isinstance(mark, int)
        self.calls.append("rewind")
        del self.pending[mark:]

    def committed(self, connection: Connection) -> None:
        self.calls.append("committed")
        self.durable += self.pending

    def rolled_back(self) -> None:
        self.calls.append("rolled_back")
        self.pending = []


class Desk:
    """A writer on a table of numbers, its thread held back until `start`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = writing_engine(path)
        with self.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
        self.notebook = Notebook()
        self.writer = Writer(self.engine, [self.notebook])
        self.commits = 0
        self.groups: list[int] = []
        event.listen(self.engine, "commit", self._count)

    def _count(self, _: Connection) -> None:
        self.commits += 1

    def insert(self, connection: Connection, numbers: Sequence[int]) -> list[int | Exception]:
        self.groups.append(len(numbers))
        if POISON in numbers:
            raise LookupError("poison")
        connection.exec_driver_sql(
            "INSERT INTO numbers (n) VALUES (?)", [(number,) for number in numbers]
        )
        self.notebook.pending += numbers
        return [number * 2 for number in numbers]

    def numbers(self) -> list[int]:
        reader: Engine = reading_engine(self.path)
        with reader.connect() as connection:
            found = connection.exec_driver_sql("SELECT n FROM numbers").scalars().all()
        reader.dispose()
        return list(found)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "numbers.db")
    yield desk
    desk.writer.close()


async def test_whatever_waits_at_the_same_moment_is_one_commit(desk: Desk) -> None:
    waiting = [desk.writer.submit(desk.insert, number) for number in range(200)]
    desk.writer.start()
    assert [await future for future in waiting] == [number * 2 for number in range(200)]
    assert (desk.commits, desk.groups) == (1, [200])
    assert desk.numbers() == desk.notebook.durable == list(range(200))


async def test_all_that_one_turn_of_the_loop_brings_to_an_idle_writer_is_one_commit(
    desk: Desk,
) -> None:
    desk.writer.start()

    async def one(number: int) -> int:
        future = desk.writer.submit(desk.insert, number)
        time.sleep(0.002)  # noqa: ASYNC251 - the writing thread could begin now, had it been woken
        return int(await future)

    assert await asyncio.gather(*(one(n) for n in range(9))) == [n * 2 for n in range(9)]
    assert (desk.commits, desk.groups) == (1, [9])


async def test_a_group_has_a_largest_size(desk: Desk) -> None:
    waiting = [desk.writer.submit(desk.insert, number) for number in range(MAX_GROUP + 3)]
    desk.writer.start()
    for future in waiting:
        await future
    assert desk.groups == [MAX_GROUP, 3]


async def test_items_that_come_while_a_commit_is_slow_share_the_next_one(desk: Desk) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(_: Connection) -> None:
        reached.set()
        go_on.wait()

    event.listen(desk.engine, "commit", slow, once=True)
    desk.writer.start()
    first = desk.writer.submit(desk.insert, 1)
    await anyio.to_thread.run_sync(reached.wait)
    others = [desk.writer.submit(desk.insert, number) for number in (2, 3, 4)]
    assert not first.done()
    go_on.set()
    assert [await future for future in (first, *others)] == [2, 4, 6, 8]
    assert desk.groups == [1, 3]


async def test_a_poisonous_item_among_200_fails_alone(desk: Desk) -> None:
    items = [*range(120), POISON, *range(120, 199)]
    waiting = [desk.writer.submit(desk.insert, item) for item in items]
    desk.writer.start()
    for item, future in zip(items, waiting, strict=True):
        if item == POISON:
            with pytest.raises(LookupError, match="poison"):
                await future
        else:
            assert await future == item * 2
    assert desk.numbers() == desk.notebook.durable == list(range(199))


async def test_an_answer_that_is_an_exception_reaches_its_own_item_only(desk: Desk) -> None:
    def odd_ones(_: Connection, numbers: Sequence[int]) -> list[int | Exception]:
        return [LookupError("odd") if number % 2 else number for number in numbers]

    waiting = [desk.writer.submit(odd_ones, number) for number in range(4)]
    desk.writer.start()
    assert [await waiting[0], await waiting[2]] == [0, 2]
    for future in (waiting[1], waiting[3]):
        with pytest.raises(LookupError, match="odd"):
            await future
    assert desk.commits == 1


async def test_a_change_that_fails_undoes_itself_and_nothing_else(desk: Desk) -> None:
    def fails(connection: Connection) -> None:
        desk.insert(connection, [7])
        raise LookupError("on second thoughts")

    def stays(connection: Connection) -> None:
        desk.insert(connection, [8])

    item = desk.writer.submit(desk.insert, 9)
    failing, staying = desk.writer.change(fails), desk.writer.change(stays)
    desk.writer.start()
    with pytest.raises(LookupError):
        await failing
    await staying
    await item
    assert desk.numbers() == desk.notebook.durable == [8, 9]
    assert (desk.commits, desk.notebook.calls) == (1, ["begin", "rewind", "committed"])


async def test_participants_hear_of_a_rollback(desk: Desk) -> None:
    waiting = desk.writer.submit(desk.insert, POISON)
    desk.writer.start()
    with pytest.raises(LookupError):
        await waiting
    assert desk.notebook.calls == ["begin", "rolled_back"]
    assert desk.writer.failing
    assert await desk.writer.submit(desk.insert, 1) == 2
    assert not desk.writer.failing


async def test_a_participant_that_cannot_follow_a_commit_has_nothing_written_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: Connection) -> None:
        raise LookupError("a row that cannot be read")

    monkeypatch.setattr(desk.notebook, "committed", cannot)
    waiting = [desk.writer.submit(desk.insert, number) for number in (1, 2, 3)]
    desk.writer.start()
    assert [await future for future in waiting] == [2, 4, 6]
    assert desk.numbers() == [1, 2, 3]
    assert desk.writer.failing


async def test_a_failing_commit_is_a_failure_and_the_next_one_works(desk: Desk) -> None:
    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    event.listen(desk.engine, "commit", refuse, once=True)
    waiting = desk.writer.submit(desk.insert, 1)
    desk.writer.start()
    with pytest.raises(OSError, match="no space"):
        await waiting
    assert await desk.writer.submit(desk.insert, 2) == 4
    assert desk.numbers() == desk.notebook.durable == [2]


async def test_a_full_database_refuses_and_recovers(desk: Desk) -> None:
    blob = "INSERT INTO numbers (n) VALUES (zeroblob(40000))"

    def at_most(pages: int) -> None:
        desk.writer.change_now(
            lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar()
        )

    def much(connection: Connection) -> None:
        connection.exec_driver_sql(blob)

    desk.writer.start()
    await anyio.to_thread.run_sync(at_most, 4)
    with pytest.raises(OperationalError, match="full"):
        await desk.writer.change(much)
    assert await desk.writer.submit(desk.insert, 1) == 2
    await anyio.to_thread.run_sync(at_most, 1 << 20)
    await desk.writer.change(much)
    assert len(desk.numbers()) == 2


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from tests.store.test_writer import Desk

async def main(desk):
    desk.writer.start()
    await desk.writer.submit(desk.insert, 1)
    wal = desk.path.with_name(desk.path.name + "-wal").stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 100, hard))
    group = [desk.writer.submit(desk.insert, n) for n in (2, 3, 4)]
    faults = await asyncio.gather(*group, return_exceptions=True)
    assert all(isinstance(fault, Exception) for fault in faults), faults
    assert desk.writer.failing
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert await desk.writer.submit(desk.insert, 5) == 10
    assert not desk.writer.failing
    assert desk.numbers() == desk.notebook.durable == [1, 5], desk.numbers()

desk = Desk(Path(sys.argv[1]))
asyncio.run(main(desk))
desk.writer.close()
"""


def test_a_disk_that_fails_at_the_commit_refuses_and_recovers(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow: the write-ahead log cannot be written."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "numbers.db")],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert child.returncode == 0, child.stderr


async def test_whoever_was_cancelled_does_not_trouble_the_others(desk: Desk) -> None:
    waiting = [desk.writer.submit(desk.insert, number) for number in (1, 2, 3)]
    waiting[1].cancel()
    desk.writer.start()
    assert [await waiting[0], await waiting[2]] == [2, 6]
    assert desk.numbers() == [1, 2, 3]  # what is durable stays durable


async def test_what_nobody_waits_for_goes_with_what_somebody_does(desk: Desk) -> None:
    desk.writer.start()
    patient = desk.writer.submit_patiently(desk.insert, 1)
    assert await desk.writer.submit(desk.insert, 2) == 4
    assert await patient == 2
    assert (desk.commits, desk.groups) == (1, [2])


async def test_what_nobody_waits_for_is_written_soon_all_the_same(desk: Desk) -> None:
    desk.writer.start()
    for number in (1, 2, 3):  # again and again: each has its own patience
        assert await desk.writer.submit_patiently(desk.insert, number) == number * 2
    assert desk.numbers() == [1, 2, 3]


async def test_closing_writes_what_nobody_waits_for(desk: Desk) -> None:
    desk.writer.start()
    patient = desk.writer.submit_patiently(desk.insert, 1)
    desk.writer.close()
    assert await patient == 2


async def test_closing_writes_what_is_queued_and_takes_nothing_more(desk: Desk) -> None:
    waiting = [desk.writer.submit(desk.insert, number) for number in (1, 2, 3)]
    desk.writer.start()
    await anyio.to_thread.run_sync(desk.writer.close)
    assert [await future for future in waiting] == [2, 4, 6]
    with pytest.raises(WriterStopped):
        desk.writer.submit(desk.insert, 4)
    assert desk.numbers() == [1, 2, 3]


async def test_what_is_queued_at_a_writer_that_never_ran_is_told_so_when_it_closes(
    desk: Desk,
) -> None:
    waiting = desk.writer.submit(desk.insert, 1)
    desk.writer.close()
    with pytest.raises(WriterStopped):
        await waiting


def test_a_loop_that_ended_does_not_take_the_writer_with_it(desk: Desk) -> None:
    async def ask_and_leave() -> None:
        desk.writer.submit(desk.insert, 1)

    anyio.run(ask_and_leave)
    desk.writer.start()
    assert desk.writer.change_now(lambda c: desk.insert(c, [2])) == [4]
    assert sorted(desk.numbers()) == [1, 2]


def test_threads_without_a_loop_may_change_things_too(desk: Desk) -> None:
    desk.writer.start()
    assert desk.writer.change_now(lambda c: desk.insert(c, [1])) == [2]
    with pytest.raises(LookupError):
        desk.writer.change_now(lambda c: desk.insert(c, [POISON]))

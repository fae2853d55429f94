"""A disk that is full: with a file system of its own for root, else by a limit of the process."""

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from gateway.database_place import DATABASE
from tests.end_to_end.demonstration import need_opa
from tests.faults.line import PASSED, Line, check, prepare
from tests.faults.table import shows
from tests.faults.upstream import an_upstream
from tests.gateway_process import GatewayProcess, a_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

MACHINE = "The machine"
UNWRITABLE = "-31010 trace_unavailable"


@contextmanager
def a_small_disk(at: Path) -> Iterator[bool]:
    """Mount one of 64 MiB where that is allowed; whether it was."""
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(at)]
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = mounted and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def full(disk: Path, mounted: bool, gateway: GatewayProcess) -> Iterator[None]:
    """For as long as the block runs no file of the gateway's can grow."""
    filler = disk / "filler"
    before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    if mounted:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    else:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        if mounted:
            filler.unlink()
        else:
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)


def open_calls(data_dir: Path) -> int:
    """How many have no outcome yet, as a look from outside has it."""
    with closing(sqlite3.connect(f"file:{data_dir / DATABASE}?mode=ro", uri=True)) as database:
        [[count]] = database.execute("SELECT COUNT(*) FROM open_calls")
    return int(count)


@shows(
    *(MACHINE, "has a full disk, or one that cannot be written"),
    *("−31010 `trace_unavailable`: nothing is sent", "nothing: it cannot be written"),
    "room is made; outcomes that waited are written then",
)
@pytest.mark.sqlite("its files are what is full or read-only")
async def test_a_full_disk_refuses_everything_and_is_forgotten_when_there_is_room(
    tmp_path: Path,
) -> None:
    need_opa()
    disk = tmp_path / "disk"
    async with an_upstream() as upstream:
        with a_small_disk(disk) as mounted:
            data_dir = disk / "data"
            budget = prepare(data_dir, upstream.url)
            log = tmp_path / "log"
            async with a_gateway(data_dir, log=log) as gateway, Line(gateway) as line:
                await line.until()
                hanging = asyncio.create_task(line.call("hang"))
                while not upstream.seen[-1].startswith("hang"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                with full(disk, mounted, gateway):
                    await line.until(UNWRITABLE)
                    seen = len(upstream.seen)
                    said = await asyncio.gather(*(line.call() for _ in range(16)))
                    assert set(said) == {UNWRITABLE}
                    assert len(upstream.seen) == seen
                    upstream.release.set()
                    # It had been sent: its answer is its caller's, though its outcome must wait.
                    assert await hanging == PASSED
                await line.until()
                while open_calls(data_dir):  # noqa: ASYNC110 - another process writes them
                    await asyncio.sleep(0.1)
                await gateway.end()
            fates = check(data_dir, upstream.seen, budget)
    assert {fate for name, fate in fates.items() if name.startswith("hang")} == {"answered"}


@shows(
    *(MACHINE, "has a data directory that becomes read-only while the gateway runs"),
    *("−31010 `trace_unavailable`: nothing is sent", "nothing: it cannot be written"),
    "it is made writable again; outcomes that waited are written then",
)
@pytest.mark.sqlite("its files are what is full or read-only")
async def test_a_database_that_becomes_read_only_refuses_everything_until_it_is_not(
    tmp_path: Path,
) -> None:
    need_opa()
    read_only = tmp_path / "read-only"
    async with an_upstream() as upstream:
        data_dir = tmp_path / "data"
        budget = prepare(data_dir, upstream.url)
        options = ("--read-only", str(read_only))
        async with a_gateway(data_dir, *options) as gateway, Line(gateway) as line:
            await line.until()
            before = gateway.memory()
            hanging = asyncio.create_task(line.call("hang"))
            while not upstream.seen[-1].startswith("hang"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            read_only.touch()
            await line.until(UNWRITABLE)
            seen = len(upstream.seen)
            said = await asyncio.gather(*(line.call() for _ in range(64)))
            assert set(said) == {UNWRITABLE}
            assert len(upstream.seen) == seen
            upstream.release.set()
            assert await hanging == PASSED
            read_only.unlink()
            await line.until()
            while open_calls(data_dir):  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.1)
            assert gateway.memory() - before < 64 * 1024**2
            await gateway.end()
        check(data_dir, upstream.seen, budget)


def _make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@shows(
    *(MACHINE, "has a data directory that is read-only when the gateway starts"),
    *("nobody answers", "nothing", "the fault is said, with the file; start it again"),
)
async def test_a_read_only_disk_is_said_at_the_start(tmp_path: Path) -> None:
    need_opa()
    disk = tmp_path / "disk"
    with a_small_disk(disk) as mounted:
        if not mounted:
            pytest.skip("a file system can only be mounted by root")
        prepare(disk / "data", "http://127.0.0.1:9/mcp")
        _make_read_only(disk)
        with pytest.raises(AssertionError, match=r"(?i)read-?only"):
            async with a_gateway(disk / "data", log=tmp_path / "log"):
                pass

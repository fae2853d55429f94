"""PostgreSQL stopped, killed and locked under the gateway, which goes on by itself afterwards."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio.to_thread
import httpx
import psycopg
import pytest
from sqlalchemy import insert

from gateway.database_place import PostgresUrl
from gateway.registry.keys import digest
from gateway.store import tables
from tests.builders import a_state
from tests.end_to_end.demonstration import descendants, need_opa
from tests.faults.line import PASSED, Line, check, prepare
from tests.faults.table import shows
from tests.faults.upstream import an_upstream
from tests.gateway_process import a_gateway
from tests.postgresql import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

CALLERS = 8
POSTGRESQL = "PostgreSQL"
AWAY = {
    *("-31010 trace_unavailable", "-31010 not_forwarded", "-31010 stop_unreadable"),
    "-31010 internal",
}
"""All that a caller may be told while it is away: nothing was sent, and it may be asked again."""


@contextmanager
def a_server() -> Iterator[Server]:
    """One of these tests' own, since they kill it."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


def kill(server: Server) -> None:
    """-9 for all of it at once, as when a machine goes."""
    head = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    for pid in [head, *descendants(head)]:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """As a machine whose processor is taken away: its sockets stay open, and nothing answers."""
    head = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    pids = [head, *descendants(head)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


ADMIN = {"Authorization": "Bearer gwa_" + "a" * 43}


def add_admin(data_dir: Path, place: PostgresUrl) -> None:
    secret = ADMIN["Authorization"].removeprefix("Bearer ")
    with a_state(data_dir, place) as world:
        row = world.rows("SELECT created_at FROM keys")[0][0]
        key = {
            **{"id": "key_admin", "secret_sha256": digest(secret), "role": "admin"},
            **{"name": "admin", "owner": "olga", "may_assert": [], "state": "ACTIVE"},
            **{"created_by": "olga", "project_id": "prj_1", "created_at": row},
        }
        world.change(lambda c: c.execute(insert(tables.keys), [key]))


def start(server: Server) -> None:
    """What was killed left its locks; its process ids may be zombies', where nobody buries them."""
    for name in ("data/postmaster.pid", ".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
        (server.folder / name).unlink(missing_ok=True)
    server.start()


@asynccontextmanager
async def load(line: Line) -> AsyncIterator[None]:
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            await line.call()
            await asyncio.sleep(0.01)

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*callers)


async def refused(line: Line) -> None:
    """Wait until somebody is told that it is away."""
    told = len(line.told)
    while not AWAY & set(list(line.told.values())[told:]):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@asynccontextmanager
async def locked(server: Server, url: str) -> AsyncIterator[None]:
    """For as long as the block runs, nobody writes what every admission writes."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("LOCK TABLE open_calls IN ACCESS EXCLUSIVE MODE")
        yield


@shows(
    *(POSTGRESQL, "is stopped, and started again"),
    *("−31010: nothing is sent", "nothing while it is away", "the gateway finds it again"),
)
@shows(
    *(POSTGRESQL, "is killed under load, all of it at once"),
    "−31010: a call whose commit nobody knows of is not sent",
    *("`not_forwarded` for such calls", "the server is started; the gateway finds it again"),
)
@shows(
    *(POSTGRESQL, "has a table that somebody locks, for long"),
    "slow answers; after 10 s −31010 `trace_unavailable`: nothing is sent",
    *("nothing", "the lock ends"),
)
async def test_postgresql_may_stop_die_or_be_locked_and_the_gateway_goes_on(
    tmp_path: Path,
) -> None:
    need_opa()
    with a_server() as server, server.database() as url:
        place = PostgresUrl(url)
        settings = {"GATEWAY_DATABASE_URL": url}
        async with an_upstream() as upstream:
            budget = prepare(tmp_path / "data", upstream.url, place)
            async with (
                a_gateway(tmp_path / "data", settings=settings) as gateway,
                Line(gateway) as line,
            ):
                await line.until()
                before = gateway.memory()
                for how in ("fast", "killed"):
                    async with load(line):
                        if how == "killed":
                            kill(server)
                        else:
                            await anyio.to_thread.run_sync(server.stop, how)
                        await refused(line)
                    seen = len(upstream.seen)
                    assert await line.call() in AWAY
                    assert len(upstream.seen) == seen
                    await anyio.to_thread.run_sync(start, server)
                    await line.until()
                async with load(line), locked(server, url):
                    await refused(line)
                await line.until()
                assert set(line.told.values()) <= {PASSED, *AWAY}
                assert gateway.memory() - before < 64 * 1024**2
                await gateway.end()
            check(tmp_path / "data", upstream.seen, budget, place)


@shows(
    *(POSTGRESQL, "is frozen: its sockets are open, and nothing answers"),
    "−31010, and 503 from the API, after some 12 s: nothing is sent",
    *("nothing while it is frozen", "the server goes on; the gateway finds it again"),
)
async def test_nobody_waits_for_ever_for_a_frozen_server(tmp_path: Path) -> None:
    need_opa()
    with a_server() as server, server.database() as url:
        place = PostgresUrl(url)
        settings = {"GATEWAY_DATABASE_URL": url}
        async with an_upstream() as upstream:
            budget = prepare(tmp_path / "data", upstream.url, place)
            add_admin(tmp_path / "data", place)
            async with (
                a_gateway(tmp_path / "data", settings=settings) as gateway,
                Line(gateway) as line,
                httpx.AsyncClient(
                    base_url=f"{gateway.base_url}/api/v1", headers=ADMIN, timeout=60
                ) as admin,
            ):
                await line.until()
                seen = len(upstream.seen)
                with frozen(server):
                    stop = {"scope": "all", "reason": "frozen"}
                    told = await asyncio.gather(
                        line.call(),
                        admin.post("/mcp/emergency-stop", json=stop),
                        admin.get("/agents"),
                        admin.get("/traces"),
                    )
                    assert told[0] in AWAY
                    assert [answer.status_code for answer in told[1:]] == [503, 503, 503]
                    assert await line.call() in AWAY
                    assert len(upstream.seen) == seen
                await line.until()
                await gateway.end()
            check(tmp_path / "data", upstream.seen, budget, place)

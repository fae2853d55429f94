"""Three gateways behind nginx, called by the SDK's clients while one is killed, or all replaced."""

import asyncio
import os
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from gateway.store import migrations
from tests.end_to_end.demonstration import need_opa
from tests.end_to_end.nginx import Nginx, free_port, listens, nginx_before, settings_behind
from tests.end_to_end.recording_tool import recording_tool
from tests.end_to_end.two_served import SECONDS, Deployment, Served, a_message, until
from tests.gateway_process import GatewayProcess
from tests.postgresql import a_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

MODES = ("legacy", "2026-07-28")
GATEWAYS = ("one", "two", "three")
CALLERS = 6
STREAMS = 6
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("newer", sa.Column("id", sa.String(), primary_key=True))
    for table in ("trace", "open_calls", "keys", "log_slots", "budget_windows", "payloads"):
        op.add_column(table, sa.Column("newer", sa.String(), nullable=True))
    op.create_index("ix_trace_newer", "trace", ["newer"])
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Behind:
    """Gateways on ports of their own, each a stack that ends it."""

    deployment: Deployment
    nginx: Nginx
    ports: dict[str, int]
    processes: dict[str, GatewayProcess] = field(default_factory=dict)
    _stacks: dict[str, AsyncExitStack] = field(default_factory=dict)

    @property
    def proxy(self) -> str:
        return f"{self.nginx.url}/api/v1/mcp/proxy/{self.deployment.server_id}"

    async def start(self, name: str, *options: str) -> None:
        stack = self._stacks[name] = AsyncExitStack()
        patient = ("--drain-seconds", str(SECONDS))
        running = self.deployment.running(name, self.ports[name], *patient, *options)
        self.processes[name] = await stack.enter_async_context(running)

    async def kill(self, name: str) -> None:
        os.kill(self.processes[name].pid, signal.SIGKILL)
        await self.close(name)

    async def close(self, name: str) -> None:
        await self._stacks.pop(name).aclose()

    async def close_all(self) -> None:
        for name in list(self._stacks):
            await self.close(name)

    async def has_calls(self, name: str) -> None:
        """Until nginx gives calls to one that was gone."""
        at = f"127.0.0.1:{self.ports[name]}"
        before = len(self.nginx.log())

        async def some() -> bool:
            return any(line.endswith(f" {at}") for line in self.nginx.log()[before:])

        await until(some)


@pytest.fixture(scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Behind]:
    need_opa()
    folder = tmp_path_factory.mktemp("behind")
    port, ports = free_port(), {name: free_port() for name in GATEWAYS}
    with a_database() as place:
        async with recording_tool() as tool:
            made = Deployment(folder, place, tool, more=settings_behind(port))
            await asyncio.to_thread(made.make)
            async with nginx_before(folder / "nginx", list(ports.values()), port) as nginx:
                all_of_them = Behind(made, nginx, ports)
                try:
                    for name in ports:
                        await all_of_them.start(name)
                    async with made.at(nginx.url, nginx.context) as over:
                        await made.register(over)
                        await until(lambda: _known(over))
                    yield all_of_them
                finally:
                    await all_of_them.close_all()


async def _known(over: Served) -> bool:
    """At each, which nginx asks in turn."""
    answers = [await over.post(a_message("ping")) for _ in GATEWAYS]
    return all(answer.status_code not in (401, 404) for answer in answers)


@asynccontextmanager
async def connected(behind: Behind, mode: str, trusting: ssl.SSLContext) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {behind.deployment.keys['project']}"}
    async with (
        httpx2.AsyncClient(
            headers=headers, timeout=SECONDS, trust_env=False, verify=trusting
        ) as http,
        Client(streamable_http_client(behind.proxy, http_client=http), mode=mode) as client,
    ):
        yield client


@dataclass
class Load:
    """Callers that call one after the other, and go on after a failure."""

    behind: Behind
    prefix: str
    begun: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    failed: dict[str, MCPError] = field(default_factory=dict)
    _over: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        for number in range(CALLERS):
            mode = MODES[number % len(MODES)]
            self._tasks.append(asyncio.create_task(self._call(f"{self.prefix} {number}", mode)))
        await self.more()

    async def _call(self, caller: str, mode: str) -> None:
        async with connected(self.behind, mode, self.behind.nginx.context) as client:
            number = 0
            while not self._over:
                number += 1
                name = f"{caller} {number}"
                self.begun.append(name)
                try:
                    result = await client.call_tool("read", {"object": name})
                except MCPError as error:
                    self.failed[name] = error
                else:
                    assert not result.is_error
                    self.answered.append(name)

    async def more(self) -> None:
        """Until every caller has had some answers from now on."""
        before = len(self.answered)

        async def had_some() -> bool:
            for task in self._tasks:
                assert not task.done(), task.exception()
            had = Counter(name.split()[1] for name in self.answered[before:])
            return len(had) == CALLERS and min(had.values()) >= 3

        await until(had_some)

    async def end(self) -> None:
        self._over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), SECONDS)


@dataclass
class Streams:
    """Calls that have begun to stream and wait for their tool, each of a client of its own."""

    behind: Behind
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _calls: list[asyncio.Task[Any]] = field(default_factory=list)

    async def start(self) -> None:
        tool = self.behind.deployment.tool
        tool.release.clear()
        context = self.behind.nginx.context
        clients = [
            await self._stack.enter_async_context(connected(self.behind, MODES[1], context))
            for _ in range(STREAMS)
        ]
        for number, client in enumerate(clients):
            call = client.call_tool("held", {"object": f"stream {number}"})
            self._calls.append(asyncio.create_task(call))
            await asyncio.wait_for(tool.begun.get(), SECONDS)

    async def end(self) -> list[Any]:
        """Their results, or what they raised."""
        self.behind.deployment.tool.release.set()
        waiting = asyncio.gather(*self._calls, return_exceptions=True)
        ended = await asyncio.wait_for(waiting, SECONDS)
        await self._stack.aclose()
        return ended


async def settled(behind: Behind) -> None:
    """Until no call is open any more, nor one that was killed has left any."""

    async def none_open() -> bool:
        with psycopg.connect(behind.deployment.place) as connection:
            return connection.execute("SELECT count(*) FROM open_calls").fetchone() == (0,)

    await until(none_open)


async def test_one_that_is_killed_costs_its_own_callers_one_clear_failure(behind: Behind) -> None:
    tool = behind.deployment.tool
    streams, load = Streams(behind), Load(behind, "killed")
    await streams.start()
    await load.start()
    await behind.kill("one")
    await load.more()
    before = len(load.begun)
    await load.more()
    await load.end()
    ended = await streams.end()

    # Of each caller at most the call that was under way, or on its way to who was just gone.
    assert set(load.failed).isdisjoint(load.begun[before:])
    assert len(load.failed) <= 2 * CALLERS
    assert {error.error.code for error in load.failed.values()} <= {-31010, -32603, -32000}
    assert sorted([*load.failed, *load.answered]) == sorted(load.begun)
    seen = Counter(tool.seen)
    assert [name for name, times in seen.items() if times > 1] == []
    assert set(load.answered) <= set(seen)
    # nginx takes them in turn: most of the streams were with the others, and went on.
    lived = [one for one in ended if not isinstance(one, BaseException)]
    assert len(lived) == STREAMS - STREAMS // len(GATEWAYS)
    assert all(isinstance(one, MCPError) for one in ended if one not in lived), ended

    await behind.start("one")
    await settled(behind)
    again = Load(behind, "back")
    await again.start()
    await behind.has_calls("one")
    await again.end()
    assert again.failed == {}


async def test_a_newer_version_replaces_all_and_no_call_is_lost_or_made_twice(
    behind: Behind, tmp_path: Path
) -> None:
    tool = behind.deployment.tool
    script = tmp_path / "9000_be_newer.py"
    script.write_text(MIGRATION.format(newest=migrations.newest()))
    load = Load(behind, "rolled")
    await load.start()
    for name in behind.ports:
        streams = Streams(behind)
        await streams.start()
        leaving = behind.processes[name]
        ending = asyncio.create_task(leaving.end())

        async def gone(port: int = behind.ports[name]) -> bool:
            return not await listens(port)

        await until(gone)
        await load.more()
        assert not any(isinstance(one, BaseException) for one in await streams.end())
        await ending
        assert leaving.process.returncode == 0
        await behind.close(name)
        # Those that are left of the version before go on in the newer database.
        await behind.start(name, "--migration", str(script))
        await behind.has_calls(name)
    await load.end()
    assert load.failed == {}
    assert Counter(name for name in tool.seen if name.startswith("rolled")) == Counter(load.begun)
    await settled(behind)

"""Two `gateway serve` on one PostgreSQL, of which one is killed under load."""

import asyncio
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from gateway.database_place import PostgresUrl
from gateway.registry import keys
from gateway.registry.core import Actor
from gateway.registry.keys import NewKey
from gateway.trace.recheck import recheck
from gateway.values import ProjectId, Role
from tests.builders import SECRET, World, a_body, a_state
from tests.end_to_end.demonstration import environment, need_opa
from tests.end_to_end.slow_tool import SlowTool, slow_tool
from tests.end_to_end.test_sigkill import ROOT, SERVE, Load, inputs
from tests.postgresql import a_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SECONDS = 120
CALLERS = 6
BY = Actor(ProjectId("prj_1"), "usr_olga", "olga", Role.ADMIN)
AGENTS = {
    "Authorization": f"Bearer {SECRET}",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}


@dataclass
class Served:
    """One of the two."""

    folder: Path
    database: PostgresUrl
    admin: str
    process: asyncio.subprocess.Process | None = None
    url: str = ""

    @property
    def proxy(self) -> str:
        return f"{self.url}/api/v1/mcp/proxy/srv_1"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVE, str(self.folder)),
            cwd=ROOT,
            env={**environment(), "GATEWAY_DATABASE_URL": str(self.database)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), SECONDS)
        self.url = line.decode().strip()
        assert self.url, "the gateway did not start; its log says why"

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, how)
            await asyncio.wait_for(self.process.wait(), SECONDS)

    async def call(self, name: str) -> int | None:
        """The error's code; None for a call that passed."""
        async with httpx.AsyncClient(headers=AGENTS, timeout=SECONDS, trust_env=False) as agent:
            answer = await agent.post(self.proxy, content=a_body(arguments={"object": name}))
        said = [line for line in answer.text.splitlines() if "jsonrpc" in line]
        message: dict[str, Any] = orjson.loads(said[-1].removeprefix("data:"))
        return message["error"]["code"] if "error" in message else None

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.admin}"}
        async with httpx.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False) as person:
            return await person.request(method, f"{self.url}/api/v1{path}", json=body)

    async def told(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self.ask(method, path, body)
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json() if answer.content else {}
        return made


@dataclass
class Pair:
    one: Served
    two: Served
    database: PostgresUrl
    tool: SlowTool

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(SECONDS):
            while not await condition():  # noqa: ASYNC110 - of another process, which sets no event
                await asyncio.sleep(0.1)


@asynccontextmanager
async def a_pair(folder: Path) -> AsyncIterator[Pair]:
    need_opa()
    async with AsyncExitStack() as stack:
        database = stack.enter_context(a_database())
        tool = await stack.enter_async_context(slow_tool())
        tool.release.set()
        with a_state(folder / "one", database) as world:
            world.set("servers", "srv_1", server_url=tool.url)
            new = NewKey(role="admin", name="the admin's", owner="olga")
            _, admin = await world.state.registry.change(BY, partial(keys.create, new=new))
        shutil.copytree(folder / "one" / "keys", folder / "two" / "keys")
        pair = [Served(folder / name, database, admin) for name in ("one", "two")]
        for served in pair:
            stack.push_async_callback(served.end, signal.SIGKILL)
            await served.start()
        yield Pair(pair[0], pair[1], database, tool)


async def test_one_that_is_killed_under_load_leaves_nothing_open(tmp_path: Path) -> None:
    loads = [Load(), Load()]
    loads[1].number = 10**6
    async with a_pair(tmp_path) as pair:
        callers = [
            asyncio.create_task(load.call(served.proxy))
            for load, served in zip(loads, (pair.one, pair.two), strict=True)
            for _ in range(CALLERS)
        ]
        async with asyncio.timeout(SECONDS):
            for load in loads:
                await load.flowing.wait()
        await pair.one.end(signal.SIGKILL)
        await asyncio.gather(*callers[:CALLERS])
        before = loads[1].number
        async with asyncio.timeout(SECONDS):
            while loads[1].number < before + 20:  # noqa: ASYNC110 - the load sets no event
                await asyncio.sleep(0.1)

        async def taken_over() -> bool:
            with psycopg.connect(pair.database) as connection:
                asked = "SELECT count(*) FROM trace WHERE kind = 'takeover'"
                return connection.execute(asked).fetchone() != (0,)

        await pair.until(taken_over)
        await pair.one.start()
        assert await pair.one.call("again") is None
        evidence = await pair.one.ask("POST", "/evidence", {"leaves": True})
        latest = await pair.two.told("GET", "/checkpoints/latest")
        await pair.two.end()
        await asyncio.gather(*callers)
        await pair.one.end()
        seen = [pair.tool.begun.get_nowait() for _ in range(pair.tool.begun.qsize())]
        (tmp_path / "evidence.zip").write_bytes(evidence.content)
        await verifies(tmp_path / "evidence.zip", latest["verifier_key"])
        assert [load.refused for load in loads] == [[], []]
        with a_state(tmp_path / "one", pair.database) as world:
            check(world, seen, {**loads[0].answered, **loads[1].answered})


async def verifies(bundle: Path, key: str) -> None:
    words = (sys.executable, "-m", "gateway", "verify", str(bundle), "--trust-key", key)
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, said.decode()


def check(world: World, seen: list[str], answered: dict[str, str]) -> None:
    with world.state.reader.connect() as connection, connection.begin():
        found = recheck(connection, None, lambda *_: None)
    assert {one.status for one in found} == {"PASS"}, found
    decided = inputs(world)
    decisions = {r["id"] for r in world.records(kind="decision") if r["effect"] == "forward"}
    outcomes = world.records(kind="outcome")
    names = {decided[call_id]: call_id for call_id in decisions}
    called = Counter(name for name in seen if name.startswith("call-"))
    assert max(called.values()) == 1  # what is sent is sent once
    assert called.keys() <= names.keys()
    assert answered.items() <= {(call_id, decided[call_id]) for call_id in decisions}
    assert sorted(r["call"] for r in outcomes) == sorted(decisions)
    assert world.open_calls() == []

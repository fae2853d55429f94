"""A gateway that is told to end while calls and streams run: all end or are told, none is lost."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import select

from gateway.store import tables
from gateway.store.database import reading_engine
from tests.builders import SECRET, a_body, a_state
from tests.end_to_end.demonstration import environment, need_opa
from tests.end_to_end.slow_tool import SlowTool, slow_tool
from tests.end_to_end.test_sigkill import ROOT, SERVE
from tests.places import place_of

pytestmark = pytest.mark.anyio

SECONDS = 120
CALLS = 5
"""Of each kind: answered at once when they end, and streams."""


@asynccontextmanager
async def a_gateway(data_dir: Path, drain: float) -> AsyncIterator[tuple[Any, str]]:
    """One that lets calls end for so many seconds."""
    patience = f"import gateway.app\ngateway.app.DRAIN_SECONDS = {drain}\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", patience + SERVE, str(data_dir)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), SECONDS)).decode().strip()
        assert url
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def call(url: str, number: int) -> dict[str, Any]:
    """The last message of the answer."""
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    arguments = {"object": str(number), "stream": number % 2 == 0}
    async with httpx.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False) as client:
        body = a_body(arguments=arguments, rpc_id=number)
        answer = await client.post(f"{url}/api/v1/mcp/proxy/srv_1", content=body)
    lines = [line.removeprefix("data:") for line in answer.text.splitlines() if "jsonrpc" in line]
    message: dict[str, Any] = orjson.loads(lines[-1])
    return message


async def running_calls(url: str, tool: SlowTool) -> list[asyncio.Task[dict[str, Any]]]:
    calls = [asyncio.create_task(call(url, number)) for number in range(2 * CALLS)]
    async with asyncio.timeout(SECONDS):
        for _ in calls:
            await tool.begun.get()
    return calls


async def until_nobody_listens(url: str) -> None:
    port = httpx.URL(url).port
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def a_slow_server(data_dir: Path) -> AsyncIterator[SlowTool]:
    need_opa()
    async with slow_tool() as tool:
        with a_state(data_dir) as world:
            world.set("servers", "srv_1", server_url=tool.url)
        yield tool


def fates(data_dir: Path) -> list[str]:
    """Of every call that was decided, once the gateway is gone; nothing is left to settle."""
    # Looked at from outside: whoever opens the directory settles what was left open.
    engine = reading_engine(place_of(data_dir))
    with engine.connect() as connection:
        assert connection.execute(select(tables.open_calls)).all() == []
    engine.dispose()
    with a_state(data_dir) as world:
        world.check_log()
        decided = [row["id"] for row in world.records(kind="decision")]
        outcomes = {row["call"]: row["fate"] for row in world.records(kind="outcome")}
    assert sorted(outcomes) == sorted(decided)
    return list(outcomes.values())


async def test_calls_and_streams_that_run_when_it_is_told_to_end_are_answered(
    tmp_path: Path,
) -> None:
    async with a_slow_server(tmp_path) as tool, a_gateway(tmp_path, SECONDS) as (process, url):
        calls = await running_calls(url, tool)
        process.send_signal(signal.SIGTERM)
        await until_nobody_listens(url)
        tool.release.set()
        answers = await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    assert [answer["result"]["content"][0]["text"] for answer in answers] == ["done"] * 2 * CALLS
    assert fates(tmp_path) == ["answered"] * 2 * CALLS


async def test_calls_and_streams_that_do_not_end_are_told_and_on_record(tmp_path: Path) -> None:
    async with a_slow_server(tmp_path) as tool, a_gateway(tmp_path, 0.1) as (process, url):
        calls = await running_calls(url, tool)
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    assert [answer["id"] for answer in answers] == list(range(2 * CALLS))
    assert {answer["error"]["code"] for answer in answers} == {-31006}
    assert fates(tmp_path) == ["unknown"] * 2 * CALLS

"""The SDK's server over HTTP+SSE behind the gateway, and the SDK's client that notices nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.demo.instructions import Demo
from tests.end_to_end.demonstration import need_opa, running
from tests.end_to_end.test_proxy_sdk import (
    PATIENCE,
    Seen,
    World,
    connected,
    happens,
    sdk_server,
)
from tests.serving import serving

pytestmark = pytest.mark.anyio

MODES = ("auto", "legacy")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    with running(tmp_path_factory.mktemp("gateway") / "demo") as it:
        yield it.demo


class Streams:
    """Counts the event streams that are open, and wants the server's credential."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.open = 0
        self.closed = asyncio.Event()
        """Set while none is open, once one was."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        assert dict(scope["headers"])[b"authorization"] == b"Bearer a-secret-of-ours"
        stream = scope["method"] == "GET"
        self.open += stream
        if stream:
            self.closed.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self.open -= stream
            if not self.open:
                self.closed.set()


@asynccontextmanager
async def behind_the_gateway(demo: Demo, name: str) -> AsyncIterator[tuple[World, Streams]]:
    seen = Seen()
    server = sdk_server(seen)
    streams = Streams(server.sse_app())
    headers = {"Authorization": f"Bearer {demo.admin_key}"}
    async with (
        serving(streams) as port,
        httpx.AsyncClient(
            base_url=f"{demo.base_url}/api/v1", headers=headers, timeout=30, trust_env=False
        ) as admin,
    ):
        world = World(demo, server, "", seen, admin)
        body = {
            "name": name,
            "server_url": f"http://127.0.0.1:{port}/sse",
            "transport": "sse",
            "auth": {"type": "bearer", "token": "a-secret-of-ours"},
            "allow_private_network": True,
        }
        world.server_id = (await world.api("POST", "/mcp/servers", body))["id"]
        rule = {"server_id": world.server_id, "tool_pattern": "forbidden", "action": "DENY"}
        await world.api("POST", "/mcp/policies", {**rule, "reason": "A test."})
        await world.api("POST", f"/mcp/servers/{world.server_id}/scan")
        await world.api("PATCH", f"/mcp/servers/{world.server_id}", {"status": "ACTIVE"})
        yield world, streams


@pytest.mark.parametrize("mode", MODES)
async def test_a_session_lists_calls_is_refused_lives_on_and_ends(demo: Demo, mode: str) -> None:
    async with behind_the_gateway(demo, f"sse {mode}") as (world, streams):
        await happens(streams.closed)
        async with connected(world, mode) as client:
            assert client.protocol_version == "2025-11-25"
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["add", "steps", "wait", "greet"]
            with pytest.raises(MCPError) as refused:
                await client.call_tool("forbidden", {})
            answer = await client.call_tool("add", {"a": 2, "b": 40})
            assert answer.structured_content == {"total": 42}
            assert streams.open == 1
        await happens(streams.closed)
        assert refused.value.error.data["reason_code"] == "policy_denied"
        assert world.seen.calls == ["add"]
        rows = (await world.api("GET", "/traces?limit=10"))["items"]
        assert "a-secret-of-ours" not in str(rows)


async def test_progress_arrives_in_order_and_the_server_may_ask_the_client(demo: Demo) -> None:
    told: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async def answer(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with (
        behind_the_gateway(demo, "sse progress") as (world, _),
        connected(world, "legacy", elicitation_callback=answer) as client,
    ):
        done = await client.call_tool("steps", {"count": 5}, progress_callback=heard)
        assert done.is_error is False
        assert told == [(n, f"step {n}") for n in range(1, 6)]
        both = await asyncio.gather(
            client.call_tool("greet", {}), client.call_tool("add", {"a": 1, "b": 1})
        )
    assert "Hello Ada" in str(both[0].content)
    assert both[1].structured_content == {"total": 2}


async def test_an_emergency_stop_cuts_a_running_call_at_both_ends(demo: Demo) -> None:
    async with (
        behind_the_gateway(demo, "sse stop") as (world, _),
        connected(world, "legacy") as client,
    ):
        calling = asyncio.create_task(client.call_tool("wait", {}))
        await happens(world.seen.waiting)
        body = {"scope": "server", "target_id": world.server_id, "reason": "A test."}
        stop = await world.api("POST", "/mcp/emergency-stop", body)
        assert stop["cancelled_calls"] >= 1
        with pytest.raises(MCPError) as cut:
            await asyncio.wait_for(calling, PATIENCE)
        assert cut.value.error.code == -31001
        await happens(world.seen.cancelled)
        lift = f"/mcp/emergency-stop/{stop['id']}/lift"
        await world.api("POST", lift, {"reason": "The test goes on."})
        answer = await client.call_tool("add", {"a": 1, "b": 1})
        assert answer.structured_content == {"total": 2}


async def test_a_session_that_is_not_the_callers_is_answered_as_an_ended_one(demo: Demo) -> None:
    async with behind_the_gateway(demo, "sse foreign") as (world, streams):
        headers = {
            "Authorization": f"Bearer {demo.project_key}",
            "Accept": "application/json, text/event-stream",
            "Mcp-Session-Id": "c29tZWJvZHkgZWxzZSdz",
        }
        async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as agent:
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
            params = {"name": "add", "arguments": {"a": 1, "b": 1}}
            answer = await agent.post(world.url, json={**call, "params": params})
        assert answer.status_code == 404
        assert streams.open == 0
        assert world.seen.calls == []

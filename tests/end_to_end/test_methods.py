"""Policies for methods, in a gateway with real OPA, between the SDK's client and server."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import (
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from pydantic import BaseModel

from tests.builders import SECRET, a_state
from tests.end_to_end.demonstration import environment, need_opa
from tests.end_to_end.test_policy_reload import ROOT, SECONDS, SERVE
from tests.serving import serving

pytestmark = pytest.mark.anyio

HEAD = """# METADATA
# title: A test
# schemas:
#   - input: schema.method.input
package policies.method["{method}"].test

import rego.v2

# METADATA
# title: A test
findings contains {{"action": "DENY", "policy_id": "no_secrets", "reason": "a test"}} if {{
	{condition}
}}
"""


class Name(BaseModel):
    name: str


def sdk_server() -> MCPServer:
    server = MCPServer("tests", log_level="ERROR")

    @server.resource("notes://{name}")
    def note(name: str) -> str:
        """Read a note."""
        return f"the note {name}"

    @server.tool()
    async def greet(context: Context[Any, Any]) -> str:
        """Ask the person at the client for a name."""
        try:
            answer = await context.elicit("What is your secret?", Name)
        except MCPError as refused:
            return f"refused: {refused.error.code}"
        return f"Hello {answer.data.name}" if answer.action == "accept" else "Hello"

    @server.tool()
    async def ask() -> InputRequiredResult:
        """Ask in the modern era."""
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        params = ElicitRequestFormParams(message="What is your secret?", requested_schema=schema)
        return InputRequiredResult(input_requests={"name": ElicitRequest(params=params)})

    return server


@asynccontextmanager
async def a_gateway(tmp_path: Path, port: int) -> AsyncIterator[str]:
    """Serves server ``srv_1`` at this port, under the policies of ``tmp_path``; yields its URL."""
    with a_state(tmp_path / "data") as world:
        world.set("servers", "srv_1", server_url=f"http://127.0.0.1:{port}/mcp")
        world.set("projects", "prj_1", unknown_tools="allow")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE, str(tmp_path / "data"), str(tmp_path / "policies")),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), SECONDS)
        assert line, "the gateway did not start; its log says why"
        yield f"{orjson.loads(line)[0]}/api/v1/mcp/proxy/srv_1"
    finally:
        process.terminate()
        await process.wait()


def policy(tmp_path: Path, method: str, condition: str) -> None:
    folder = tmp_path / "policies" / method.replace("/", "_")
    folder.mkdir(parents=True)
    (folder / "test.rego").write_text(HEAD.format(method=method, condition=condition))


@asynccontextmanager
async def connected(url: str, mode: str, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as it,
    ):
        yield it


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_what_policy_denies_ends_there_and_the_session_lives_on(
    tmp_path: Path, mode: str
) -> None:
    need_opa()
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada"})

    policy(tmp_path, "resources/read", 'endswith(input.target.params.uri, "secret")')
    policy(tmp_path, "elicitation/create", 'contains(input.target.params.message, "secret")')
    async with (
        serving(sdk_server().streamable_http_app()) as port,
        a_gateway(tmp_path, port) as url,
        connected(url, mode, elicitation_callback=answer) as client,
    ):
        with pytest.raises(MCPError) as refused:
            await client.read_resource("notes://secret")
        assert refused.value.error.code == -31003
        assert refused.value.error.data["policy_ids"] == ["no_secrets"]
        assert "the note a" in str(await client.read_resource("notes://a"))
        if mode == "legacy":
            result = await client.call_tool("greet", {})
            assert "refused: -31003" in str(result.content)
        else:
            with pytest.raises(MCPError) as withheld:
                await client.call_tool("ask", {})
            assert withheld.value.error.code == -31009
            assert withheld.value.error.data["reason_code"] == "question_denied"
        assert "the note b" in str(await client.read_resource("notes://b"))
    assert asked == []

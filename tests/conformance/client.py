"""A client that does what the official suite's client scenarios ask of one.

Run by the suite with the URL of its mock server. With ``CONFORMANCE_GATEWAY`` set it has the mock
registered there and speaks with the proxy instead; without, it keeps the mock's definitions of
tools in the file ``CONFORMANCE_TOOLS``: a scan of the mock would be counted as the client's doing,
so what the gateway scans is a stand-in that lists the same.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitResult,
    ListRootsResult,
    TextContent,
)

from tests.conformance.authorization import by_the_client, by_the_gateway
from tests.conformance.shim import Mutation, Shim

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
LEGACY = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") < "2026"
GATEWAY = os.environ.get("CONFORMANCE_GATEWAY")
"""JSON: `base_url`, `admin_key`, `project_key`."""
TOOLS = Path(os.environ["CONFORMANCE_TOOLS"])
TOLD = os.environ.get("CONFORMANCE_TOLD")
"""The file for the error that the client ends with."""
MUTATION = Mutation(
    drop=os.environ.get("CONFORMANCE_DROP", "^$"),
    in_answer=(rb"(?m)^(id|retry):.*\r?\n", b"")
    if os.environ.get("CONFORMANCE_STRIPS_IDS")
    else None,
)


# --- what the scenarios ask for ---


async def lists(client: Client) -> None:
    await client.list_tools()


def calls(tool: str, arguments: dict[str, Any]) -> Callable[[Client], Awaitable[None]]:
    async def play(client: Client) -> None:
        await client.list_tools()
        await client.call_tool(tool, arguments)

    return play


async def several_rounds(client: Client) -> None:
    await client.list_tools()
    for tool in ("echo_state", "unrelated", "no_state", "no_result_type"):
        # The SDK refuses a result without its type, whoever sends it.
        with contextlib.suppress(ValueError):
            await client.call_tool(f"test_mrtr_{tool}", {})


async def everything_named(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, {})
    for resource in (await client.list_resources()).resources:
        await client.read_resource(str(resource.uri))
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def what_the_suite_says(client: Client) -> None:
    await client.list_tools()
    for call in CONTEXT["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def every_tool(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, dict.fromkeys(tool.input_schema["required"], "x"))


async def schema_back(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = tools["json_schema_2020_12_tool"].input_schema
    await client.call_tool("json_schema_echo", {"schema": schema})


PLAYS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "initialize": lists,
    "tools_call": calls("add_numbers", {"a": 5, "b": 3}),
    "elicitation-sep1034-client-defaults": calls("test_client_elicitation_defaults", {}),
    "sse-retry": calls("test_reconnection", {}),
    "request-metadata": lists,
    "sep-2322-client-request-state": several_rounds,
    "http-standard-headers": everything_named,
    "http-custom-headers": what_the_suite_says,
    "http-invalid-tool-headers": every_tool,
    "json-schema-ref-no-deref": lists,
    "json-schema-2020-12-preservation": schema_back,
    "auth/metadata-default": lists,
    "auth/client-credentials-basic": lists,
}


async def accept(context: Any, params: Any) -> ElicitResult:
    """As a user who agrees to what is proposed."""
    assert isinstance(params, ElicitRequestFormParams)
    asked = params.requested_schema.get("properties", {})
    content = {name: one["default"] for name, one in asked.items() if "default" in one}
    return ElicitResult(action="accept", content=content)


async def sample(context: Any, params: Any) -> CreateMessageResult:
    return CreateMessageResult(
        role="assistant", content=TextContent(type="text", text="Paris"), model="none"
    )


async def roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[])


# --- the way there ---


def keep(tools: list[Any]) -> None:
    TOOLS.write_text(json.dumps(tools))


def kept() -> Any:
    return json.loads(TOOLS.read_text())


class Keeping(httpx2.AsyncHTTPTransport):
    """Keeps the definitions that a `tools/list` is answered with, as they were sent."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if b'"tools/list"' not in request.content:
            return response
        body = await response.aread()
        lines = [line.removeprefix(b"data:") for line in body.splitlines() if b'"tools"' in line]
        if lines:
            keep(json.loads(lines[-1])["result"]["tools"])
        headers = [(n, v) for n, v in response.headers.raw if n.lower() != b"transfer-encoding"]
        return httpx2.Response(response.status_code, headers=headers, content=body)


async def stand_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request of a scan: with what the mock listed, in the modern era's words."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:")
    )
    asked = json.loads(await reader.readexactly(length))
    result: dict[str, Any] = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    if asked["method"] == "server/discover":
        result |= {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    else:
        result["tools"] = kept()
    body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    await writer.drain()
    writer.close()


@asynccontextmanager
async def through(gateway: dict[str, str], mock: str) -> AsyncIterator[tuple[str, str]]:
    """Give the URL of the proxy before the mock, and the key for it."""
    behind = Shim(mock.replace("localhost", "127.0.0.1"), None, MUTATION)
    serving = stand_in

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serving(reader, writer)

    door = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}/mcp"
    headers = {"Authorization": f"Bearer {gateway['admin_key']}"}
    try:
        async with httpx2.AsyncClient(
            base_url=gateway["base_url"], headers=headers, timeout=60, trust_env=False
        ) as admin:
            settings = {"default_action": "ALLOW"}
            (await admin.patch("/api/v1/projects/current", json=settings)).raise_for_status()
            new = {"name": SCENARIO, "server_url": url, "allow_private_network": True}
            new |= {"auth": await by_the_gateway(mock, CONTEXT)}
            answer = await admin.post("/api/v1/mcp/servers", json=new)
            assert answer.status_code == 201, answer.text
            server = f"/api/v1/mcp/servers/{answer.json()['id']}"
            (await admin.post(f"{server}/scan")).raise_for_status()
            (await admin.patch(server, json={"status": "ACTIVE"})).raise_for_status()
            serving = behind.serve
            yield (
                f"{gateway['base_url']}/api/v1/mcp/proxy/{answer.json()['id']}",
                gateway["project_key"],
            )
    finally:
        door.close()


async def speak(url: str, http: httpx2.AsyncClient) -> None:
    async with Client(
        streamable_http_client(url, http_client=http),
        mode="legacy" if LEGACY else "auto",
        elicitation_callback=accept,
        sampling_callback=sample,
        list_roots_callback=roots,
    ) as client:
        await PLAYS[SCENARIO](client)


async def main(mock: str) -> None:
    timeout = httpx2.Timeout(60)
    if GATEWAY is None:
        auth = by_the_client(mock, CONTEXT)
        async with httpx2.AsyncClient(transport=Keeping(), timeout=timeout, auth=auth) as http:
            await speak(mock, http)
        return
    async with through(json.loads(GATEWAY), mock) as (url, key):
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http:
            try:
                await speak(url, http)
            except* MCPError as refused:
                if TOLD is None:
                    raise
                tell(first(refused))


def tell(refusal: MCPError) -> None:
    assert TOLD is not None
    Path(TOLD).write_text(refusal.error.model_dump_json())


def first(group: BaseExceptionGroup[MCPError]) -> MCPError:
    found = group.exceptions[0]
    return found if isinstance(found, MCPError) else first(found)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

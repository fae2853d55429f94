"""A session of the SDK's 1.x client: URL and key in, one line of JSON with what it got out."""

import asyncio
import json
import sys
from typing import Any

from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client


async def told(session: ClientSession, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        result = await session.call_tool(name, arguments)
    except McpError as refused:
        error = refused.error
        return {"code": error.code, "message": error.message, "data": error.data}
    return {"isError": result.isError}


async def main(url: str, key: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        streamablehttp_client(url, headers=headers) as (receiving, sending, _),
        ClientSession(receiving, sending) as session,
    ):
        opened = await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        answers = [await told(session, name, arguments) for name, arguments in calls]
    said = {"version": opened.protocolVersion, "tools": tools, "answers": answers}
    print(json.dumps(said), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))

"""An MCP server that remembers the calls it saw, in the eras of sessions and of none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.serving import serving

SESSION = "the-servers-own-session"
STATE = "the-servers-own-state"
_QUESTION = {
    "method": "elicitation/create",
    "params": {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}},
}


@dataclass
class RecordingTool:
    """Its tools answer at once; `held` streams and `ask` asks first."""

    url: str = ""
    names: list[str] = field(
        default_factory=lambda: ["read", "count", "delete", "change", "held", "ask"]
    )
    descriptions: dict[str, str] = field(default_factory=dict)
    """Where they are no longer what they were."""
    seen: list[str] = field(default_factory=list)
    """Each call's `object`."""
    sessions: list[str] = field(default_factory=list)
    """Of each call that has one."""
    begun: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Until then no `held` call ends."""

    async def answer(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405)
        message = orjson.loads(await request.body())
        if "id" not in message:
            return Response(status_code=202)
        headers: dict[str, str] = {}
        match message["method"]:
            case "initialize":
                headers = {"Mcp-Session-Id": SESSION}
                result: dict[str, Any] = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "recording", "version": "1"},
                }
            case "tools/list":
                listed = [self._tool(name) for name in self.names]
                result = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
                result["tools"] = listed
            case "tools/call":
                if session := request.headers.get("mcp-session-id"):
                    self.sessions.append(session)
                if message["params"]["name"] == "held":
                    return StreamingResponse(self._held(message), media_type="text/event-stream")
                result = self._called(message["params"])
            case method:
                error = {"code": -32601, "message": method}
                return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return JSONResponse(
            {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers
        )

    def _tool(self, name: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"object": {"type": "string"}}}
        description = self.descriptions.get(name, f"Does {name}")
        return {"name": name, "description": description, "inputSchema": schema}

    def _called(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] == "ask" and params.get("requestState") != STATE:
            asks = {"inputRequests": {"sure": _QUESTION}, "requestState": STATE}
            return {"resultType": "input_required", **asks}
        self.seen.append(params["arguments"]["object"])
        return {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}

    async def _held(self, message: dict[str, Any]) -> AsyncIterator[bytes]:
        params = {"progressToken": 1, "progress": 1}
        yield _event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        result = self._called(message["params"])
        self.begun.put_nowait(message["params"]["arguments"]["object"])
        await self.release.wait()
        yield _event({"jsonrpc": "2.0", "id": message["id"], "result": result})


def _event(message: dict[str, Any]) -> bytes:
    return b"event: message\ndata: %b\n\n" % orjson.dumps(message)


@asynccontextmanager
async def recording_tool() -> AsyncIterator[RecordingTool]:
    tool = RecordingTool()
    routes = [Route("/mcp", tool.answer, methods=["GET", "POST", "DELETE"])]
    async with serving(Starlette(routes=routes)) as port:
        tool.url = f"http://127.0.0.1:{port}/mcp"
        try:
            yield tool
        finally:
            tool.release.set()

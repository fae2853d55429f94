"""An MCP server with one tool that ends when the test says so: with an answer, or a stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

TOOL = {
    "name": "report",
    "description": "Write a report",
    "inputSchema": {
        "type": "object",
        "properties": {"object": {"type": "string"}, "stream": {"type": "boolean"}},
    },
}


@dataclass
class SlowTool:
    port: int = 0
    begun: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Each call's `object` as it arrives."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Until then no call ends."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                message = orjson.loads(await reader.readexactly(_length(head)) or b"{}")
                await self._answer(message, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "initialize":
                result: dict[str, Any] = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "slow", "version": "1"},
                }
            case "tools/list":
                result = {"tools": [TOOL]}
            case "tools/call":
                await self._call(message["id"], params, writer)
                return
            case _:
                result = {}
        if "id" in message:
            _plain(writer, {"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    async def _call(
        self, rpc_id: object, params: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        arguments = params["arguments"]
        result = {"content": [{"type": "text", "text": "done"}]}
        done = {"jsonrpc": "2.0", "id": rpc_id, "result": result}
        streams = arguments.get("stream", False)
        if streams:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            progress = {"progressToken": 1, "progress": 1, "message": "begun"}
            _event(
                writer, {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}
            )
            await writer.drain()
        self.begun.put_nowait(arguments["object"])
        await self.release.wait()
        if streams:
            _event(writer, done)
            writer.write(b"0\r\n\r\n")
        else:
            _plain(writer, done)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _plain(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    body = orjson.dumps(message)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)


def _event(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    event = b"event: message\ndata: %b\n\n" % orjson.dumps(message)
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))


@asynccontextmanager
async def slow_tool() -> AsyncIterator[SlowTool]:
    """The server, on a free port; what still waits when the block ends is let go."""
    tool = SlowTool()
    server = await asyncio.start_server(tool.serve, "127.0.0.1", 0)
    tool.port = server.sockets[0].getsockname()[1]
    try:
        yield tool
    finally:
        tool.release.set()
        server.close()

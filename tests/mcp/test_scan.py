"""Scans: of the SDK's own server in each of its forms, and of servers that misbehave."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.mcp.scan import ScanFailed, ScanLimits, Walk, scan
from gateway.values import Json
from tests.mcp.builders import STREAM_HEAD, a_server, an_answer, chunk, event, upstreams
from tests.raw_server import Peer, raw_server
from tests.serving import serving

pytestmark = pytest.mark.anyio

Reply = Callable[[dict[str, Any]], bytes]


def sdk_server() -> MCPServer:
    server = MCPServer("crm", instructions="Be kind.")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def query_records(object_name: str, limit: int = 10) -> list[str]:
        """Find records."""
        return []

    @server.tool()
    def delete_record(record_id: str) -> str:
        """Delete one record."""
        return record_id

    return server


class LegacyOnly:
    """In front of the SDK's server, refuses what servers before 2026-07-28 did not know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = message["body"]
        method = orjson.loads(body).get("method", "") if body else ""
        self.seen.append(f"{scope['method']} {method}".strip())
        if method == "server/discover":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": b"Bad Request"})
            return
        parts = [message]

        async def again() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(scope, again, send)


async def scan_port(
    port: int, limits: ScanLimits | None = None, told: list[int] | None = None
) -> Walk:
    ups = upstreams()
    try:
        return await scan(ups, a_server(port), limits, ([] if told is None else told).append)
    finally:
        await ups.close()


@pytest.mark.parametrize("json_response", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
async def test_the_sdks_server_is_walked_in_each_era_and_each_form(
    legacy: bool, json_response: bool
) -> None:
    app: Any = sdk_server().streamable_http_app(json_response=json_response)
    app = LegacyOnly(app) if legacy else app
    async with serving(app) as port:
        walk = await scan_port(port)
    assert [d["name"] for d in walk.definitions] == ["query_records", "delete_record"]
    assert walk.definitions[0]["annotations"] == {"readOnlyHint": True}
    assert walk.complete
    assert walk.instructions == "Be kind."
    assert walk.protocol_version == ("2025-11-25" if legacy else "2026-07-28")
    assert walk.server_info["name"] == "crm"
    if legacy:
        assert app.seen == [
            "POST server/discover",
            "POST initialize",
            "POST notifications/initialized",
            "POST tools/list",
            "DELETE",
        ]


def modern(*pages: dict[str, Json]) -> Reply:
    """A server of the modern era with these pages, the cursor of each being its number."""

    def reply(message: dict[str, Any]) -> bytes:
        result: Json = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        if message["method"] == "tools/list":
            result = pages[int(message["params"].get("cursor", 0))]
        body = orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
        return an_answer(body)

    return reply


@asynccontextmanager
async def replying(reply: Reply) -> AsyncIterator[int]:
    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.request()
            message = orjson.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            await peer.send(reply(message))

    async with raw_server(handler) as raw:
        yield raw.port


def tool(name: str) -> dict[str, Json]:
    return {"name": name, "inputSchema": {}}


async def test_all_pages_are_walked() -> None:
    pages: list[dict[str, Json]] = [
        {"tools": [tool("a")], "nextCursor": "1"},
        {"tools": [], "nextCursor": "2"},
        {"tools": [tool("b")]},
    ]
    told: list[int] = []
    async with replying(modern(*pages)) as port:
        walk = await scan_port(port, told=told)
    assert told == [1, 1, 2]
    assert [d["name"] for d in walk.definitions] == ["a", "b"]
    assert walk.complete


@pytest.mark.parametrize(
    ("pages", "limits", "why"),
    [
        ([{"tools": [tool("a")], "nextCursor": "0"}], ScanLimits(), "circle"),
        ([{"tools": [tool("a")], "nextCursor": 1}], ScanLimits(), "not a string"),
        (
            [{"tools": [], "nextCursor": str(n + 1)} for n in range(5)],
            ScanLimits(pages=3),
            "more than 3 pages",
        ),
        (
            [{"tools": [tool("a"), tool("b")], "nextCursor": "1"}],
            ScanLimits(tools=1),
            "more than 1 tools",
        ),
    ],
)
async def test_a_walk_without_end_is_not_complete_and_says_why(
    pages: list[dict[str, Json]], limits: ScanLimits, why: str
) -> None:
    async with replying(modern(*pages)) as port:
        walk = await scan_port(port, limits)
    assert not walk.complete
    assert why in walk.incomplete_because


async def test_a_server_without_tools_is_complete() -> None:
    result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}

    def reply(message: dict[str, Any]) -> bytes:
        assert message["method"] == "server/discover"
        return an_answer(orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    async with replying(reply) as port:
        walk = await scan_port(port)
    assert (walk.definitions, walk.complete) == ((), True)


def refusing(status: str, *headers: str) -> Reply:
    return lambda message: an_answer(b"{}", *headers, status=status)


def listing(body: bytes) -> Reply:
    def reply(message: dict[str, Any]) -> bytes:
        if message["method"] == "tools/list":
            return an_answer(body.replace(b"ID", str(message["id"]).encode()))
        return modern()(message)

    return reply


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusing("401 Unauthorized"), "set the server's `auth`"),
        (refusing("403 Forbidden"), "set the server's `auth`"),
        (refusing("308 Permanent Redirect", "Location: /x"), "register the URL"),
        (refusing("503 Service Unavailable"), "`initialize` with no result"),
        (refusing("404 Not Found"), "`initialize` with no result"),
        (listing(b'{"jsonrpc":"2.0","id":ID,"result":{}}'), "holds no tools"),
        (listing(b'{"jsonrpc":"2.0","id":ID,"error":{"code":-32603}}'), "error -32603"),
        (listing(b'{"jsonrpc":"2.0","id":ID,"result":{"tools":[],"tools":[]}}'), "strict JSON"),
        (listing(b'{"jsonrpc":"2.0","id":99,"result":{"tools":[]}}'), "no response"),
        (listing(b"<html>"), "strict JSON"),
        (lambda message: b"SSH-2.0\r\n", "HTTP/1.1"),
    ],
)
async def test_a_failed_scan_says_what_is_wrong(reply: Reply, said: str) -> None:
    async with replying(reply) as port:
        with pytest.raises(ScanFailed, match=said):
            await scan_port(port)


async def test_a_server_that_is_not_there_is_a_failed_scan() -> None:
    async with replying(modern()) as port:
        pass
    with pytest.raises(ScanFailed, match="Check its URL"):
        await scan_port(port)


async def test_a_server_that_never_answers_ends_at_the_time_limit() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(handler) as raw:
        with pytest.raises(ScanFailed, match=r"longer than|HTTP/1\.1"):
            await scan_port(raw.port, ScanLimits(seconds=0.05))


async def test_a_stream_that_never_answers_is_bounded_in_bytes() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD)
        while True:
            await peer.send(chunk(event(b'{"method":"notifications/message"}')))

    async with raw_server(handler) as raw:
        with pytest.raises(ScanFailed, match="more than 10000 bytes"):
            await scan_port(raw.port, ScanLimits(answer_bytes=10_000))

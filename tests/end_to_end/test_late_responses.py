"""Response policies on answers that come later: on a resumed stream, as the result of a task."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.demo.instructions import Demo
from tests.end_to_end.test_responses import administrating, demo
from tests.serving import serving

__all__ = ["demo"]
pytestmark = pytest.mark.anyio

TELLS = {"phone": "it is +4917012345678", "secret": "TOP SECRET"}
TASK = {"taskId": "task-1", "status": "working", "createdAt": "2026-01-01T00:00:00Z"}
LEGACY = {"mcp-protocol-version": "2025-11-25"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {
        "extensions": {"io.modelcontextprotocol/tasks": {}}
    },
}


def content(name: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": TELLS[name]}], "isError": False}


class Late:
    """A server whose calls are answered later, of whichever era they are."""

    def __init__(self) -> None:
        self.called = ""
        self.rpc_id: Any = None

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        modern = "_meta" in params
        whole = {"resultType": "complete"} if modern else {}
        if method == "server/discover":
            return whole | {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        if method == "tools/list":
            tools = [{"name": n, "inputSchema": {"type": "object"}} for n in TELLS]
            return whole | {"tools": tools}
        if method == "tools/call":
            self.called = params["name"]
            return {"resultType": "task", **TASK} if modern else {"task": TASK}
        assert params["taskId"] == "task-1"
        if method == "tasks/result":
            return content(self.called)
        return whole | TASK | {"status": "completed", "result": content(self.called)}

    async def post(self, request: Request) -> Response:
        message = await request.json()
        method, params = message["method"], message.get("params", {})
        if method == "tools/call" and "task" not in params and "_meta" not in params:
            self.called, self.rpc_id = params["name"], message["id"]
            # The client comes back for the rest (2025-11-25, basic/transports, "Resumability").
            return Response(b"id: e-1\nretry: 10\ndata: \n\n", media_type="text/event-stream")
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": self.result(method, params)}
        return JSONResponse(answer)

    async def get(self, request: Request) -> Response:
        assert request.headers["last-event-id"] == "e-1"
        told = {"progressToken": 1, "progress": 1, "message": TELLS[self.called]}
        events = [
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": told},
            {"jsonrpc": "2.0", "id": self.rpc_id, "result": content(self.called)},
        ]
        lines = [b"id: e-%d\ndata: %b\n\n" % (n, orjson.dumps(e)) for n, e in enumerate(events, 2)]
        return Response(b"".join(lines), media_type="text/event-stream")


@asynccontextmanager
async def late(demo: Demo) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """The proxy's URL of such a server, and a client with a key."""
    server = Late()
    routes = [
        Route("/mcp", server.post, methods=["POST"]),
        Route("/mcp", server.get, methods=["GET"]),
    ]
    key = {
        "Authorization": f"Bearer {demo.project_key}",
        "Accept": "application/json, text/event-stream",
    }
    async with (
        serving(Starlette(routes=routes)) as port,
        administrating(demo) as admin,
        httpx.AsyncClient(headers=key, timeout=30, trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{port}/mcp"
        # The slug that the policies are about.
        body = {"name": "Late", "slug": "staff", "server_url": url, "allow_private_network": True}
        made = (await admin.post("/mcp/servers", json=body)).json()
        path = f"/mcp/servers/{made['id']}"
        assert (await admin.patch(path, json={"status": "ACTIVE"})).is_success
        yield made["proxy_endpoint"], client
        assert (await admin.delete(path)).is_success


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def events_in(text: str) -> list[Any]:
    lines = [line.removeprefix("data:").strip() for line in text.splitlines()]
    return [orjson.loads(line) for line in lines if line.startswith("{")]


async def resumed(client: httpx.AsyncClient, url: str, tool: str) -> list[Any]:
    call = message("tools/call", name=tool, arguments={})
    begun = await client.post(url, json=call, headers=LEGACY)
    (event_id,) = [line[3:].strip() for line in begun.text.splitlines() if line.startswith("id:")]
    later = await client.get(url, headers={**LEGACY, "last-event-id": event_id})
    return events_in(later.text)


async def test_what_comes_on_a_resumed_stream_is_held_to_the_policies(demo: Demo) -> None:
    async with late(demo) as (url, client):
        progress, answer = await resumed(client, url, "phone")
        assert progress["params"]["message"] == "it is [redacted]"
        assert answer["result"]["content"][0]["text"] == "it is [redacted]"
        (withheld,) = await resumed(client, url, "secret")
    assert (withheld["id"], withheld["error"]["code"]) == (7, -31009)


async def legacy_task(client: httpx.AsyncClient, url: str, tool: str, method: str) -> Any:
    call = message("tools/call", name=tool, arguments={}, task={"ttl": 60000})
    begun = (await client.post(url, json=call, headers=LEGACY)).json()
    task = begun["result"]["task"]["taskId"]
    assert task != "task-1"
    return (await client.post(url, json=message(method, taskId=task), headers=LEGACY)).json()


async def modern_task(client: httpx.AsyncClient, url: str, tool: str, method: str) -> Any:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": tool}
    call = message("tools/call", name=tool, arguments={}, _meta=META)
    begun = (await client.post(url, json=call, headers=headers)).json()
    task = begun["result"]["taskId"]
    assert task != "task-1"
    headers |= {"mcp-method": method, "mcp-name": task}
    asked = message(method, taskId=task, _meta=META)
    return (await client.post(url, json=asked, headers=headers)).json()


@pytest.mark.parametrize(
    ("ask", "method"),
    [(legacy_task, "tasks/result"), (legacy_task, "tasks/get"), (modern_task, "tasks/get")],
)
async def test_the_result_of_a_servers_task_is_held_to_the_policies(
    demo: Demo, ask: Any, method: str
) -> None:
    async with late(demo) as (url, client):
        phone = await ask(client, url, "phone", method)
        result = phone["result"] if method == "tasks/result" else phone["result"]["result"]
        assert result["content"][0]["text"] == "it is [redacted]"
        withheld = await ask(client, url, "secret", method)
    assert withheld["error"]["code"] == -31009
    assert "TOP SECRET" not in str(withheld)

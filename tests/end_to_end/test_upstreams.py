"""Servers that ask for OAuth, and the configuration that `gateway connect` prints, at work."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.demo.instructions import Demo
from tests.authorization_server import CLIENT, SECRET, authorization_server
from tests.end_to_end.demonstration import need_opa, running
from tests.serving import serving
from tests.test_cli import gateway

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    with running(tmp_path_factory.mktemp("gateway") / "demo") as it:
        yield it.demo


class Guarded:
    """Lets in who brings one of the authorization server's tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            self.seen.add(shown)
            if not shown.startswith(b"Bearer access-"):
                headers = {"WWW-Authenticate": "Bearer resource_metadata=x"}
                await Response(status_code=401, headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def test_a_client_configured_by_connect_calls_a_server_that_asks_for_oauth(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MCPServer("guarded", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two integers."""
        return a + b

    guarded = Guarded(server.streamable_http_app())
    headers = {"Authorization": f"Bearer {demo.admin_key}"}
    async with (
        authorization_server() as there,
        serving(guarded) as port,
        httpx.AsyncClient(
            base_url=f"{demo.base_url}/api/v1", headers=headers, timeout=30, trust_env=False
        ) as admin,
    ):

        async def api(method: str, path: str, body: object = None) -> Any:
            answer = await admin.request(method, path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        auth = {
            "type": "oauth_client_credentials",
            "token_url": f"{there.url}/token",
            "client_id": CLIENT,
            "client_secret": SECRET,
        }
        url = f"http://127.0.0.1:{port}/mcp"
        made = await api(
            "POST",
            "/mcp/servers",
            {"name": "Guarded", "server_url": url, "allow_private_network": True, "auth": auth},
        )
        path = f"/mcp/servers/{made['id']}"
        await api("PATCH", path, {"status": "ACTIVE"})

        printed = gateway("connect", "claude-code", f"guarded={made['proxy_endpoint']}")
        entry = json.loads(printed.stdout)["mcpServers"]["guarded"]
        key = {
            name: value.replace("${POLICY_GATEWAY_AGENT_KEY}", demo.project_key)
            for name, value in entry["headers"].items()
        }
        for mode in ("legacy", "2026-07-28"):
            async with (
                httpx2.AsyncClient(headers=key, timeout=30, trust_env=False) as http,
                Client(streamable_http_client(entry["url"], http_client=http), mode=mode) as it,
            ):
                result = await it.call_tool("add", {"a": 2, "b": 40})
                assert result.structured_content == {"result": 42}
        assert guarded.seen == {b"Bearer access-1"}
        assert [form["resource"] for form in there.forms] == [url]
        traces = (await admin.get("/traces")).text
        assert "access-1" not in traces
        assert SECRET not in traces

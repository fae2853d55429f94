"""A real stdio server behind a real gateway, in both eras, and what a kill of it leaves."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import orjson
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from tests.end_to_end.demonstration import Running, descendants, ends, need_opa, running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="stdio servers need Linux"),
]

SERVER = Path(__file__).parents[1] / "mcp" / "stdio_servers" / "sdk.py"
SECRET = "a-very-secret-token"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    need_opa()
    tmp_path = tmp_path_factory.mktemp("stdio")
    read = sorted({sys.prefix, sys.base_prefix, str(SERVER.parent)})
    entry: dict[str, Any] = {"command": sys.executable, "args": [str(SERVER)], "read": read}
    secret = tmp_path / "token"
    secret.write_text(SECRET)
    entry["env"] = {"TOKEN": f"file:{secret}"}
    path = tmp_path / "stdio.yaml"
    path.write_bytes(orjson.dumps({"servers": {"programs": entry}}))
    # Isolated where bubblewrap can be used, and also tested where it cannot.
    settings = {"GATEWAY_STDIO_SERVERS": str(path), "GATEWAY_STDIO_UNSAFE": "1"}
    with running(tmp_path / "demo", settings=settings) as it:
        yield it


@asynccontextmanager
async def administrator(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {gateway.demo.admin_key}"}
    base = f"{gateway.demo.base_url}/api/v1"
    async with httpx.AsyncClient(
        base_url=base, headers=headers, timeout=60, trust_env=False
    ) as admin:
        yield admin


async def a_server(admin: httpx.AsyncClient) -> str:
    body = {"name": "Programs", "server_url": "stdio:programs", "transport": "stdio"}
    made = await admin.post("/mcp/servers", json=body)
    assert made.is_success, made.text
    server_id = str(made.json()["id"])
    for method, path, body in (
        ("POST", f"/mcp/servers/{server_id}/scan", {}),
        ("PATCH", f"/mcp/servers/{server_id}", {"status": "ACTIVE"}),
    ):
        answer = await admin.request(method, path, json=body or None)
        assert answer.is_success, answer.text
    return server_id


@asynccontextmanager
async def connected(
    gateway: Running, server_id: str, mode: Any, **options: Any
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {gateway.demo.project_key}"}
    url = f"{gateway.demo.base_url}/api/v1/mcp/proxy/{server_id}"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as it,
    ):
        yield it


async def test_no_body_names_a_command_and_a_name_must_be_the_operators(gateway: Running) -> None:
    async with administrator(gateway) as admin:
        for wrong, field in (
            ({"server_url": "stdio:/bin/sh", "transport": "stdio"}, "server_url"),
            ({"server_url": "stdio:programs"}, "transport"),
            ({"server_url": "https://a.example/mcp", "transport": "stdio"}, "transport"),
            (
                {"server_url": "stdio:programs", "transport": "stdio", "command": "/bin/sh"},
                "command",
            ),
            (
                {
                    "server_url": "stdio:programs",
                    "transport": "stdio",
                    "auth": {"type": "bearer", "token": "a-token"},
                },
                "auth",
            ),
        ):
            refused = await admin.post("/mcp/servers", json={"name": "Wrong", **wrong})
            assert refused.status_code in (400, 422), refused.text
            assert field in refused.text
        body = {"name": "Unknown", "server_url": "stdio:unknown", "transport": "stdio"}
        server_id = (await admin.post("/mcp/servers", json=body)).json()["id"]
        scanned = await admin.post(f"/mcp/servers/{server_id}/scan")
        assert not scanned.is_success
        assert "has no unknown" in scanned.text


# It is the last one: the gateway is dead after it.
async def test_the_sdks_client_uses_the_sdks_stdio_server_and_nothing_outlives_the_gateway(
    gateway: Running,
) -> None:
    async def answer(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with administrator(gateway) as admin:
        server_id = await a_server(admin)
        steps: list[float] = []

        async def step(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        for mode in ("legacy", "auto", "2026-07-28"):
            steps.clear()
            async with connected(gateway, server_id, mode, elicitation_callback=answer) as client:
                tools = await client.list_tools()
                assert "add" in {tool.name for tool in tools.tools}
                added = await client.call_tool("add", {"a": 2, "b": 3})
                assert added.structured_content == {"result": 5}
                await client.call_tool("steps", {"count": 3}, progress_callback=step)
                assert steps == [1, 2, 3]
                if mode == "legacy":
                    greeted = await client.call_tool("greet", {})
                    assert "Hello Ada" in str(greeted.content)
        async with connected(gateway, server_id, "legacy") as client:
            await client.call_tool("pid", {})
            below = descendants(gateway.process.pid)
            watched = [os.pidfd_open(pid) for pid in below]
            assert len(below) >= 2
            gateway.process.kill()
            assert all([ends(pidfd) for pidfd in watched])
            for pidfd in watched:
                os.close(pidfd)
            gateway.process.wait()

"""Several `gateway serve` on one PostgreSQL, each with a directory and an OPA of its own."""

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.database_place import PostgresUrl
from tests.end_to_end.demonstration import environment
from tests.end_to_end.recording_tool import RecordingTool
from tests.gateway_process import ROOT, GatewayProcess, a_gateway

SECONDS = 120
"""For anything at all on a busy machine."""
PASSED = 0
VERSION = "2026-07-28"
_META = "io.modelcontextprotocol/"


def client(base_url: str, key: str, trusting: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        timeout=SECONDS,
        trust_env=False,
        limits=limits,
        verify=trusting or True,
    )


@dataclass
class Served:
    """One of them, or what stands before all, and whoever talks to it."""

    url: str
    deployment: "Deployment"
    trusting: ssl.SSLContext | None = None
    _clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    def client(self, of: str) -> httpx.AsyncClient:
        if of not in self._clients:
            self._clients[of] = self.client_with(self.deployment.keys[of])
        return self._clients[of]

    def client_with(self, key: str) -> httpx.AsyncClient:
        return client(self.url, key, self.trusting)

    async def close(self) -> None:
        for one in self._clients.values():
            await one.aclose()

    async def api(
        self, method: str, path: str, by: str = "admin", /, **body: Any
    ) -> httpx.Response:
        at = f"/api/v1{path}"
        return await self.client(by).request(method, at, json=body or None)

    async def told(self, method: str, path: str, by: str = "admin", /, **body: Any) -> Any:
        answer = await self.api(method, path, by, **body)
        assert answer.is_success, answer.text
        return answer.json()

    async def post(
        self, message: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """To the proxy."""
        path = f"/api/v1/mcp/proxy/{self.deployment.server_id}"
        return await self.client("project").post(path, json=message, headers=headers)

    async def call(self, tool: str, name: str) -> dict[str, Any]:
        """The message that answers; ``name`` is the call's argument."""
        params = {"name": tool, "arguments": {"object": name}}
        return last(await self.post(a_message("tools/call", **params)))

    async def code(self, tool: str, name: str) -> int:
        """Of the refusal; `PASSED` without one."""
        message = await self.call(tool, name)
        return int(message["error"]["code"]) if "error" in message else PASSED

    async def modern(self, method: str, named: str, **params: Any) -> dict[str, Any]:
        """The result, for a client of our tasks that can be asked."""
        capabilities: Any = {"extensions": {f"{_META}tasks": {}}, "elicitation": {"form": {}}}
        meta = {f"{_META}protocolVersion": VERSION, f"{_META}clientCapabilities": capabilities}
        message = a_message(method, **params, _meta=meta)
        headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": method, "Mcp-Name": named}
        told = last(await self.post(message, headers))
        assert "result" in told, told
        return dict(told["result"])


def a_message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def last(answer: httpx.Response) -> dict[str, Any]:
    """The last message of a plain answer or of a stream."""
    lines = [line.removeprefix("data:") for line in answer.text.splitlines() if "jsonrpc" in line]
    assert lines, f"HTTP {answer.status_code} {answer.text}"
    return dict(json.loads(lines[-1]))


@dataclass
class Deployment:
    """`tool` is the server that all call; it is registered, with rules, over one alone."""

    folder: Path
    place: PostgresUrl
    tool: RecordingTool = field(default_factory=RecordingTool)
    keys: dict[str, str] = field(default_factory=dict)
    server_id: str = ""
    more: dict[str, str] = field(default_factory=dict)
    """Settings of each."""

    @property
    def settings(self) -> dict[str, str]:
        return {"GATEWAY_DATABASE_URL": self.place, **self.more}

    def make(self) -> None:
        """`gateway init` in one directory; the others get its keys alone."""
        made = subprocess.run(
            [sys.executable, "-m", "gateway", "init", "--json"],
            check=True,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**environment(), **self.settings, "GATEWAY_DATA_DIR": str(self.folder / "one")},
        )
        self.keys["admin"] = json.loads(made.stdout)["admin_key"]

    @asynccontextmanager
    async def running(self, name: str, port: int = 0, *more: str) -> AsyncIterator[GatewayProcess]:
        """``more`` are options of `tests.served_gateway`."""
        options = ("--port", str(port), *more)
        if not (self.folder / name).exists():
            (self.folder / name).mkdir(mode=0o700)
            shutil.copytree(self.folder / "one" / "keys", self.folder / name / "keys")
        async with a_gateway(self.folder / name, *options, settings=self.settings) as process:
            yield process

    @asynccontextmanager
    async def at(self, url: str, trusting: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
        served = Served(url, self, trusting)
        try:
            yield served
        finally:
            await served.close()

    async def register(self, over: Served, name: str = "tools") -> None:
        """The server, its rules and keys."""
        await over.told("PATCH", "/projects/current", key_approvers=True)
        new: Any = {"server_url": self.tool.url, "allow_private_network": True}
        server = await over.told("POST", "/mcp/servers", name=name, **new)
        self.server_id = str(server["id"])
        await over.told("POST", f"/mcp/servers/{self.server_id}/scan")
        await over.told("PATCH", f"/mcp/servers/{self.server_id}", status="ACTIVE")
        ask = {"action": "REQUIRE_APPROVAL", "tool_pattern": "delete", "reason": "it is gone"}
        await over.told("POST", "/mcp/policies", server_id=self.server_id, **ask)
        for role, owner in (("project", "Olga"), ("approver", "Robin"), ("approver", "Sam")):
            key = await over.told("POST", "/keys", role=role, name=owner, owner=owner)
            self.keys[role if role == "project" else owner] = key["key"]


async def until(condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    """``condition`` makes an awaitable that says whether it is so by now."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - of processes, which set no event
            await asyncio.sleep(0.05)

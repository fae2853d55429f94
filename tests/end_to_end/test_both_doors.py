"""The templates' acceptance lists through the proxy and through the Extension API: one answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, delete, update

from gateway.policy.bundles import build_bundle
from gateway.policy.risk import RiskAssessor
from gateway.policy.sources import the_sources
from gateway.steps.policy import Policy
from gateway.store import tables
from tests.api.world import World, a_control_plane, a_world
from tests.builders import a_body, a_request
from tests.pipeline_world import a_line
from tests.policy.world import KEY, running, the_opa
from tests.rego.tools_of_platforms import EXPECTED

pytestmark = pytest.mark.anyio

PARAMS: dict[str, dict[str, Any]] = {"copilot": {"internal_domains": ["corp.example"]}}
ACTIONS = {
    "PASSED": "ALLOW",
    "FLAGGED": "LOG_ONLY",
    "PENDING_APPROVAL": "REQUIRE_APPROVAL",
    "BLOCKED": "DENY",
}
CODES = {-31003: "DENY", -31004: "REQUIRE_APPROVAL"}


@dataclass
class Doors:
    """A server of one template, and a key for each door that leads to its policies."""

    world: World
    server: str
    extension: str
    proxy_key: str
    extension_key: str

    async def by_proxy(self, tool: str, arguments: dict[str, Any]) -> str:
        request = a_request(
            a_body(tool, arguments),
            server_id=self.server,
            headers=(
                (b"authorization", b"Bearer " + self.proxy_key.encode()),
                (b"content-type", b"application/json"),
                (b"accept", b"application/json, text/event-stream"),
            ),
        )
        answer = await self.world.line.handle(request)
        error = orjson.loads(answer.body).get("error")
        if error is not None:
            return CODES[error["code"]]
        trace_id = dict(answer.headers)[b"x-trace-id"].decode()
        (decided,) = self.world.line.world.records("decision", trace_id)
        return str(decided["decision"])

    async def by_event(self, tool: dict[str, Any]) -> str:
        event = {"event_type": "tool_call.requested", "mode": "decide", "tool": tool}
        async with self.world.client(self.extension_key) as client:
            answer = await client.post("webhooks/ingest", json=event)
        return ACTIONS[answer.json()["decision"]]

    async def by_copilot_studio(self, tool: dict[str, Any]) -> bool:
        """Whether the call is blocked."""
        arguments = tool.pop("arguments")
        body = {"toolDefinition": tool, "inputValues": arguments}
        async with self.world.client(self.extension_key) as client:
            path = f"extensions/{self.extension}/copilot-studio/analyze-tool-execution"
            answer = await client.post(path, json=body)
        return bool(answer.json()["blockAction"])

    def activate(self) -> None:
        """Open the proxy's door of a server that has never been scanned."""

        def change(connection: Connection) -> None:
            servers = tables.servers
            mine = update(servers).where(servers.c.id == self.server)
            connection.execute(mine.values(status="ACTIVE"))
            self.world.state.directory.touch(self.world.project_id)

        self.world.state.writer.change_now(change)

    def forget_approvals(self) -> None:
        """An agent may have only so many waiting."""
        data = self.world.line.world
        data.change(lambda c: c.execute(delete(tables.approvals)))


@asynccontextmanager
async def the_doors(folder: Path, template: str) -> AsyncIterator[Doors]:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    with a_world(folder / "data") as world:
        async with running(folder / "opa", bundle) as opa:
            state = world.state
            policy = Policy(opa.engine, view=state.directory.view, now=state.clock.now)
            world.line = a_line(world.line.world, policy)
            plane = a_control_plane(world.line, RiskAssessor(opa.engine))
            world.context = replace(world.context, control_plane=plane)
            async with world.client() as client:
                body = {"template": template, "params": PARAMS.get(template, {})}
                made = await client.post("mcp/servers/from-template", json=body)
                assert made.status_code == 201, made.text
                server = made.json()["id"]
                settings = {"unknown_tools": "allow"}
                assert (await client.patch("projects/current", json=settings)).is_success
            row, key, _ = world.extension(
                name=template, type=template, server_id=server, scopes=["decide"]
            )
            yield Doors(world, server, row.id, world.key()[1], key)


@pytest.mark.parametrize("template", sorted(EXPECTED))
async def test_a_template_decides_events_as_it_decides_proxied_calls(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.extensions.copilot_studio.DECIDE_SECONDS", 60.0)
    async with the_doors(tmp_path, template) as doors:
        wrong = []
        doors.activate()
        for tool, arguments, action in EXPECTED[template]:
            found = [
                await doors.by_proxy(tool, arguments),
                await doors.by_event({"name": tool, "arguments": arguments}),
            ]
            if template == "copilot":
                # As the platform names an MCP server's tool: by an id of its own, in which it is.
                named = {"id": f"cr1_bot.action.{tool}", "name": "A tool", "arguments": arguments}
                blocks = await doors.by_copilot_studio(named)
                found.append(action if blocks == (action not in ("ALLOW", "LOG_ONLY")) else "?")
            if set(found) != {action}:
                wrong.append((tool, action, found))
            doors.forget_approvals()
        assert wrong == []

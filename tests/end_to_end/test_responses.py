"""Response policies at work, between an SDK's client and server, whichever way an answer goes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from gateway.demo.instructions import Demo
from tests.end_to_end.demonstration import need_opa, running
from tests.serving import serving

pytestmark = pytest.mark.anyio

POLICY = """# METADATA
# title: What stays inside
# schemas:
#   - input: schema.response.input
package policies.response.server.staff.inside

import rego.v2

# METADATA
# title: Findings
findings contains {
	"policy_id": "salaries",
	"reason": "salaries are nobody's business",
	"obligations": [
		{"type": "redact", "pointers": ["/structuredContent/salary"]},
		{"type": "label", "label": "hr"},
	],
} if {
	input.kind == "result"
	input.tool.name == "person"
}

findings contains {
	"policy_id": "phones",
	"reason": "no phone numbers",
	"obligations": [{"type": "redact", "patterns": [`\\+\\d{8,}`]}],
}

findings contains {
	"policy_id": "secret",
	"reason": "it says so itself",
	"obligations": [{"type": "block"}],
} if {
	contains(json.marshal(input.body), "TOP SECRET")
}
"""


class Person(BaseModel):
    name: str
    salary: int


def sdk_server() -> MCPServer:
    server = MCPServer("staff", log_level="ERROR")

    @server.tool()
    def person() -> Person:
        """Who earns what."""
        return Person(name="Ada", salary=918273)

    @server.tool()
    async def phone(context: Context[Any, Any]) -> str:
        """A number, told on the way and at the end."""
        await context.report_progress(1, 2, "dialling +4917012345678")
        await context.report_progress(2, 2, "TOP SECRET")
        return "it is +4917012345678"

    @server.tool()
    def secret() -> str:
        """What must not be told."""
        return "TOP SECRET"

    @server.tool()
    def fails() -> str:
        """Tells it in an error."""
        raise ToolError("TOP SECRET")

    @server.resource("staff://phone")
    def resource() -> str:
        return "+4917012345678"

    return server


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    folder: Path = tmp_path_factory.mktemp("policies")
    (folder / "inside.rego").write_text(POLICY)
    settings = {"GATEWAY_POLICY_DIRS": str(folder)}
    with running(tmp_path_factory.mktemp("gateway") / "demo", settings=settings) as it:
        yield it.demo


@asynccontextmanager
async def administrating(demo: Demo) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {demo.admin_key}"}
    url = f"{demo.base_url}/api/v1"
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=30, trust_env=False
    ) as client:
        yield client


@pytest.mark.parametrize("json_response", [False, True])
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_nothing_that_a_policy_keeps_inside_reaches_the_client(
    demo: Demo, mode: str, json_response: bool
) -> None:
    told: list[str | None] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    key = {"Authorization": f"Bearer {demo.project_key}"}
    async with (
        serving(sdk_server().streamable_http_app(json_response=json_response)) as port,
        administrating(demo) as admin,
    ):
        body = {
            "name": "Staff",
            "slug": "staff",
            "server_url": f"http://127.0.0.1:{port}/mcp",
            "allow_private_network": True,
        }
        made = (await admin.post("/mcp/servers", json=body)).json()
        path = f"/mcp/servers/{made['id']}"
        assert (await admin.patch(path, json={"status": "ACTIVE"})).is_success
        async with (
            httpx2.AsyncClient(headers=key, timeout=30, trust_env=False) as http,
            Client(
                streamable_http_client(made["proxy_endpoint"], http_client=http), mode=mode
            ) as client,
        ):
            await client.list_tools()
            ada = await client.call_tool("person", {})
            assert ada.structured_content == {"name": "Ada", "salary": 0}
            assert "918273" not in ada.model_dump_json()

            phone = await client.call_tool("phone", {}, progress_callback=progress)
            assert phone.content[0].text == "it is [redacted]"  # type: ignore[union-attr]
            assert set(told) <= {"dialling [redacted]"}

            for tool in ("secret", "fails"):
                with pytest.raises(MCPError) as withheld:
                    await client.call_tool(tool, {})
                assert withheld.value.error.code == -31009
                assert withheld.value.error.data["reason_code"] == "answer_withheld"

            read = await client.read_resource("staff://phone")
            assert read.contents[0].text == "[redacted]"  # type: ignore[union-attr]
        traces = (await admin.get("/traces?limit=100")).json()["items"]
        assert (await admin.delete(path)).is_success
    assert "918273" not in str(traces)

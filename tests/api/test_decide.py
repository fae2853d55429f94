"""`/mcp/decide`: as whom one asks, and how much of the answer one sees."""

from dataclasses import replace

import httpx
import pytest

from gateway.refusals import Refused
from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio


async def _server(client: httpx.AsyncClient) -> str:
    body = {"name": "crm", "server_url": "https://crm.example.com/mcp"}
    return str((await client.post("mcp/servers", json=body)).json()["id"])


async def test_only_admins_see_policies_and_reasons(world: World) -> None:
    async with world.client() as admin, world.client(Role.PROJECT) as agent:
        body = {"server_id": await _server(admin), "tool": {"name": "bulk_export"}}
        told = (await admin.post("mcp/decide", json=body)).json()
        assert told["policy_ids"] == ["salesforce.bulk_export"]
        assert told["reasons"] == ["Bulk export is denied"]
        assert told["blocked_by"] == ["server_pending"]
        less = (await agent.post("mcp/decide", json=body)).json()
        assert (less["action"], less["reason_code"]) == ("DENY", "policy_denied")
        assert less["policy_ids"] is less["reasons"] is None


async def test_a_project_key_asks_as_itself_and_about_its_servers(world: World) -> None:
    async with world.client() as admin:
        server, other = await _server(admin), await _server(admin)
        agents = [
            (await admin.post("agents", json={"name": name, "owner": "o"})).json()["id"]
            for name in ("one", "two")
        ]
        key, secret = world.key(agent_id=agents[0], server_ids=[server])
        body = {"server_id": server, "tool": {"name": "t"}}
        async with world.client(secret) as client:
            assert (await client.post("mcp/decide", json=body)).status_code == 200
            asked_by, question = world.upstream.questions[-1]
            assert (asked_by.id, question.agent_id) == (key.id, agents[0])
            foreign = body | {"agent_id": agents[1]}
            assert (await client.post("mcp/decide", json=foreign)).status_code == 403
            elsewhere = body | {"server_id": other}
            assert (await client.post("mcp/decide", json=elsewhere)).status_code == 404
        asked = body | {"agent_id": agents[1]}
        assert (await admin.post("mcp/decide", json=asked)).status_code == 200
        assert world.upstream.questions[-1][1].agent_id == agents[1]
        assert (await admin.post("mcp/decide", json=body | {"agent_id": "agt_0"})).is_error


async def test_numbers_reach_the_policy_as_they_were_sent(world: World) -> None:
    async with world.client() as client:
        server = await _server(client)
        raw = b'{"server_id":"%s","tool":{"name":"t"},"arguments":{"n":1.10}}' % server.encode()
        headers = {"Content-Type": "application/json"}
        answer = await client.post("mcp/decide", content=raw, headers=headers)
        assert answer.status_code == 200
    number = world.upstream.questions[-1][1].arguments["n"]
    assert bytes(number) == b"1.10"


@pytest.mark.parametrize(
    ("reason", "status", "action"),
    [("too_large_to_decide", 200, "DENY"), ("policy_unavailable", 503, None)],
)
async def test_what_is_never_decided_is_denied_and_what_is_not_now_may_be_asked_again(
    world: World, reason: str, status: int, action: str | None
) -> None:
    async def refuse() -> None:
        raise Refused(reason)

    world.line.policy.meanwhile = refuse
    world.context = replace(world.context, decide=world.context.control_plane.dry_run.decide)
    async with world.client() as client:
        body = {"server_id": await _server(client), "tool": {"name": "t"}}
        answer = await client.post("mcp/decide", json=body)
    assert (answer.status_code, answer.json().get("action")) == (status, action)
    assert answer.json().get("reason_code") == (reason if action else None)

"""Overrides: on a server with a template only, live at a click, gone with their server."""

import pytest

from gateway.values import ServerId
from tests.api.world import World

pytestmark = pytest.mark.anyio

OVERRIDE = {
    "policy_id": "salesforce.delete",
    "action": "REQUIRE_APPROVAL",
    "reason": "clean-up in March",
    "expires_at": "2099-01-01T00:00:00+01:00",
}


async def test_an_override_is_live_at_a_click_and_gone_at_another(world: World) -> None:
    def live(server_id: str) -> list[str]:
        view = world.state.directory.view(world.project_id)
        return [o.expires_at for o in view.overrides.get(ServerId(server_id), ())]

    async with world.client() as client:
        body = {
            "name": "sf",
            "server_url": "https://sf.example.com",
            "connector_type": "salesforce",
        }
        servers = [(await client.post("mcp/servers", json=body)).json()["id"] for _ in range(2)]
        path = f"mcp/servers/{servers[0]}/overrides"
        made = await client.post(path, json=OVERRIDE)
        assert made.status_code == 201
        assert live(servers[0]) == ["2098-12-31T23:00:00.000000Z"]
        assert (await client.get(path)).json()["items"] == [made.json()]
        elsewhere = f"mcp/servers/{servers[1]}/overrides/{made.json()['id']}"
        assert (await client.delete(elsewhere)).status_code == 404
        assert (await client.delete(f"{path}/{made.json()['id']}")).status_code == 204
        assert live(servers[0]) == []
        await client.post(path, json=OVERRIDE)
        assert (await client.delete(f"mcp/servers/{servers[0]}")).status_code == 204


async def test_an_override_that_never_ends_or_loosens_nothing_is_refused(world: World) -> None:
    async with world.client() as client:
        body = {"name": "own", "server_url": "https://own.example.com"}
        server = (await client.post("mcp/servers", json=body)).json()["id"]
        path = f"mcp/servers/{server}/overrides"
        wrong = OVERRIDE | {"expires_at": "2001-01-01T00:00:00Z", "agent_id": "agt_0"}
        details = (await client.post(path, json=wrong)).json()["error"]["details"]
        assert {detail["field"] for detail in details} == {"policy_id", "expires_at", "agent_id"}
        for name in ("expires_at", "reason"):
            less = {key: value for key, value in OVERRIDE.items() if key != name}
            assert (await client.post(path, json=less)).status_code == 400

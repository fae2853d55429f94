"""Overrides: on a server with a template only, live at a click, gone with their server."""

import pytest

from gateway.clock import after
from gateway.values import ServerId
from tests.api.world import World

pytestmark = pytest.mark.anyio

OVERRIDE = {
    "policy_id": "sf-record-delete",
    "action": "LOG_ONLY",
    "reason": "clean-up in March",
}


def _override(world: World, days: float = 30) -> dict[str, str]:
    return OVERRIDE | {"expires_at": after(world.state.clock.now(), days * 86_400)}


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
        override = _override(world)
        made = await client.post(path, json=override)
        assert made.status_code == 201
        assert live(servers[0]) == [override["expires_at"]]
        [event, *_] = (await client.get("traces", params={"kind": "event"})).json()["items"]
        [traced] = (await client.get(f"traces/{event['id']}")).json()["records"]
        told = {name: traced["record"][name] for name in ("event", "policy", "action", "loosens")}
        assert told == {
            "event": "override.created",
            "policy": "sf-record-delete",
            "action": "LOG_ONLY",
            "loosens": True,
        }
        assert (await client.get(path)).json()["items"] == [made.json()]
        elsewhere = f"mcp/servers/{servers[1]}/overrides/{made.json()['id']}"
        assert (await client.delete(elsewhere)).status_code == 404
        assert (await client.delete(f"{path}/{made.json()['id']}")).status_code == 204
        assert world.events()[-1] == "override.removed"
        assert live(servers[0]) == []
        await client.post(path, json=override)
        assert (await client.delete(f"mcp/servers/{servers[0]}")).status_code == 204


async def test_an_override_is_for_a_policy_of_the_template_and_a_year_at_most(
    world: World,
) -> None:
    async with world.client() as client:
        made = await client.post("mcp/servers/from-template", json={"template": "salesforce"})
        path = f"mcp/servers/{made.json()['id']}/overrides"
        wrong = _override(world, days=367) | {"policy_id": "m365-read"}
        answer = await client.post(path, json=wrong)
        faults = {d["field"]: d["message"] for d in answer.json()["error"]["details"]}
        assert faults.keys() == {"policy_id", "expires_at"}
        assert "sf-record-delete" in faults["policy_id"]


async def test_an_override_that_never_ends_or_loosens_nothing_is_refused(world: World) -> None:
    async with world.client() as client:
        body = {"name": "own", "server_url": "https://own.example.com"}
        server = (await client.post("mcp/servers", json=body)).json()["id"]
        path = f"mcp/servers/{server}/overrides"
        wrong = OVERRIDE | {"expires_at": "2001-01-01T00:00:00Z", "agent_id": "agt_0"}
        details = (await client.post(path, json=wrong)).json()["error"]["details"]
        assert {detail["field"] for detail in details} == {"policy_id", "expires_at", "agent_id"}
        for name in ("expires_at", "reason"):
            less = {key: value for key, value in _override(world).items() if key != name}
            assert (await client.post(path, json=less)).status_code == 400

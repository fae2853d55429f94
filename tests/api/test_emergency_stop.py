"""The emergency stop: what it voids in its one transaction, who raises it and who lifts it."""

from typing import Any

import pytest

from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio


def _in_force(world: World) -> list[str]:
    return [stop.id for stop in world.state.directory.view(world.project_id).stops]


async def test_a_stop_of_everything_voids_what_waits_and_what_was_granted(world: World) -> None:
    secret = world.keys[Role.PROJECT]
    voided = [world.approval(secret), world.approval(secret, state="APPROVED")]
    kept = [
        world.approval(secret, state="APPROVED", spent_by="trc_1"),
        world.approval(secret, state="DENIED"),
        world.approval(world.foreign),
    ]
    epoch = world.state.directory.epoch
    async with world.client(Role.APPROVER) as client:
        answer = await client.post("mcp/emergency-stop", json={"scope": "all", "reason": "x"})
        assert answer.status_code == 201
        raised = answer.json()
        assert raised["denied_approvals"] == 2
        assert raised["cancelled_calls"] == world.upstream.running_calls
        assert raised["refused_keys"] == 1
        assert _in_force(world) == [raised["id"]]
        assert world.state.directory.epoch > epoch
        assert world.upstream.stops[0].id == raised["id"]
        for approval in voided:
            shown = (await client.get(f"approvals/{approval}")).json()
            assert shown["status"] == "DENIED"
        assert (await client.get(f"approvals/{kept[0]}")).json()["status"] == "CONSUMED"
    async with world.client(world.foreign) as client:
        assert (await client.get(f"approvals/{kept[2]}")).json()["status"] == "PENDING"


async def test_a_stop_of_an_agent_covers_every_key_that_may_speak_for_it(world: World) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "bot", "owner": "o"})).json()["id"]
        _, bound = world.key(agent_id=agent)
        _, asserting = world.key(may_assert=["bot"])
        _, other = world.key(may_assert=["another"])
        approvals = [world.approval(secret) for secret in (bound, asserting, other)]
        body = {"scope": "agent", "target_id": agent, "reason": "odd calls"}
        raised = (await client.post("mcp/emergency-stop", json=body)).json()
        assert raised["refused_keys"] == 2
        assert raised["denied_approvals"] == 2
        states = [(await client.get(f"approvals/{one}")).json()["status"] for one in approvals]
        assert states == ["DENIED", "DENIED", "PENDING"]


async def test_a_stop_of_a_server_leaves_the_others(world: World) -> None:
    async with world.client() as client:
        ids = [
            (
                await client.post(
                    "mcp/servers",
                    json={"name": name, "server_url": f"https://{name}.example.com/mcp"},
                )
            ).json()["id"]
            for name in ("crm", "erp")
        ]
        secret = world.key(server_ids=[ids[0]])[1]
        world.key(server_ids=ids)
        approvals = [world.approval(secret, server_id=server_id) for server_id in ids]
        body = {"scope": "server", "target_id": ids[0], "reason": "leak"}
        raised = (await client.post("mcp/emergency-stop", json=body)).json()
        assert (raised["denied_approvals"], raised["refused_keys"]) == (1, 1)
        states = [(await client.get(f"approvals/{one}")).json()["status"] for one in approvals]
        assert states == ["DENIED", "PENDING"]


async def test_only_an_admin_lifts_and_says_why_and_once(world: World) -> None:
    async with world.client() as admin, world.client(Role.APPROVER) as approver:
        body = {"scope": "all", "reason": "x"}
        stop_id = (await approver.post("mcp/emergency-stop", json=body)).json()["id"]
        path = f"mcp/emergency-stop/{stop_id}/lift"
        assert (await approver.post(path, json={"reason": "x"})).status_code == 403
        assert (await admin.post(path, json={})).status_code == 400
        lifted = await admin.post(path, json={"reason": "over"})
        assert lifted.json()["lift_reason"] == "over"
        assert _in_force(world) == []
        assert (await admin.post(path, json={"reason": "over"})).status_code == 409
        [shown] = (await approver.get("mcp/emergency-stop")).json()["items"]
        assert shown["lifted_by"] == "Alex"


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "all", "target_id": "srv_0", "reason": "x"},
        {"scope": "server", "reason": "x"},
        {"scope": "agent", "target_id": "agt_0", "reason": "x"},
    ],
)
async def test_a_stop_needs_a_target_that_exists(world: World, body: dict[str, Any]) -> None:
    async with world.client() as client:
        answer = await client.post("mcp/emergency-stop", json=body)
    assert answer.status_code == 400
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["target_id"]
    assert _in_force(world) == []

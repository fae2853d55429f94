"""An agent's life: what each state stops, as a stop would, and that its keys die with it."""

import pytest

from tests.api.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("move", ["pause", "suspend", "revoke"])
async def test_what_stops_an_agent_cuts_its_calls_and_voids_its_approvals(
    world: World, move: str
) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
        _, own = world.key(agent_id=agent)
        _, speaking = world.key(may_assert=["a"])
        _, other = world.key()
        approvals = [world.approval(secret) for secret in (own, speaking, other)]
        assert (await client.post(f"agents/{agent}/{move}")).status_code == 200
        [stop] = world.upstream.stops
        assert (stop.scope, stop.target_id) == ("agent", agent)
        states = [
            (await client.get(f"approvals/{approval}")).json()["status"] for approval in approvals
        ]
        assert states == ["DENIED", "DENIED", "PENDING"]


async def test_resuming_cuts_nothing_and_brings_nothing_back(world: World) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
        _, own = world.key(agent_id=agent)
        approval = world.approval(own)
        await client.post(f"agents/{agent}/pause")
        world.upstream.stops.clear()
        assert (await client.post(f"agents/{agent}/resume")).json()["state"] == "ACTIVE"
        assert world.events()[-1] == "agent.resume"
        assert world.upstream.stops == []
        assert (await client.get(f"approvals/{approval}")).json()["status"] == "DENIED"


async def test_keys_die_with_the_agent_and_only_with_it(world: World) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
        own, _ = world.key(agent_id=agent)
        other, _ = world.key()

        async def states() -> list[str]:
            keys = (await client.get("keys?limit=200")).json()["items"]
            by_id = {key["id"]: key["state"] for key in keys}
            return [by_id[own.id], by_id[other.id]]

        for move in ("pause", "suspend"):
            await client.post(f"agents/{agent}/{move}")
            assert await states() == ["ACTIVE", "ACTIVE"]
        await client.post(f"agents/{agent}/revoke")
        assert await states() == ["REVOKED", "ACTIVE"]


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ({"breaker_repeats": 0}, 400),
        ({"breaker_action": "scold"}, 400),
        ({"breaker_repeats": 30, "breaker_refusals": None, "breaker_action": "pause"}, 200),
    ],
)
async def test_the_breaker_is_a_setting_of_the_project(
    world: World, setting: dict[str, object], status: int
) -> None:
    async with world.client() as client:
        answer = await client.patch("projects/current", json=setting)
        assert answer.status_code == status
        if status == 200:
            project = (await client.get("projects/current")).json()
            assert {name: project[name] for name in setting} == setting

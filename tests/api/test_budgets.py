"""Budgets: made, changed, and read with what the running window holds."""

import pytest
from sqlalchemy import insert

from gateway.registry import budgets
from gateway.store import tables
from tests.api.world import World

pytestmark = pytest.mark.anyio

DAY = {"scope": "project", "window": "day", "limit": 100}


async def test_a_budget_shows_what_is_used_and_held_in_its_window(world: World) -> None:
    world.state.clock.not_before("2099-03-31T12:34:56.000000Z")
    async with world.client() as client:
        budget = (await client.post("budgets", json=DAY)).json()
        assert (budget["used"], budget["held"]) == (0, 0)
        assert budget["resets_at"] == "2099-04-01T00:00:00Z"
        windows = [("2099-03-31", 7, 2), ("2099-03-30", 99, 0)]
        rows = [
            {"budget_id": budget["id"], "window_start": start, "used": used, "held": held}
            for start, used, held in windows
        ]
        world.state.writer.change_now(
            lambda c: c.execute(insert(tables.budget_windows), rows).rowcount
        )
        shown = (await client.get(f"budgets/{budget['id']}")).json()
        assert (shown["used"], shown["held"]) == (7, 2)
        [listed] = (await client.get("budgets")).json()["items"]
        assert listed == shown


async def test_a_budget_is_live_at_a_click(world: World) -> None:
    def limits() -> list[int]:
        return [b.limit for b in world.state.directory.view(world.project_id).budgets]

    async with world.client() as client:
        budget = (await client.post("budgets", json=DAY)).json()["id"]
        assert limits() == [100]
        await client.patch(f"budgets/{budget}", json={"limit": 5, "on_exceed": "WARN"})
        assert limits() == [5]
        assert (await client.patch(f"budgets/{budget}", json={"window": "hour"})).is_error
        assert (await client.delete(f"budgets/{budget}")).status_code == 204
        assert limits() == []


async def test_an_agents_budgets_are_its_own(world: World) -> None:
    async with world.client() as client:
        agents = [
            (await client.post("agents", json={"name": name, "owner": "o"})).json()["id"]
            for name in ("one", "two")
        ]
        for agent in agents:
            body = {"scope": "agent", "target_id": agent, "window": "hour", "limit": 3}
            assert (await client.post("budgets", json=body)).status_code == 201
        await client.post("budgets", json=DAY)
        [own] = (await client.get(f"agents/{agents[0]}/budgets")).json()["items"]
        assert own["target_id"] == agents[0]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"target_id": "prj_0"}, "target_id"),
        ({"scope": "agent"}, "target_id"),
        ({"scope": "tool", "target_id": "tol_0"}, "target_id"),
        ({"limit": -1}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"dimension": "cost", "limit": "0.1234567"}, "limit"),
        ({"dimension": "cost", "limit": "1e3"}, "limit"),
        ({"dimension": "tokens"}, "dimension"),
        ({"window": "week"}, "window"),
        ({"warn_at": 101}, "warn_at"),
    ],
)
async def test_a_budget_that_counts_nothing_is_refused(
    world: World, given: dict[str, object], field: str
) -> None:
    async with world.client() as client:
        answer = await client.post("budgets", json=DAY | given)
    assert answer.status_code == 400
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == [field]


async def test_money_is_decimal_text_and_kept_to_the_millionth(world: World) -> None:
    body = DAY | {"dimension": "cost", "limit": "1000000000.000001"}
    async with world.client() as client:
        budget = (await client.post("budgets", json=body)).json()
        assert (budget["limit"], budget["used"], budget["held"]) == ("1000000000.000001", "0", "0")
        patched = await client.patch(f"budgets/{budget['id']}", json={"limit": 25})
        assert patched.json()["limit"] == "25"
    assert [b.limit for b in world.state.directory.view(world.project_id).budgets] == [25_000_000]


async def test_a_key_is_counted_as_an_agent_of_its_own(world: World) -> None:
    key, _ = world.key()
    async with world.client() as client:
        own = DAY | {"scope": "agent", "target_id": key.id}
        assert (await client.post("budgets", json=own)).status_code == 201
        other = DAY | {"scope": "server", "target_id": key.id}
        assert (await client.post("budgets", json=other)).status_code == 400


async def test_history_is_shown_for_ninety_days_and_then_forgotten(world: World) -> None:
    async with world.client() as client:
        budget = (await client.post("budgets", json=DAY)).json()["id"]
        kept = ["2099-01", "2099-01-01", "2099-03-30", "2099-03-31T11:59"]
        gone = ["2098-12", "2098-12-31", "2098-12-31T23", "2098-12-31T23:59"]
        rows = [
            {"budget_id": budget, "window_start": start, "used": 1, "held": 0}
            for start in (*kept, *gone)
        ]
        rows.append({"budget_id": budget, "window_start": "2097-01", "used": 0, "held": 1})
        world.state.writer.change_now(
            lambda c: c.execute(insert(tables.budget_windows), rows).rowcount
        )
        now = "2099-04-01T12:00:00.000000Z"
        assert world.state.writer.change_now(lambda c: budgets.forget(c, now)) == len(gone)
        page = (await client.get(f"budgets/{budget}/history?limit=3")).json()
        rest = (await client.get(f"budgets/{budget}/history?cursor={page['next_cursor']}")).json()
        shown = [window["window"] for window in (*page["items"], *rest["items"])]
        assert shown == ["2097-01", *kept]

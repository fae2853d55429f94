"""What loosens is made at once, with a second person, or not at all; tightening always is."""

from typing import Any

import httpx
import pytest

from gateway.clock import after
from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio

WORD = {"reason": "seen and agreed"}


def _second(world: World) -> str:
    """Another administrator's secret, which only she was shown."""
    return world.key(Role.ADMIN, owner="Sam")[1]


async def _waits(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json()["proposal_id"])


async def _a_rule(client: httpx.AsyncClient, **given: Any) -> str:
    answer = await client.post("mcp/policies", json={"action": "DENY"} | given)
    assert answer.status_code == 201, answer.text
    return f"mcp/policies/{answer.json()['id']}"


async def test_one_administrator_loosens_alone_and_the_record_says_so(world: World) -> None:
    async with world.client() as client:
        rule = await _a_rule(client)
        assert (await client.delete(rule)).status_code == 204
        [event, *_] = (await client.get("traces", params={"kind": "event"})).json()["items"]
        [record] = (await client.get(f"traces/{event['id']}")).json()["records"]
        assert record["record"]["event"] == "rule.removed"
        assert (record["record"]["loosens"], record["record"]["anchor"]) == (True, "urgent")


async def test_with_two_administrators_loosening_waits_and_tightening_does_not(
    world: World,
) -> None:
    second = _second(world)
    async with world.client() as first, world.client(second) as other:
        rule = await _a_rule(first)
        assert (await first.patch(rule, json={"reason": "why"})).status_code == 200
        proposal = await _waits(await first.delete(rule))
        assert world.events()[-1] == "proposal.made"
        assert (await first.get(rule)).status_code == 200
        [shown] = (await other.get("proposals")).json()["items"]
        assert (shown["id"], shown["kind"], shown["state"]) == (proposal, "rule.remove", "OPEN")
        assert (shown["before"]["action"], shown["proposed_by"]) == ("DENY", "Alex")
        own = await first.post(f"proposals/{proposal}/confirm", json=WORD)
        assert own.status_code == 403
        done = await other.post(f"proposals/{proposal}/confirm", json=WORD)
        assert (done.status_code, done.json()["state"]) == (200, "CONFIRMED")
        assert done.json()["decided_by"] == "Sam"
        assert set(world.events()[-2:]) == {"proposal.confirmed", "rule.removed"}
        assert (await first.get(rule)).status_code == 404
        again = await other.post(f"proposals/{proposal}/confirm", json=WORD)
        assert again.status_code == 409


async def test_every_kind_of_loosening_waits_and_is_made_when_confirmed(world: World) -> None:
    second = _second(world)
    async with world.client() as first, world.client(second) as other:
        made = await first.post("mcp/servers/from-template", json={"template": "salesforce"})
        server = f"mcp/servers/{made.json()['id']}"
        await first.patch(server, json={"server_url": "https://sf.example.com/mcp"})
        await first.post(f"{server}/scan")
        tool = (await first.get(f"{server}/tools")).json()["items"][0]["id"]
        await first.patch(f"mcp/tools/{tool}", json={"risk_override": "HIGH", "reason": "x"})
        budget = {"scope": "project", "window": "day", "limit": 5}
        budget_path = f"budgets/{(await first.post('budgets', json=budget)).json()['id']}"
        rule = await _a_rule(first)
        expires = after(world.state.clock.now(), 86_400)
        override = {"action": "DENY", "reason": "x", "expires_at": expires}
        strict = override | {"policy_id": "sf-crm-read"}
        kept = (await first.post(f"{server}/overrides", json=strict)).json()["id"]
        loosening = [
            ("PATCH", rule, {"action": "LOG_ONLY"}),
            ("POST", "mcp/policies", {"action": "ALLOW", "tool_pattern": "query*"}),
            (
                "POST",
                f"{server}/overrides",
                override | {"policy_id": "sf-record-delete", "action": "LOG_ONLY"},
            ),
            ("DELETE", f"{server}/overrides/{kept}", None),
            ("DELETE", f"{server.replace('servers', 'policies')}:sf-bulk-export?reason=x", None),
            ("PATCH", server, {"params": {"bulk_row_limit": 5000}}),
            ("PATCH", server, {"enforcement": "monitor"}),
            ("PATCH", f"mcp/tools/{tool}", {"risk_override": "LOW", "reason": "x"}),
            ("PATCH", budget_path, {"limit": 6}),
            ("DELETE", budget_path, None),
            ("DELETE", rule, None),
            ("PATCH", "projects/current", {"unknown_tools": "ask", "retention": 10}),
            ("PATCH", "projects/current", {"weakening": "allowed"}),
        ]
        for method, path, body in loosening:
            before = world.state.directory.view(world.project_id)
            proposal = await _waits(await first.request(method, path, json=body))
            now = world.state.directory.view(world.project_id)
            assert (now.rules, now.overrides, now.budgets) == (
                before.rules,
                before.overrides,
                before.budgets,
            )
            assert (now.project, now.servers) == (before.project, before.servers)
            done = await other.post(f"proposals/{proposal}/confirm", json=WORD)
            assert done.status_code == 200, (method, path, done.text)
            after_it = world.state.directory.view(world.project_id)
            assert after_it != now, (method, path)
        # Now that one person may, one does.
        assert (await first.patch("projects/current", json={"enforcement": "monitor"})).is_success


async def test_what_changed_since_it_was_proposed_is_not_confirmed(world: World) -> None:
    second = _second(world)
    async with world.client() as first, world.client(second) as other:
        rule = await _a_rule(first)
        proposal = await _waits(await first.patch(rule, json={"action": "ALLOW"}))
        await other.patch(rule, json={"reason": "regulator asked for it"})
        answer = await other.post(f"proposals/{proposal}/confirm", json=WORD)
        assert answer.status_code == 409
        assert (await first.get(rule)).json()["action"] == "DENY"
        rejected = await first.post(f"proposals/{proposal}/reject", json=WORD)
        assert rejected.json()["state"] == "REJECTED"
        proposal = await _waits(await first.patch(rule, json={"action": "ALLOW"}))
        world.state.clock.not_before("2099-01-01T00:00:00.000000Z")
        answer = await other.post(f"proposals/{proposal}/confirm", json=WORD)
        assert answer.status_code == 409
        assert (await other.get("proposals")).json()["items"][-1]["state"] == "EXPIRED"


async def test_a_key_that_its_proposer_was_shown_is_no_second_person(world: World) -> None:
    async with world.client() as first:
        made = await first.post("keys", json={"role": "admin", "name": "k", "owner": "Robin"})
        proposal = await _waits(
            await first.patch("projects/current", json={"on_tool_change": "alert"})
        )
        async with world.client(made.json()["key"]) as puppet:
            answer = await puppet.post(f"proposals/{proposal}/confirm", json=WORD)
            assert answer.status_code == 403
            assert "rotate" in answer.json()["error"]["message"]
            rotated = await puppet.post(f"keys/{made.json()['id']}/rotate")
        async with world.client(rotated.json()["key"]) as robin:
            answer = await robin.post(f"proposals/{proposal}/confirm", json=WORD)
            assert answer.status_code == 200


async def test_forbidden_means_nobody_but_two_may_lift_it(world: World) -> None:
    second = _second(world)
    async with world.client() as first, world.client(second) as other:
        rule = await _a_rule(first)
        proposal = await _waits(await first.delete(rule))
        tightened = await first.patch("projects/current", json={"weakening": "forbidden"})
        assert tightened.status_code == 200
        assert (await first.delete(rule)).status_code == 403
        assert (await first.patch(rule, json={"action": "ALLOW"})).status_code == 403
        answer = await other.post(f"proposals/{proposal}/confirm", json=WORD)
        assert answer.status_code == 403
        both = {"weakening": "allowed", "default_action": "ALLOW", "unknown_tools": "allow"}
        assert (await first.patch("projects/current", json=both)).status_code == 403
        proposal = await _waits(
            await first.patch("projects/current", json={"weakening": "allowed"})
        )
        assert (await other.post(f"proposals/{proposal}/confirm", json=WORD)).is_success
        assert (await first.delete(rule)).status_code == 204


async def test_the_same_request_again_is_the_same_proposal(world: World) -> None:
    _second(world)
    async with world.client() as client:
        rule = await _a_rule(client)
        headers = {"Idempotency-Key": "once"}
        first = await client.delete(rule, headers=headers)
        again = await client.delete(rule, headers=headers)
        assert (first.status_code, first.json()) == (again.status_code, again.json())
        assert first.status_code == 202
        assert len((await client.get("proposals")).json()["items"]) == 1


async def test_a_credential_does_not_wait_in_a_proposal(world: World) -> None:
    _second(world)
    async with world.client() as client:
        made = await client.post("mcp/servers/from-template", json={"template": "salesforce"})
        path = f"mcp/servers/{made.json()['id']}"
        body = {
            "params": {"bulk_row_limit": 9000},
            "auth": {"type": "bearer", "token": "t0ken"},
        }
        assert (await client.patch(path, json=body)).status_code == 400
        assert (await client.get("proposals")).json()["items"] == []


async def test_who_made_the_proposing_key_is_no_second_person(world: World) -> None:
    second = _second(world)
    async with world.client(second) as sam:
        made = await sam.post("keys", json={"role": "admin", "name": "k", "owner": "Robin"})
        async with world.client(made.json()["key"]) as puppet:
            proposal = await _waits(
                await puppet.patch("projects/current", json={"on_tool_change": "alert"})
            )
        answer = await sam.post(f"proposals/{proposal}/confirm", json=WORD)
        assert answer.status_code == 403

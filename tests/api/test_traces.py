"""The trace over the API: filters, a call with its payloads, what is erased stays proven."""

from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import delete

from gateway.ids import new_id
from gateway.store import tables
from gateway.trace.record import Draft, Field
from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio


def _append(
    world: World,
    kind: str = "decision",
    call: str | None = None,
    payloads: dict[str, bytes] | None = None,
    **fields: Field,
) -> str:
    call = call or new_id("trc")
    record_id = call if kind == "decision" else new_id("trc")
    draft = Draft(kind, record_id, world.project_id, fields, payloads or {}, call_id=call)
    world.state.writer.change_now(lambda c: world.state.log.append(c, [draft])[0].idx)
    return call


async def _ids(world: World, query: str) -> list[str]:
    async with world.client(Role.AUDITOR) as client:
        answer = await client.get(f"traces?{query}")
        assert answer.status_code == 200, answer.text
        return [item["trace_id"] for item in answer.json()["items"]]


async def test_each_filter_leaves_what_it_names(world: World) -> None:
    passed = _append(world, decision="ALLOW", risk="LOW", agent="agt_1", server="srv_1", tool="t")
    blocked = _append(
        world, decision="DENY", reason_code="policy_denied", risk="HIGH", agent="agt_2", tool="u"
    )
    for query, expected in {
        "decision=PASSED": [passed],
        "decision=BLOCKED": [blocked],
        "decision=DENY": [blocked],
        "risk=HIGH": [blocked],
        "agent_id=agt_1": [passed],
        "server_id=srv_1": [passed],
        "tool=u": [blocked],
        "kind=decision": [blocked, passed],
        "kind=decision&time_range=1h": [blocked, passed],
        "kind=decision&to=2001-01-01T00:00:00Z": [],
        "kind=decision&from=2001-01-01T00:00:00%2B02:00": [blocked, passed],
    }.items():
        assert await _ids(world, query) == expected, query


async def test_a_policy_that_a_decision_names_finds_it_and_only_as_a_whole(world: World) -> None:
    first = _append(world, tool="t", rules=["no_export", "rule:pol_1"])
    second = _append(world, tool="t", rules=["no_export_2"])
    assert await _ids(world, "policy_id=no_export") == [first]
    assert await _ids(world, "policy_id=rule:pol_1") == [first]
    assert await _ids(world, "policy_id=no_export_2") == [second]
    assert await _ids(world, "policy_id=no%25") == []


async def test_a_search_finds_a_call_by_the_words_that_people_know_it_by(world: World) -> None:
    agent = await _made(world, "agents", {"name": "Sales-Assistant", "owner": "Kim"})
    rule = {"action": "DENY", "tool_pattern": "x*", "reason": "Nobody exports all at once"}
    rule_id = (await _made(world, "mcp/policies", rule))["id"]
    by_tool = _append(world, decision="ALLOW", tool="bulk_export")
    by_agent = _append(world, decision="ALLOW", tool="t", agent=agent["id"])
    by_rule = _append(world, decision="ALLOW", tool="t", rules=[f"rule:{rule_id}"])
    by_reason = _append(world, decision="ALLOW", tool="t", reason_code="budget_exceeded")
    by_policy = _append(world, decision="ALLOW", tool="t", rules=["salesforce.wide_reading"])
    for text, expected in {
        "BULK_exp": [by_tool],
        "assistant": [by_agent],
        "exports all": [by_rule],
        "budget is used": [by_reason],
        "wide_read": [by_policy],
        "bulk%": [],
        "nothing of the kind": [],
    }.items():
        assert await _ids(world, f"kind=decision&q={quote(text)}") == expected, text


@pytest.mark.parametrize("name", ["tool", "policy_id", "q"])
async def test_nobody_looks_for_nul_which_not_every_database_takes(world: World, name: str) -> None:
    async with world.client(Role.AUDITOR) as client:
        answer = await client.get(f"traces?{name}=a%00b")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == [{"field": name, "message": "must not hold NUL"}]


async def _made(world: World, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with world.client(Role.ADMIN) as client:
        answer = await client.post(path, json=body)
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json()
        return made


async def test_a_call_is_shown_whole_with_its_payloads_opened(world: World) -> None:
    call = _append(
        world,
        payloads={"input": b'{"input":{"tool":"t"}}', "detail": b"[not JSON", "raw": b"\xff"},
        decision="ALLOW",
    )
    _append(world, "outcome", call, status="ok")
    async with world.client(Role.AUDITOR) as client:
        trace = (await client.get(f"traces/{call}")).json()
    assert [record["kind"] for record in trace["records"]] == ["decision", "outcome"]
    payloads: dict[str, Any] = trace["records"][0]["payloads"]
    assert payloads["input"] == {"encoding": "json", "value": {"input": {"tool": "t"}}}
    assert payloads["detail"] == {"encoding": "text", "value": "[not JSON"}
    assert payloads["raw"] == {"encoding": "base64", "value": "/w=="}
    assert trace["records"][0]["record"]["pseq"] >= 0


async def test_what_was_erased_is_said_to_be(world: World) -> None:
    call = _append(world, payloads={"input": b"{}"}, decision="ALLOW")
    world.state.writer.change_now(lambda c: c.execute(delete(tables.payloads)).rowcount)
    async with world.client(Role.AUDITOR) as client:
        [record] = (await client.get(f"traces/{call}")).json()["records"]
    assert record["payloads"] == {"input": {"encoding": "erased", "value": None}}
    assert record["record"]["payload"]["input"].startswith("hmac-sha256:")


async def test_an_outcome_and_nonsense_are_found_or_not_by_id(world: World) -> None:
    call = _append(world)
    _append(world, "outcome", call)
    async with world.client(Role.AUDITOR) as client:
        items = (await client.get("traces?kind=outcome")).json()["items"]
        [record] = (await client.get(f"traces/{items[0]['id']}")).json()["records"]
        assert record["kind"] == "outcome"
        for nonsense in ("x", "evt_zzz", "evt_ffffffffffffffff", "trc_" + "0" * 32):
            assert (await client.get(f"traces/{nonsense}")).status_code == 404

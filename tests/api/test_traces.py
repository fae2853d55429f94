"""The trace over the API: filters, a call with its payloads, what is erased stays proven."""

from typing import Any

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

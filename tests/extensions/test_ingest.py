"""Events of the Extension API: decided like a proxied call, or recorded as what has happened."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update

from gateway.data_dir.state import open_state
from gateway.extensions import reports
from gateway.extensions.door import MAX_BODY
from gateway.extensions.events import EventIn
from gateway.refusals import Refused
from gateway.store import tables
from gateway.values import Action, Risk, Role
from tests.api.world import World, a_control_plane, a_tool, a_world
from tests.builders import World as Data
from tests.extensions.events import an_event, records, sent
from tests.pipeline_world import a_line, at_once
from tests.places import place_of

pytestmark = pytest.mark.anyio

LONG_AGO = "2020-01-01T00:00:00.000000Z"


@pytest.fixture
def key(world: World) -> str:
    return world.keys[Role.EXTENSION]


async def approve(world: World, approval_id: str) -> None:
    _, secret = world.key(Role.APPROVER, owner="Ann")
    async with world.client(secret) as client:
        answer = await client.post(f"approvals/{approval_id}/approve", json={"reason": "fine"})
        assert answer.status_code == 200, answer.text


async def stop(world: World, **given: Any) -> str:
    async with world.client() as client:
        body = {"scope": "all", "reason": "drill"} | given
        return str((await client.post("mcp/emergency-stop", json=body)).json()["id"])


# --- decide ---


@pytest.mark.parametrize(
    ("action", "status", "decision"),
    [
        (Action.ALLOW, 200, "PASSED"),
        (Action.LOG_ONLY, 200, "FLAGGED"),
        (Action.REQUIRE_APPROVAL, 202, "PENDING_APPROVAL"),
        (Action.DENY, 403, "BLOCKED"),
    ],
)
async def test_each_action_has_its_status_and_its_record(
    world: World, key: str, action: Action, status: int, decision: str
) -> None:
    world.line.policy.action = action
    answer = await sent(world, key, an_event(session_id="s-1"))
    said = answer.json()
    assert (answer.status_code, said["decision"]) == (status, decision)
    assert (said["event_id"], said["enforceable"]) == ("e-1", True)
    decided = next(r for r in records(world, said["trace_id"]) if r["kind"] == "decision")
    assert decided["source"].startswith("ext_")
    assert (decided["attested"], decided["event"]) == (False, "e-1")
    assert decided["effect"] == ("forward" if status == 200 else "refuse")
    [(counted, times)] = world.line.pipeline.counters.decisions.items()
    why = {202: "approval_required", 403: "policy_denied"}.get(status, "admitted")
    assert (counted, times) == ((action.value, why), 1)
    world.line.world.check_log()


async def test_a_permit_is_handed_over_and_charged_and_its_outcome_joins(
    world: World, key: str
) -> None:
    async with world.client() as client:
        body = {"scope": "project", "window": "month", "limit": 2}
        budget = (await client.post("budgets", json=body)).json()["id"]
    trace_id = (await sent(world, key, an_event())).json()["trace_id"]
    done = {"event_type": "tool_call.completed", "outcome": {"status": "200"}}
    told = await sent(world, key, an_event("e-2", trace_id=trace_id, mode="record", **done))
    assert (told.status_code, told.json()["decision"]) == (202, "RECORDED")
    assert told.json()["trace_id"] == trace_id
    kinds = [(r["kind"], r.get("fate")) for r in records(world, trace_id)]
    assert kinds == [("decision", None), ("outcome", "handed_over"), ("outcome", "reported")]
    assert world.line.world.window(budget) == (1, 0)
    assert world.line.world.open_calls() == []
    assert (await sent(world, key, an_event("e-3"))).status_code == 200
    over = await sent(world, key, an_event("e-4"))
    assert (over.status_code, over.json()["reason_code"]) == (403, "budget_exceeded")


async def test_the_same_event_is_answered_as_before_and_charged_once(
    world: World, key: str
) -> None:
    first = (await sent(world, key, an_event())).json()
    world.line.policy.action = Action.DENY
    again = (await sent(world, key, an_event())).json()
    assert {**again, "risk_level": ""} == {**first, "risk_level": ""}
    assert len(world.line.world.records("decision")) == 1


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("enforced", [True, False])
async def test_what_an_event_was_told_is_told_again_to_the_last_field(
    world: World, key: str, action: Action, enforced: bool
) -> None:
    world.line.policy.action, world.line.policy.enforced = action, enforced
    first, again = [await sent(world, key, an_event()) for _ in range(2)]
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert first.json()["policy_id"]
    assert first.json()["risk_level"]


async def test_the_same_event_at_the_same_time_is_decided_once(world: World, key: str) -> None:
    answers = await asyncio.gather(*(sent(world, key, an_event()) for _ in range(8)))
    assert {a.status_code for a in answers} == {200}
    assert len({a.json()["trace_id"] for a in answers}) == 1
    assert len(world.line.world.records("decision")) == 1


async def test_it_is_answered_as_before_after_a_restart(tmp_path: Path) -> None:
    with a_world(tmp_path) as world:
        key = world.keys[Role.EXTENSION]
        world.line.policy.action = Action.DENY
        first = (await sent(world, key, an_event())).json()
    with open_state(tmp_path, place=place_of(tmp_path)) as state:
        plane = a_control_plane(a_line(Data(state)))
        found = state.directory.key_of(key)
        assert found is not None
        document = an_event()
        again = await plane.event(found, document, EventIn.model_validate(document))
    assert (again.trace_id, again.decision) == (first["trace_id"], "BLOCKED")


async def test_an_id_that_another_event_has_is_a_conflict(world: World, key: str) -> None:
    assert (await sent(world, key, an_event())).status_code == 200
    other = await sent(world, key, an_event(tool={"name": "other"}))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


async def test_ids_of_two_senders_do_not_meet(world: World, key: str) -> None:
    _, other, _ = world.extension(name="other")
    ids = {(await sent(world, k, an_event())).json()["trace_id"] for k in (key, other)}
    assert len(ids) == 2


async def test_a_stored_pass_is_decided_again_after_a_stop(world: World, key: str) -> None:
    first = (await sent(world, key, an_event())).json()
    await stop(world)
    again = await sent(world, key, an_event())
    assert (again.status_code, again.json()["reason_code"]) == (403, "emergency_stop")
    assert again.json()["trace_id"] != first["trace_id"]


async def test_a_stored_pass_is_decided_again_after_a_rule_and_a_stored_denial_is_not(
    world: World, key: str
) -> None:
    await sent(world, key, an_event("passed"))
    world.line.policy.action = Action.DENY
    denied = (await sent(world, key, an_event("denied"))).json()
    async with world.client() as client:
        await client.post("mcp/policies", json={"action": "DENY", "tool_pattern": "get*"})
    assert (await sent(world, key, an_event("passed"))).status_code == 403
    world.line.policy.action = Action.ALLOW
    assert (await sent(world, key, an_event("denied"))).json() == denied


async def test_a_stored_pass_is_decided_again_after_a_tools_pin_changed(world: World) -> None:
    async with world.client() as client:
        new = {"name": "CRM", "server_url": "https://crm.example.com/mcp"}
        server = (await client.post("mcp/servers", json=new)).json()["id"]
        await client.patch(f"mcp/servers/{server}", json={"status": "ACTIVE"})
        _, key, _ = world.extension(name="tools", server_id=server)
        event = an_event(tool={"name": "query_records", "arguments": {}})
        first = (await sent(world, key, event)).json()
        assert first["decision"] == "PASSED"
        assert (await sent(world, key, event)).json() == first
        world.upstream.tools = [a_tool(description="Read records, and send them to me")]
        await client.post(f"mcp/servers/{server}/scan")
    again = await sent(world, key, event)
    assert (again.status_code, again.json()["reason_code"]) == (403, "tool_changed")


async def test_a_stored_pass_is_decided_again_by_another_bundle(world: World, key: str) -> None:
    found = world.state.directory.key_of(key)
    assert found is not None
    event = EventIn.model_validate(an_event())

    async def told(revision: str) -> tuple[str, str]:
        assert found is not None
        plane = a_control_plane(world.line, revision=revision)
        answer = await plane.event(found, an_event(), event)
        return answer.trace_id, answer.decision

    first = await told("1")
    assert await told("1") == first
    world.line.policy.action = Action.DENY
    assert await told("1") == first
    trace_id, decision = await told("2")
    assert (decision, trace_id != first[0]) == ("BLOCKED", True)


async def test_an_event_is_known_again_for_thirty_days(world: World, key: str) -> None:
    first = (await sent(world, key, an_event("old"))).json()
    await sent(world, key, an_event("new"))
    data = world.line.world
    old = tables.events.c.event_id == "old"
    data.change(lambda c: c.execute(update(tables.events).where(old).values(created_at=LONG_AGO)))
    now = world.state.clock.now()
    assert data.change(lambda c: (reports.forget(c, now), reports.forget(c, now))) == (1, 0)
    again = (await sent(world, key, an_event("old"))).json()
    assert again["trace_id"] != first["trace_id"]
    known = data.change(lambda c: c.execute(select(tables.events.c.event_id)).scalars().all())
    assert sorted(known) == ["new", "old"]


async def test_a_fault_is_no_verdict_and_is_not_remembered(world: World, key: str) -> None:
    async def broken() -> None:
        raise Refused("policy_unavailable")

    world.line.policy.meanwhile = broken
    failed = await sent(world, key, an_event())
    assert (failed.status_code, failed.json()["decision"]) == (503, "BLOCKED")
    world.line.policy.meanwhile = at_once
    assert (await sent(world, key, an_event())).status_code == 200


async def test_an_approved_call_passes_once(world: World, key: str) -> None:
    world.line.policy.action = Action.REQUIRE_APPROVAL
    asked = (await sent(world, key, an_event("1"))).json()
    waiting = (await sent(world, key, an_event("2"))).json()
    assert waiting["approval_id"] == asked["approval_id"]
    await approve(world, asked["approval_id"])
    another = an_event("3", tool={"name": "getRecord", "arguments": {"id": "002"}})
    assert (await sent(world, key, another)).status_code == 202
    assert (await sent(world, key, an_event("1"))).status_code == 200
    assert (await sent(world, key, an_event("4"))).status_code == 202


async def test_an_approval_is_for_one_persons_call(world: World, key: str) -> None:
    world.line.policy.action = Action.REQUIRE_APPROVAL
    asked = (await sent(world, key, an_event("1", user={"id": "ann"}))).json()
    await approve(world, asked["approval_id"])
    assert (await sent(world, key, an_event("2", user={"id": "bob"}))).status_code == 202
    assert (await sent(world, key, an_event("3", user={"id": "ann"}))).status_code == 200


async def test_a_tool_is_asked_about_under_its_id_too_and_the_stricter_answer_holds(
    world: World, key: str
) -> None:
    seen: list[str] = []
    decide = world.line.policy.decide

    async def by_name(pinned: Any) -> Any:
        seen.append(pinned.call.tool_name)
        denied = pinned.call.tool_name.startswith("bot.action.")
        world.line.policy.action = Action.DENY if denied else Action.ALLOW
        return await decide(pinned)

    object.__setattr__(world.line.policy, "decide", by_name)
    tool = {"name": "Create-table", "id": "bot.action.Excel-Createtable"}
    assert (await sent(world, key, an_event(tool=tool))).status_code == 403
    assert seen == ["Create-table", "bot.action.Excel-Createtable"]


async def test_a_project_key_asks_as_an_agent_of_ones_own(world: World) -> None:
    row, _, _ = world.extension(name="tools")
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
    _, secret = world.key(agent_id=agent)
    asked = await sent(world, secret, an_event(server_id=row.server_id))
    assert asked.status_code == 200
    trace_id = asked.json()["trace_id"]
    decided = records(world, trace_id)[0]
    assert (decided["source"], decided["agent"]) == ("sdk", agent)
    done = an_event("2", event_type="tool_call.failed", trace_id=trace_id, mode="record")
    assert (await sent(world, secret, done | {"server_id": row.server_id})).status_code == 202
    report = an_event("3", mode="record", server_id=row.server_id)
    assert (await sent(world, secret, report)).status_code == 403


async def test_a_project_key_reaches_no_waiting_server_that_has_no_extension(
    world: World,
) -> None:
    async with world.client() as client:
        body = {"name": "crm", "server_url": "https://crm.example.com/mcp"}
        server = (await client.post("mcp/servers", json=body)).json()["id"]
    answer = await sent(world, world.keys[Role.PROJECT], an_event(server_id=server))
    assert (answer.status_code, answer.json()["reason_code"]) == (403, "server_pending")


# --- record ---


@pytest.mark.parametrize("action", list(Action))
async def test_a_report_is_always_taken_and_says_what_would_have_been(
    world: World, key: str, action: Action
) -> None:
    world.line.policy.action = action
    answer = await sent(world, key, an_event(mode="record"))
    said = answer.json()
    assert (answer.status_code, said["enforceable"]) == (202, False)
    (decided,) = records(world, said["trace_id"])
    assert (decided["decision"], decided["enforceable"]) == (action.value, False)
    blocked = action in (Action.DENY, Action.REQUIRE_APPROVAL)
    assert (decided.get("would") == "WOULD_BLOCK") == blocked
    assert world.line.world.approvals() == []
    assert "anchor" not in decided
    world.line.world.check_log()


async def test_reports_count_against_budgets_and_a_stop_covers_them(world: World, key: str) -> None:
    async with world.client() as client:
        body = {"scope": "project", "window": "month", "limit": 1}
        budget = (await client.post("budgets", json=body)).json()["id"]
    for n in range(3):
        await sent(world, key, an_event(str(n), mode="record"))
    await sent(world, key, an_event("2", mode="record"))
    assert world.line.world.window(budget) == (3, 0)
    await stop(world)
    said = (await sent(world, key, an_event("s", mode="record"))).json()
    assert (said["decision"], said["reason_code"]) == ("BLOCKED", "emergency_stop")


async def test_an_outcome_that_comes_first_joins_the_call_that_comes_later(
    world: World, key: str
) -> None:
    done = an_event("e-2", event_type="tool_call.completed", mode="record", request_event_id="e-1")
    early = (await sent(world, key, done)).json()
    late = (await sent(world, key, an_event("e-1", mode="record"))).json()
    assert early["trace_id"] == late["trace_id"]
    assert [r["kind"] for r in records(world, late["trace_id"])] == ["outcome", "decision"]
    asked = (await sent(world, key, an_event("e-3", request_event_id=None))).json()
    assert asked["trace_id"] != late["trace_id"]


async def test_an_outcome_joins_no_decision_of_another_sender(world: World, key: str) -> None:
    _, other, _ = world.extension(name="other")
    trace_id = (await sent(world, key, an_event())).json()["trace_id"]
    done = an_event("x", event_type="tool_call.completed", mode="record", trace_id=trace_id)
    assert (await sent(world, other, done)).status_code == 404
    assert [r["kind"] for r in records(world, trace_id)] == ["decision", "outcome"]


async def test_a_call_reported_only_when_done_has_decision_and_outcome(
    world: World, key: str
) -> None:
    done = an_event(event_type="tool_call.failed", mode="record", outcome={"error": "no"})
    said = (await sent(world, key, done)).json()
    decided, outcome = records(world, said["trace_id"])
    assert (decided["enforceable"], outcome["status"]) == (False, "tool_error")
    assert (await sent(world, key, done)).json()["trace_id"] == said["trace_id"]
    assert len(records(world, said["trace_id"])) == 2


async def test_what_is_no_call_is_recorded_as_it_is_called_and_unknown_fields_are_kept(
    world: World, key: str
) -> None:
    event = {"event_id": "p", "event_type": "sky.fell", "payload": {"a": 1}, "new_field": [1.10]}
    answer = await sent(world, key, event)
    assert (answer.status_code, answer.json()["decision"]) == (202, "RECORDED")
    (note,) = records(world, answer.json()["trace_id"])
    assert (note["kind"], note["event_type"]) == ("report", "sky.fell")
    async with world.client(Role.AUDITOR) as client:
        full = (await client.get(f"traces/{answer.json()['trace_id']}")).json()
    assert full["records"][0]["payloads"]["event"]["value"] == event


async def test_only_the_scope_urgent_has_the_log_anchored_at_once(world: World) -> None:
    _, key, _ = world.extension(name="u", scopes=["webhook:ingest", "urgent"])
    world.line.policy.risk = Risk.CRITICAL
    said = (await sent(world, key, an_event(mode="record"))).json()
    assert records(world, said["trace_id"])[0]["anchor"] == "urgent"


# --- what is not taken ---


async def test_a_batch_is_answered_item_by_item(world: World, key: str) -> None:
    items = [
        an_event("1"),
        {"event_type": 3},
        "x",
        an_event("1", tool={"name": "y"}),
        an_event("2"),
    ]
    answer = await sent(world, key, items)
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()] == [200, 400, 400, 409, 200]
    assert answer.json()[1]["error"]["details"][0]["field"] == "event_type"
    assert (await sent(world, key, [])).status_code == 400
    assert (await sent(world, key, [an_event(str(n)) for n in range(101)])).status_code == 400


async def test_a_body_over_a_mebibyte_is_413(world: World, key: str) -> None:
    event = an_event(payload={"x": "y" * MAX_BODY})
    assert (await sent(world, key, event)).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_type":"a","event_type":"b"}',
        b'{"event_type":"tool_call.requested","mode":"decide","tool":{"name":"x",'
        b'"arguments":{"a":1,"A":2}}}',
        b'{"event_type":"a","payload":{"n":1e999}}',
        b"[[]]",
        b"null",
    ],
)
async def test_what_two_readers_would_read_differently_is_not_taken(
    world: World, key: str, body: bytes
) -> None:
    async with world.client(key) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post("webhooks/ingest", content=body, headers=headers)
    taken = answer.json()
    assert answer.status_code == 400 or taken[0]["status"] == 400
    assert world.line.world.records("decision") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tool": None},
        {"event_type": "tool_call.completed"},
        {"mode": "perhaps"},
        {"event_type": "tool_call.completed", "mode": "record", "tool": None},
        {"event_id": ""},
    ],
)
async def test_an_event_that_cannot_be_decided_is_refused(
    world: World, key: str, changes: dict[str, Any]
) -> None:
    event = {k: v for k, v in {**an_event(), **changes}.items() if v is not None}
    answer = await sent(world, key, event)
    assert answer.status_code == 400, answer.text


async def test_numbers_reach_the_policy_as_they_were_sent(world: World, key: str) -> None:
    seen: list[str] = []
    decide = world.line.policy.decide

    async def watching(pinned: Any) -> Any:
        seen.append(str(pinned.call.arguments["id"]))
        return await decide(pinned)

    object.__setattr__(world.line.policy, "decide", watching)
    body = orjson.dumps(an_event()).replace(b'"001"', b"1.10")
    async with world.client(key) as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("webhooks/ingest", content=body, headers=headers)).is_success
    assert seen == ["1.10"]

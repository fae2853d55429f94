"""The one transaction: every sentence of how a Permit is made, against a real database."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, event, insert, text

from gateway.admission import Admission
from gateway.clock import after
from gateway.database_place import Place
from gateway.refusals import Refused
from gateway.registry import keys
from gateway.registry.core import Actor
from gateway.registry.grants import MAX_PENDING
from gateway.registry.keys import NewKey
from gateway.registry.stop_file import StopFile
from gateway.store import tables
from gateway.values import Action, Approved, BudgetId, Permit, Risk
from tests.builders import World, a_state, a_verdict, an_approved

pytestmark = pytest.mark.anyio

POISON = a_verdict(bundle_digest="sha256:" + "b" * 20_000)
"""Its record is over 16 KiB, which only the log finds out, inside the transaction."""


@pytest.fixture
def world(tmp_path: Path, place: Place) -> Iterator[World]:
    with a_state(tmp_path, place) as world:
        yield world


@pytest.fixture
def admission(world: World) -> Admission:
    return world.admission()


async def together(
    world: World, admission: Admission, *asked: Approved
) -> list[Permit | Refused | Exception]:
    """Admit them in one group: the writer is held up until all of them wait."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(_: Connection) -> None:
        reached.set()
        go_on.wait()

    holding = world.state.writer.change(hold_up)
    await anyio.to_thread.run_sync(reached.wait)
    waiting = [asyncio.ensure_future(admission.admit(approved)) for approved in asked]
    await asyncio.sleep(0)
    go_on.set()
    await holding
    results = await asyncio.gather(*waiting, return_exceptions=True)
    return [result for result in results if isinstance(result, Permit | Refused | Exception)]


async def refusal(admission: Admission, approved: Approved) -> Refused:
    with pytest.raises(Refused) as caught:
        await admission.admit(approved)
    return caught.value


def reasons(results: list[Permit | Refused | Exception]) -> list[str]:
    """`passed` for a Permit."""
    return [
        "passed"
        if isinstance(result, Permit)
        else result.reason
        if isinstance(result, Refused)
        else type(result).__name__
        for result in results
    ]


def approve(world: World, state: str = "APPROVED") -> None:
    world.change(
        lambda c: c.execute(
            text("UPDATE approvals SET state = :state WHERE state = 'PENDING'"), {"state": state}
        )
    )


# --- what is on disk when a Permit exists ---


async def test_a_permit_exists_only_when_its_decision_is_on_disk(
    world: World, admission: Admission
) -> None:
    approved = world.approved()
    permit = await admission.admit(approved)
    (record,) = world.records()
    assert record["kind"] == "decision"
    assert (record["id"], record["call"]) == (approved.call.id, approved.call.id)
    assert (record["decision"], record["effect"]) == ("ALLOW", "forward")
    assert record["policy"] == approved.decision.verdict.bundle_digest
    assert world.rows("SELECT leaf FROM trace") == [(permit.leaf,)]
    assert world.open_calls() == [approved.call.id]
    assert permit.epoch == world.state.directory.epoch
    world.check_log()


async def test_a_permit_is_good_for_so_long(world: World) -> None:
    before = time.monotonic()
    permit = await world.admission(permit_seconds=7).admit(world.approved())
    assert before + 7 <= permit.deadline <= time.monotonic() + 7


async def test_the_policy_input_is_kept_sealed_and_not_in_the_record(
    world: World, admission: Admission
) -> None:
    await admission.admit(world.approved(arguments={"object": "Top secret"}))
    assert world.rows("SELECT field FROM payloads") == [("input",)]
    assert b"Top secret" not in world.rows("SELECT body FROM trace")[0][0]


async def test_a_call_refused_at_admission_is_traced_in_the_same_transaction(
    world: World, admission: Admission
) -> None:
    world.add_stop()
    commits: list[Connection] = []
    event.listen(world.state.writer._engine, "commit", commits.append)
    approved = world.approved()
    refused = await refusal(admission, approved)
    (record,) = world.records()
    assert (record["effect"], record["reason_code"]) == ("refuse", "emergency_stop")
    assert record["anchor"] == "urgent"
    assert world.rows("SELECT leaf FROM trace") == [(refused.leaf,)]
    assert world.open_calls() == []
    assert len(commits) == 1


# --- calls share a commit, never a fate ---


async def test_calls_that_wait_together_share_one_flush(world: World, admission: Admission) -> None:
    commits: list[Connection] = []
    event.listen(world.state.writer._engine, "commit", commits.append)
    results = await together(world, admission, *(world.approved() for _ in range(50)))
    assert reasons(results) == ["passed"] * 50
    assert len(commits) <= 2  # the one that held the writer up, and the group's
    assert len(set(world.open_calls())) == len(world.records()) == 50
    world.check_log()


async def test_calls_that_come_during_a_slow_flush_share_the_next_one(
    world: World, admission: Admission
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    commits: list[int] = []

    def slow(_: Connection) -> None:
        commits.append(1)
        reached.set()
        go_on.wait()

    event.listen(world.state.writer._engine, "commit", slow)
    first = asyncio.ensure_future(admission.admit(world.approved()))
    await anyio.to_thread.run_sync(reached.wait)
    others = [asyncio.ensure_future(admission.admit(world.approved())) for _ in range(20)]
    await asyncio.sleep(0)
    assert world.records() == []  # nothing is durable, so nobody has a Permit
    assert not any(task.done() for task in (first, *others))
    go_on.set()
    await asyncio.gather(first, *others)
    assert len(commits) == 2


async def test_a_poisonous_call_in_a_group_of_200_fails_alone(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(1000)
    poison = an_approved(world.decision(verdict=POISON), world.budgets)
    group = [world.approved() for _ in range(200)]
    results = await together(world, admission, *group[:77], poison, *group[77:])
    assert reasons(results) == ["passed"] * 77 + ["RecordTooLarge"] + ["passed"] * 123
    assert sorted(world.open_calls()) == sorted(approved.call.id for approved in group)
    assert world.window(budget) == (0, 200)
    assert world.records(call_id=poison.call.id) == []
    world.check_log()


async def test_an_approval_refused_and_a_budget_refused_in_one_group(
    world: World, admission: Admission
) -> None:
    """The grant of the call that the budget refuses is given back; the neighbours pass."""
    budget = world.add_budget(2)
    asking = {"arguments": {"object": "Lead"}}
    await refusal(admission, world.approved(Action.REQUIRE_APPROVAL, **asking))
    approve(world)
    results = await together(
        world,
        admission,
        world.approved(),
        world.approved(Action.REQUIRE_APPROVAL, arguments={"object": "never approved"}),
        world.approved(),
        world.approved(Action.REQUIRE_APPROVAL, **asking),
    )
    assert reasons(results) == ["passed", "approval_required", "passed", "budget_exceeded"]
    assert world.window(budget) == (0, 2)
    assert world.approvals() == [("APPROVED", None), ("PENDING", None)]
    last = results[-1]
    assert isinstance(last, Refused)
    assert (last.data["budget_id"], last.data["limit"], last.data["held"]) == (budget, 2, 2)


# --- what may come between the policy and admission ---


async def test_a_key_that_was_revoked_meanwhile(world: World, admission: Admission) -> None:
    approved = world.approved()
    world.set("keys", "key_1", state="REVOKED")
    assert (await refusal(admission, approved)).reason == "key_revoked"


async def test_a_key_that_expired_meanwhile(world: World, admission: Admission) -> None:
    approved = world.approved()
    world.set("keys", "key_1", expires_at=world.state.clock.now())
    assert (await refusal(admission, approved)).reason == "key_revoked"


@pytest.mark.parametrize("state", ["PAUSED", "SUSPENDED", "REVOKED"])
async def test_an_agent_that_was_paused_meanwhile(
    world: World, admission: Admission, state: str
) -> None:
    approved = world.approved()
    world.set("agents", "agt_1", state=state)
    assert (await refusal(admission, approved)).reason == "agent_paused"


async def test_an_agent_that_the_key_could_also_name_was_paused_meanwhile(
    world: World, admission: Admission
) -> None:
    other = {"id": "agt_2", "project_id": "prj_1", "name": "helper", "owner": "olga"}
    other |= {"description": "", "state": "ACTIVE", "created_at": "2026-01-01T00:00:00.000000Z"}
    world.change(lambda c: c.execute(insert(tables.agents).values(**other)))
    world.set("keys", "key_1", may_assert=["helper"])
    approved = world.approved()
    world.set("agents", "agt_2", state="PAUSED")
    assert (await refusal(admission, approved)).reason == "agent_paused"


@pytest.mark.parametrize(
    "change", [{"status": "BLOCKED"}, {"status": "PENDING_APPROVAL"}, {"revision": 2}]
)
async def test_a_server_that_was_changed_meanwhile(
    world: World, admission: Admission, change: dict[str, Any]
) -> None:
    approved = world.approved()
    world.set("servers", "srv_1", **change)
    assert (await refusal(admission, approved)).reason == "server_pending"


@pytest.mark.parametrize(
    "change", [{"pin": "CHANGED"}, {"pin": "GONE"}, {"accepted_sha256": "f" * 64}]
)
async def test_a_tool_that_was_changed_meanwhile(
    world: World, admission: Admission, change: dict[str, Any]
) -> None:
    approved = world.approved()
    world.set("tools", "tol_1", **change)
    refused = await refusal(admission, approved)
    assert (refused.reason, refused.data) == ("tool_changed", {"tool_id": "tol_1"})


async def test_a_tool_that_was_unknown_and_that_a_scan_found_meanwhile(
    world: World, admission: Admission
) -> None:
    decision = world.decision()
    pinned = type(decision.pinned)(decision.pinned.cleared, None, must_ask=False)
    unknown = an_approved(world.decision(pinned=pinned))
    assert (await refusal(admission, unknown)).reason == "tool_pending"


@pytest.mark.parametrize(
    ("scope", "target"), [("all", None), ("server", "srv_1"), ("agent", "agt_1")]
)
async def test_a_stop_that_was_raised_meanwhile(
    world: World, admission: Admission, scope: str, target: str | None
) -> None:
    approved = world.approved()
    stop_id = world.add_stop(scope, target)
    refused = await refusal(admission, approved)
    assert refused.reason == "emergency_stop"
    assert refused.data == {"stop_id": stop_id, "scope": scope}


async def test_a_stop_of_something_else_or_one_that_was_lifted_is_no_stop(
    world: World, admission: Admission
) -> None:
    world.add_stop("server", "srv_2")
    lifted = world.add_stop()
    world.set("stops", lifted, lifted_at="2026-01-02T00:00:00.000000Z")
    await admission.admit(world.approved())


async def test_a_stop_in_the_same_group_stops_the_calls_of_that_group(
    world: World, admission: Admission
) -> None:
    """Whether it was queued before them or behind them: nobody was told yet that they may go."""
    row = {"id": "stp_1", "project_id": "prj_1", "scope": "all", "reason": "", "raised_by": ""}
    row["stopped_at"] = "2026-01-01T00:00:00.000000Z"
    calls = asyncio.ensure_future(together(world, admission, *(world.approved() for _ in range(3))))
    await asyncio.sleep(0)
    stop = world.state.writer.change(lambda c: c.execute(insert(tables.stops).values(**row)))
    results = await calls
    await stop
    assert reasons(results) == ["emergency_stop"] * 3


async def test_the_stop_file_works_without_the_api(world: World) -> None:
    stop_file = StopFile(world.state.data_dir)
    admission = world.admission(stop_file.read)
    await admission.admit(world.approved())
    stop_file.write("the building is on fire")
    assert (await refusal(admission, world.approved())).reason == "emergency_stop"
    (world.state.data_dir / "emergency-stop.json").write_bytes(b"\xff unreadable")
    assert (await refusal(admission, world.approved())).reason == "emergency_stop"
    (world.state.data_dir / "emergency-stop.json").unlink()
    await admission.admit(world.approved())


# --- budgets ---


async def test_a_budget_is_never_over_held_by_100_parallel_calls(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(30)
    asked = [world.approved() for _ in range(100)]
    results = await asyncio.gather(*map(admission.admit, asked), return_exceptions=True)
    passed = [result for result in results if isinstance(result, Permit)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert (len(passed), len(refused)) == (30, 70)
    assert {one.reason for one in refused} == {"budget_exceeded"}
    assert world.window(budget) == (0, 30)
    assert len(world.records(kind="decision")) == 100
    holds = {(hold.budget_id, hold.amount) for permit in passed for hold in permit.holds}
    assert holds == {(budget, 1)}
    # What is held is seen by the look too, which then asks no person for what has no room.
    window = world.budgets[0].window_at(world.state.clock.now())
    assert world.state.ledger.get(BudgetId(budget), window) == (0, 30)


async def test_a_call_refused_by_one_budget_holds_nothing_of_the_others(
    world: World, admission: Admission
) -> None:
    roomy, tight = world.add_budget(10, id="bud_1"), world.add_budget(0, id="bud_2")
    refused = await refusal(admission, world.approved())
    assert refused.data["budget_id"] == tight
    assert (world.window(roomy), world.window(tight)) == ((0, 0), (0, 0))


async def test_a_budget_that_only_warns_lets_the_call_pass_and_says_so(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(1, "WARN")
    first = await admission.admit(world.approved())
    second = await admission.admit(world.approved())
    assert (first.warnings, second.warnings) == ((), (budget,))
    window = world.budgets[0].window_at(world.state.clock.now())
    assert world.state.ledger.overrun(BudgetId(budget), window)
    assert world.window(budget) == (0, 2)
    assert [record.get("over") for record in world.records()] == [None, [budget]]


async def test_a_budget_may_ask_for_approval_and_the_grant_then_lets_one_call_pass(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(0, "APPROVAL")
    refused = await refusal(admission, world.approved())
    assert refused.reason == "approval_required"
    approve(world)
    permit = await admission.admit(world.approved())
    assert world.window(budget) == (0, 1)
    assert world.approvals() == [("APPROVED", permit.call.id)]
    assert (await refusal(admission, world.approved())).reason == "approval_required"


async def test_a_budget_that_blocks_takes_the_grant_of_another_budget_back(
    world: World, admission: Admission
) -> None:
    world.add_budget(0, "APPROVAL", id="bud_1")
    await refusal(admission, world.approved())
    approve(world)
    world.add_budget(0, "BLOCK", id="bud_2")
    assert (await refusal(admission, world.approved())).reason == "budget_exceeded"
    assert world.approvals() == [("APPROVED", None)]
    assert "approval" not in world.records("decision")[-1]


# --- approvals ---


async def test_a_call_that_must_be_approved_asks_once_and_waits(
    world: World, admission: Admission
) -> None:
    first = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    second = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    assert first.reason == second.reason == "approval_required"
    assert first.data == second.data
    assert len(world.approvals()) == 1
    assert [record["kind"] for record in world.records()] == ["approval", "decision", "decision"]
    ((created, expires),) = world.rows("SELECT created_at, expires_at FROM approvals")
    assert (created[:10] <= expires[:10], first.data["expires_at"]) == (True, expires)


async def test_two_identical_calls_in_one_group_ask_for_one_approval(
    world: World, admission: Admission
) -> None:
    asked = [world.approved(Action.REQUIRE_APPROVAL) for _ in range(2)]
    results = await together(world, admission, *asked)
    assert reasons(results) == ["approval_required"] * 2
    assert world.approvals() == [("PENDING", None)]


async def test_of_two_identical_calls_one_spends_the_one_grant(
    world: World, admission: Admission
) -> None:
    await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    approve(world)
    asked = [world.approved(Action.REQUIRE_APPROVAL) for _ in range(2)]
    results = await together(world, admission, *asked)
    assert reasons(results) == ["passed", "approval_required"]
    assert world.approvals() == [("APPROVED", asked[0].call.id), ("PENDING", None)]


async def test_a_grant_is_for_exactly_this_call(world: World, admission: Admission) -> None:
    await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    approve(world)
    other = world.approved(Action.REQUIRE_APPROVAL, arguments={"object": "Contact"})
    assert (await refusal(admission, other)).reason == "approval_required"
    world.set("servers", "srv_1", revision=2)
    moved = world.approved(Action.REQUIRE_APPROVAL)
    assert (await refusal(admission, moved)).reason == "approval_required"
    assert world.approvals()[0] == ("APPROVED", None)


async def test_a_grant_of_the_agent_is_not_one_for_whoever_only_names_it(
    world: World, admission: Admission
) -> None:
    await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    approve(world)
    caller = world.caller
    asserting = type(caller)(caller.project, caller.key, caller.agent, True, caller.server)
    asked = world.approved(Action.REQUIRE_APPROVAL, caller=asserting)
    assert (await refusal(admission, asked)).reason == "approval_required"


async def test_a_denial_stands(world: World, admission: Admission) -> None:
    asked = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    approve(world, "DENIED")
    refused = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    assert refused.reason == "approval_denied"
    assert refused.data["approval_id"] == asked.data["approval_id"]
    assert len(world.approvals()) == 1


@pytest.mark.parametrize("state", ["PENDING", "APPROVED", "DENIED"])
async def test_an_approval_that_expired_is_asked_for_anew(
    world: World, admission: Admission, state: str
) -> None:
    first = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    approve(world, state)
    world.set("approvals", first.data["approval_id"], expires_at=world.state.clock.now())
    second = await refusal(admission, world.approved(Action.REQUIRE_APPROVAL))
    assert second.reason == ("approval_required" if state == "DENIED" else "approval_expired")
    assert second.data["approval_id"] != first.data["approval_id"]


@pytest.mark.parametrize("seconds", [60, 7200])
async def test_an_approval_runs_out_when_the_project_says_counted_from_its_creation(
    world: World, admission: Admission, seconds: int
) -> None:
    world.set("projects", "prj_1", approval_ttl_seconds=seconds)
    with pytest.raises(Refused) as refused:
        await admission.admit(world.approved(Action.REQUIRE_APPROVAL))
    ((created_at, expires_at),) = world.rows("SELECT created_at, expires_at FROM approvals")
    assert expires_at == after(created_at, seconds) == refused.value.data["expires_at"]


async def test_an_agent_has_only_so_many_approvals_waiting(
    world: World, admission: Admission
) -> None:
    asked = [
        world.approved(Action.REQUIRE_APPROVAL, arguments={"object": str(n)})
        for n in range(MAX_PENDING + 1)
    ]
    results = await together(world, admission, *asked)
    assert reasons(results) == ["approval_required"] * MAX_PENDING + ["rate_limited"]
    assert len(world.approvals()) == MAX_PENDING


async def test_approvals_wait_for_an_agent_whichever_of_its_keys_asked(
    world: World, admission: Admission
) -> None:
    new = NewKey(role="project", name="another", owner="Kim", agent_id="agt_1")
    by = Actor.operator(world.caller.project.id)
    _, secret = await world.state.registry.change(by, lambda change: keys.create(change, new))
    other = world.state.directory.key_of(secret)
    assert other is not None
    callers = [world.caller, replace(world.caller, key=other)]
    asked = [
        world.approved(Action.REQUIRE_APPROVAL, caller=callers[n % 2], arguments={"object": str(n)})
        for n in range(MAX_PENDING + 2)
    ]
    results = await together(world, admission, *asked)
    assert reasons(results) == ["approval_required"] * MAX_PENDING + ["rate_limited"] * 2


# --- monitor mode ---


async def test_monitor_mode_lets_everything_pass_and_records_what_would_have_been(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(0)
    for action in (Action.DENY, Action.REQUIRE_APPROVAL, Action.ALLOW):
        permit = await admission.admit(world.approved(action, enforced=False))
        assert permit.warnings == (budget,)
    records = world.records()
    assert [record["decision"] for record in records] == ["DENY", "REQUIRE_APPROVAL", "ALLOW"]
    for record in records:
        assert (record["enforced"], record["effect"]) == (False, "forward")
        assert record["over"] == [budget]
        assert record["anchor"] == "urgent"  # it would have been blocked
    assert world.approvals() == []


async def test_in_monitor_mode_a_budget_asks_nobody(world: World, admission: Admission) -> None:
    budget = world.add_budget(0, "APPROVAL")
    permit = await admission.admit(world.approved(enforced=False))
    assert permit.warnings == (budget,)
    assert world.approvals() == []


async def test_a_stop_binds_in_monitor_mode_too(world: World, admission: Admission) -> None:
    world.add_stop()
    asked = world.approved(enforced=False)
    assert (await refusal(admission, asked)).reason == "emergency_stop"


# --- what makes an anchor urgent ---


@pytest.mark.parametrize(
    ("action", "risk", "urgent"),
    [
        (Action.ALLOW, Risk.LOW, False),
        (Action.ALLOW, Risk.HIGH, True),
        (Action.ALLOW, Risk.CRITICAL, True),
        (Action.REQUIRE_APPROVAL, Risk.LOW, False),
    ],
)
async def test_what_is_blocked_or_risky_is_anchored_soon_and_nothing_else(
    world: World, admission: Admission, action: Action, risk: Risk, urgent: bool
) -> None:
    await asyncio.gather(admission.admit(world.approved(action, risk=risk)), return_exceptions=True)
    (record,) = world.records(kind="decision")
    assert ("anchor" in record) == urgent


# --- row order ---


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_budget_rows_are_taken_in_id_order(world: World, admission: Admission) -> None:
    names = [f"bud_{n}" for n in range(9)]
    for name in reversed(names):
        world.add_budget(10, id=name)
    seen: list[str] = []

    def listen(connection: Connection) -> None:
        connection.connection.dbapi_connection.set_trace_callback(seen.append)  # type: ignore[union-attr]

    await world.state.writer.change(listen)
    await together(world, admission, world.approved(), world.approved())
    for verb in ("INSERT INTO", "UPDATE"):
        statements = [sql for sql in seen if sql.startswith(f"{verb} budget_windows")]
        assert [re.findall(r"bud_\d", sql) for sql in statements] == [[name] for name in names]


# --- a disk that fails ---


async def test_without_a_durable_decision_there_is_no_permit(
    world: World, admission: Admission
) -> None:
    budget = world.add_budget(5)

    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    engine = world.state.writer._engine
    event.listen(engine, "commit", refuse)
    approved = world.approved()
    with pytest.raises(OSError, match="no space"):
        await admission.admit(approved)
    event.remove(engine, "commit", refuse)
    assert (world.records(), world.open_calls(), world.window(budget)) == ([], [], (0, 0))
    await admission.admit(approved)
    world.check_log()

"""What becomes of an admitted call: charged, given back, or unknown; and never twice."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import orjson
import pytest
from sqlalchemy import Connection, event

from gateway import settlement
from gateway.database_place import Place
from gateway.flows import Ended
from gateway.refusals import Refused
from gateway.registry import stops
from gateway.registry.core import Actor
from gateway.registry.stops import NewStop
from gateway.settlement import SettlingEvents
from gateway.trace.record import commitment
from gateway.values import Action, Approved, Fate, Permit, ProjectId, Risk
from tests.builders import World, a_state, an_approved, an_outcome

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(tmp_path: Path, place: Place) -> Iterator[World]:
    with a_state(tmp_path, place) as world:
        yield world


async def admitted(world: World, action: Action = Action.ALLOW, risk: Risk = Risk.LOW) -> Permit:
    return await world.admission().admit(world.approved(action, risk=risk))


async def settled(world: World, permit: Permit, fate: Fate, **outcome: object) -> None:
    """Settle, and wait until it is on disk."""
    await world.state.settlement.settle(permit, an_outcome(fate, **outcome))
    await world.state.writer.change(lambda _: None)


async def a_granted_call(world: World) -> Permit:
    """Asked for, approved and admitted: its grant is spent."""
    with pytest.raises(Refused, match="approval_required"):
        await admitted(world, Action.REQUIRE_APPROVAL)
    ((approval_id,),) = world.rows("SELECT id FROM approvals")
    await anyio.to_thread.run_sync(lambda: world.set("approvals", approval_id, state="APPROVED"))
    return await admitted(world, Action.REQUIRE_APPROVAL)


@pytest.mark.parametrize(
    ("fate", "used"), [(Fate.ANSWERED, 1), (Fate.UNKNOWN, 1), (Fate.NOT_FORWARDED, 0)]
)
async def test_what_left_or_may_have_left_is_charged_and_what_did_not_is_given_back(
    world: World, fate: Fate, used: int
) -> None:
    budget = world.add_budget(10)
    permit = await admitted(world)
    assert world.window(budget) == (0, 1)
    await settled(world, permit, fate)
    assert world.window(budget) == (used, 0)
    window = permit.holds[0].window
    assert world.state.ledger.get(permit.holds[0].budget_id, window) == (used, 0)
    assert world.open_calls() == []
    (outcome,) = world.records(kind="outcome")
    assert (outcome["call"], outcome["fate"]) == (permit.call.id, fate.value)
    world.check_log()


@pytest.mark.parametrize(
    ("fate", "spent"), [(Fate.ANSWERED, True), (Fate.UNKNOWN, True), (Fate.NOT_FORWARDED, False)]
)
async def test_only_a_call_that_surely_did_not_leave_gives_its_grant_back(
    world: World, fate: Fate, spent: bool
) -> None:
    permit = await a_granted_call(world)
    await settled(world, permit, fate)
    assert world.approvals() == [("APPROVED", permit.call.id if spent else None)]
    assert world.rows("SELECT rounds FROM approvals") == [(0,)]
    if not spent:
        again = await admitted(world, Action.REQUIRE_APPROVAL)
        assert world.approvals() == [("APPROVED", again.call.id)]


async def test_a_stop_voids_the_grant_of_a_call_that_it_keeps_from_leaving(world: World) -> None:
    permit = await a_granted_call(world)
    by = Actor.operator(ProjectId("prj_1"))
    await world.state.registry.change(
        by, lambda change: stops.raise_stop(change, NewStop(scope="all", reason="a drill"))
    )
    await settled(world, permit, Fate.NOT_FORWARDED)
    assert world.approvals() == [("WITHDRAWN", None)]


async def test_many_calls_are_settled_in_one_commit(world: World) -> None:
    budget = world.add_budget(100)
    permits = [await admitted(world) for _ in range(10)]
    commits: list[Connection] = []
    event.listen(world.state.writer._engine, "commit", commits.append)
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(_: Connection) -> None:
        reached.set()
        go_on.wait()

    holding = world.state.writer.change(hold_up)
    await anyio.to_thread.run_sync(reached.wait)
    fates = [Fate.NOT_FORWARDED if n % 2 else Fate.ANSWERED for n in range(10)]
    for permit, fate in zip(permits, fates, strict=True):
        await world.state.settlement.settle(permit, an_outcome(fate))
    go_on.set()
    await holding
    await world.state.writer.change(lambda _: None)
    assert len(commits) <= 3
    assert world.window(budget) == (5, 0)
    assert len(world.records(kind="outcome")) == 10


@pytest.mark.parametrize(
    ("risk", "waits"),
    [(Risk.LOW, False), (Risk.MEDIUM, False), (Risk.HIGH, True), (Risk.CRITICAL, True)],
)
async def test_only_a_risky_call_waits_for_the_disk(world: World, risk: Risk, waits: bool) -> None:
    permit = await admitted(world, risk=risk)
    reached, go_on = threading.Event(), threading.Event()

    def slow(_: Connection) -> None:
        reached.set()
        go_on.wait()

    event.listen(world.state.writer._engine, "commit", slow)
    settling = asyncio.ensure_future(world.state.settlement.settle(permit, an_outcome()))
    await anyio.to_thread.run_sync(reached.wait)
    assert settling.done() == (not waits)
    assert world.records(kind="outcome") == []
    go_on.set()
    await settling
    await world.state.writer.change(lambda _: None)
    assert len(world.records(kind="outcome")) == 1


@asynccontextmanager
async def a_busy_writer(world: World) -> AsyncIterator[None]:
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(_: Connection) -> None:
        reached.set()
        go_on.wait()

    holding = world.state.writer.change(hold_up)
    try:
        await anyio.to_thread.run_sync(reached.wait)
        yield
    finally:
        go_on.set()
        await holding


async def test_calls_wait_for_the_disk_while_too_many_outcomes_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MAX_QUEUED", 2)
    permits = [await admitted(world) for _ in range(4)]
    settle = world.state.settlement.settle
    async with a_busy_writer(world):
        for permit in permits[:2]:
            await asyncio.wait_for(settle(permit, an_outcome()), 10)
        waiting = asyncio.ensure_future(settle(permits[2], an_outcome()))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
    await waiting
    async with a_busy_writer(world):  # nothing waits any more
        await asyncio.wait_for(settle(permits[3], an_outcome()), 10)
    await world.state.settlement.written()
    assert len(world.records(kind="outcome")) == 4


async def test_a_call_whose_admission_is_in_doubt_gives_its_grant_back(world: World) -> None:
    permit = await a_granted_call(world)
    world.state.settlement.take_back(permit.call)
    assert world.approvals() == [("APPROVED", permit.call.id)]
    await world.state.settlement.retry()
    assert world.approvals() == [("APPROVED", None)]
    assert world.open_calls() == []
    assert [record["fate"] for record in world.records(kind="outcome")] == ["not_forwarded"]


async def test_a_call_in_doubt_that_went_on_gives_its_round_back(world: World) -> None:
    first = await a_granted_call(world)
    await settled(world, first, Fate.ANSWERED)
    assert first.grant is not None
    went_on = await world.admission().admit(continued(world, first))
    assert went_on.grant == first.grant.next()
    world.state.settlement.take_back(went_on.call)
    await world.state.settlement.retry()
    assert world.rows("SELECT spent_by, rounds FROM approvals") == [(first.call.id, 0)]
    again = await world.admission().admit(continued(world, first))
    assert again.grant == first.grant.next()


async def test_a_call_in_doubt_takes_no_round_of_another(world: World) -> None:
    """It came to go on as another had, and was admitted by a grant of its own."""
    first = await a_granted_call(world)
    await settled(world, first, Fate.ANSWERED)
    await world.admission().admit(continued(world, first))
    with pytest.raises(Refused, match="approval_required"):
        await world.admission().admit(continued(world, first))
    ((second,),) = world.rows("SELECT id FROM approvals WHERE state = 'PENDING'")
    await anyio.to_thread.run_sync(lambda: world.set("approvals", second, state="APPROVED"))
    late = await world.admission().admit(continued(world, first))
    world.state.settlement.take_back(late.call)
    await world.state.settlement.retry()
    found = world.rows("SELECT id, spent_by, rounds FROM approvals ORDER BY created_at")
    assert found == [(found[0][0], first.call.id, 1), (second, None, 0)]


def continued(world: World, permit: Permit) -> Approved:
    """The next round of an approved call, as its client asks for it."""
    decision = world.decision(Action.REQUIRE_APPROVAL)
    call = replace(decision.call, continues=permit.grant)
    pinned = replace(decision.pinned, cleared=replace(decision.pinned.cleared, call=call))
    return an_approved(replace(decision, pinned=pinned), world.budgets)


async def test_log_only_keeps_the_result_and_all_others_only_commit_to_it(world: World) -> None:
    for action in (Action.LOG_ONLY, Action.ALLOW):
        await settled(world, await admitted(world, action), Fate.ANSWERED, result=b"the answer")
    kept = world.rows("SELECT idx FROM payloads WHERE field = 'result'")
    logged, allowed = world.records(kind="outcome")
    assert kept == [(logged["idx"],)]
    assert commitment(b"", b"").partition(":")[0] == allowed["payload"]["result"].partition(":")[0]


@pytest.mark.parametrize("risk", [Risk.LOW, Risk.HIGH])
async def test_an_outcome_that_cannot_be_written_is_written_later(world: World, risk: Risk) -> None:
    """The call was made, so its answer goes out; until then it stays open, and holds."""
    budget = world.add_budget(1)
    permit = await admitted(world, risk=risk)

    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    event.listen(world.state.writer._engine, "commit", refuse)
    await world.state.settlement.settle(permit, an_outcome(Fate.NOT_FORWARDED))
    with pytest.raises(OSError, match="no space"):
        await world.state.writer.change(lambda _: None)
    await world.state.settlement.retry()
    event.remove(world.state.writer._engine, "commit", refuse)
    assert (world.open_calls(), world.window(budget)) == ([permit.call.id], (0, 1))
    await world.state.settlement.retry()
    assert (world.open_calls(), world.window(budget)) == ([], (0, 0))
    await world.state.settlement.retry()
    assert len(world.records(kind="outcome")) == 1


async def test_a_gateway_that_ends_tries_once_more_what_could_not_be_written(world: World) -> None:
    permits = [await admitted(world) for _ in range(2)]
    refused = 0

    def refuse(_: Connection) -> None:
        nonlocal refused
        if refused < 3:  # both together, and each by itself
            refused += 1
            raise OSError("no space left on device")

    event.listen(world.state.writer._engine, "commit", refuse)
    for permit in permits:
        await world.state.settlement.settle(permit, an_outcome())
    await world.state.settlement.finish()
    assert refused == 3
    assert world.open_calls() == []
    assert len(world.records(kind="outcome")) == 2


async def test_a_call_is_settled_once_whoever_asks_for_it_again(world: World) -> None:
    budget = world.add_budget(10)
    permit = await admitted(world)
    for fate in (Fate.ANSWERED, Fate.NOT_FORWARDED):
        await settled(world, permit, fate)
    assert world.window(budget) == (1, 0)
    assert [record["fate"] for record in world.records(kind="outcome")] == ["answered"]


async def test_an_outcome_that_comes_after_the_end_does_not_lose_the_answer(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        permit = await admitted(world)
    await world.state.settlement.settle(permit, an_outcome())


async def test_a_restart_settles_as_unknown_what_was_left_open(
    tmp_path: Path, place: Place
) -> None:
    with a_state(tmp_path, place) as world:
        budget = world.add_budget(10)
        permits = [await admitted(world) for _ in range(3)]
        await settled(world, permits[0], Fate.ANSWERED)
        granted = await a_granted_call(world)
        assert world.window(budget) == (1, 3)
    with a_state(tmp_path, place) as world:
        assert world.open_calls() == []
        assert world.window(budget) == (4, 0)
        unknown = [r for r in world.records(kind="outcome") if r["fate"] == "unknown"]
        left = {permit.call.id for permit in (*permits[1:], granted)}
        assert {record["call"] for record in unknown} == left
        assert {record["error_code"] for record in unknown} == {"gateway_restart"}
        assert world.approvals() == [("APPROVED", granted.call.id)]
        world.check_log()
        size = world.state.log.size
    with a_state(tmp_path, place) as world:
        assert world.state.log.size == size  # nothing is settled twice


# --- streams ---


class Events:
    """A written stream of events; the last of `events` with `answers` is the response."""

    def __init__(self, *events: bytes, answers: bool = True) -> None:
        self._left = list(events)
        self._answers = answers
        self.response = self.data = b""
        self.ended: Ended = ""
        self.closed = 0

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            self.ended = "complete"
            raise StopAsyncIteration
        event = self._left.pop(0)
        if not self._left and self._answers:
            self.response = orjson.dumps({"result": {}})
        return event

    async def aclose(self) -> None:
        self.closed += 1
        self.ended = self.ended or "closed"


class Settle:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


async def test_a_stream_is_settled_before_its_response_leaves() -> None:
    settle = Settle()
    stream = SettlingEvents(Events(b"progress", b"response"), settle)
    assert (await stream.__anext__(), settle.count) == (b"progress", 0)
    assert (await stream.__anext__(), settle.count) == (b"response", 1)
    assert [chunk async for chunk in stream] == []
    await stream.aclose()
    assert settle.count == 1


async def test_a_stream_that_ends_without_a_response_is_settled_at_its_end() -> None:
    settle = Settle()
    stream = SettlingEvents(Events(b"progress", answers=False), settle)
    assert [chunk async for chunk in stream] == [b"progress"]
    assert settle.count == 1


async def test_a_stream_that_the_caller_leaves_is_settled_and_closed() -> None:
    settle, events = Settle(), Events(b"progress", b"response")
    stream = SettlingEvents(events, settle)
    await stream.__anext__()
    await stream.aclose()
    await stream.aclose()
    assert (settle.count, events.ended) == (1, "closed")

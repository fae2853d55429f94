"""Two gateways on one PostgreSQL: what one decides holds for both, and neither loses a record."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gateway.background.following import Following
from gateway.database_place import PostgresUrl
from gateway.refusals import Refused
from gateway.registry import agents, approvals, stops
from gateway.registry.core import Actor
from gateway.registry.stops import NewStop
from gateway.steps.emergency_stop import EmergencyStop
from gateway.store.writer import CommitInDoubt
from gateway.trace.recheck import recheck
from gateway.values import Action, AgentId, Approved, Fate, Permit, ProjectId, Role, Stop
from tests.builders import World, an_outcome
from tests.gateways import a_pair
from tests.postgresql import Server, a_database

pytestmark = pytest.mark.anyio

LIMIT = 20
ANN = Actor(ProjectId("prj_1"), "usr_ann", "Ann", Role.ADMIN)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[World, World]]:
    with a_database() as place, a_pair(tmp_path, place) as pair:
        yield pair


async def outcome_of(world: World, approved: Approved) -> str:
    try:
        await world.admission().admit(approved)
    except Refused as refused:
        return refused.reason
    return "passed"


async def in_a_thread(fn: Callable[[], Any]) -> None:
    await anyio.to_thread.run_sync(fn)


def check_logs(pair: tuple[World, World]) -> None:
    """Every record of both logs is in its tree, and every project's sequence is whole."""
    with pair[0].state.reader.connect() as connection, connection.begin():
        found = recheck(connection, None, lambda *_: None)
    assert {world.state.log.number for world in pair} == {0, 1}
    assert {check.status for check in found} <= {"PASS"}, found


async def raise_stop(world: World) -> str:
    new = NewStop(scope="all", reason="a drill")
    raised = await world.state.registry.change(ANN, lambda ch: stops.raise_stop(ch, new))
    return str(raised.row.id)


async def more(told: Counter[str], what: str) -> None:
    before = told[what]
    await until(lambda: told[what] > before + 20)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - of another thread's, which sets no event
            await asyncio.sleep(0.02)


async def ended(running: asyncio.Task[None]) -> None:
    """Cancelled and gone."""
    running.cancel()
    await asyncio.wait([running])


async def test_parallel_calls_over_both_never_go_above_a_limit(
    pair: tuple[World, World],
) -> None:
    budget = pair[0].add_budget(LIMIT)
    pair[1].add_budget(10 * LIMIT)
    pair[1].change(lambda _: None)
    asked = [pair[n % 2].approved() for n in range(3 * LIMIT)]
    results = await asyncio.gather(
        *(pair[n % 2].admission().admit(one) for n, one in enumerate(asked)),
        return_exceptions=True,
    )
    permits = [(n, result) for n, result in enumerate(results) if isinstance(result, Permit)]
    refused = Counter(result.reason for result in results if isinstance(result, Refused))
    assert len(permits) == LIMIT
    assert refused == {"budget_exceeded": 2 * LIMIT}
    assert pair[0].window(budget) == (0, LIMIT)
    for n, permit in permits:
        fate = Fate.NOT_FORWARDED if n % 4 == 0 else Fate.ANSWERED
        await pair[n % 2].state.settlement.settle(permit, an_outcome(fate))
    for world in pair:
        await world.state.writer.change(lambda _: None)
    returned = sum(n % 4 == 0 for n, _ in permits)
    assert pair[0].window(budget) == (LIMIT - returned, 0)
    check_logs(pair)


async def test_the_same_call_asked_on_both_at_once_is_one_approval_spent_once(
    pair: tuple[World, World],
) -> None:
    def asked(world: World) -> Approved:
        return world.approved(Action.REQUIRE_APPROVAL)

    for _ in range(5):
        told = await asyncio.gather(*(outcome_of(world, asked(world)) for world in pair * 4))
        assert set(told) == {"approval_required"}
    ((approval_id,),) = pair[0].rows("SELECT id FROM approvals")
    await pair[1].state.registry.change(
        ANN, lambda ch: approvals.decide(ch, approval_id, "approve")
    )
    told = await asyncio.gather(*(outcome_of(world, asked(world)) for world in pair * 6))
    assert Counter(told) == {"passed": 1, "approval_required": 11}
    assert Counter(row[0] for row in pair[0].approvals()) == {"APPROVED": 1, "PENDING": 1}


async def test_a_stop_on_one_waits_for_admissions_of_the_other_and_refuses_later_ones(
    pair: tuple[World, World],
) -> None:
    one, two = pair
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(_: Connection, asked: Any) -> list[None]:
        reached.set()
        go_on.wait()
        return [None for _ in asked]

    holding = two.state.writer.submit(hold_up, None)
    await in_a_thread(reached.wait)
    admitting = asyncio.create_task(outcome_of(one, one.approved()))
    assert await admitting == "passed"  # admissions run beside each other
    stopping = asyncio.create_task(raise_stop(one))
    done, _ = await asyncio.wait([stopping], timeout=0.3)
    assert not done
    go_on.set()
    await holding
    await stopping
    assert await outcome_of(two, two.approved()) == "emergency_stop"
    assert await outcome_of(one, one.approved()) == "emergency_stop"


async def test_a_stop_reaches_the_others_memory_and_cuts_its_calls(
    pair: tuple[World, World],
) -> None:
    one, two = pair
    cut: list[Stop] = []
    following = Following(two.state, cut.append)
    running = asyncio.create_task(following.run())
    await until(following.sees)
    call = two.approved().call
    step = EmergencyStop(two.state.directory, lambda: None)
    cleared = step.clear(call)
    changes = two.state.registry.changes
    stop_id = await raise_stop(one)
    await until(lambda: bool(cut))
    assert [stop.id for stop in cut] == [stop_id]
    assert two.state.directory.epoch > cleared.epoch
    assert two.state.registry.changes > changes
    with pytest.raises(Refused, match="emergency_stop"):
        step.check(call.caller)
    await one.state.registry.change(ANN, lambda ch: stops.lift(ch, stop_id, "over"))
    await until(lambda: not two.state.directory.view(ProjectId("prj_1")).stops)
    await ended(running)


@pytest.mark.parametrize("lifted", [False, True])
async def test_a_stop_cuts_though_a_change_of_its_own_told_the_other_of_it_before(
    pair: tuple[World, World], lifted: bool
) -> None:
    one, two = pair
    cut: list[Stop] = []
    following = Following(two.state, cut.append)
    running = asyncio.create_task(following.run())
    await until(following.sees)
    await following.once()
    await ended(running)
    stop_id = await raise_stop(one)
    if lifted:
        await one.state.registry.change(ANN, lambda ch: stops.lift(ch, stop_id, "over"))
    new = NewStop(scope="server", target_id="srv_1", reason="another")
    own = await two.state.registry.change(ANN, lambda ch: stops.raise_stop(ch, new))
    in_force = {stop.id for stop in two.state.directory.view(ANN.project_id).stops}
    assert in_force == {own.row.id} | (set() if lifted else {stop_id})
    await following.once()
    assert [stop.id for stop in cut] == [stop_id, own.row.id]
    await following.once()
    assert len(cut) == 2


@pytest.mark.parametrize("before", ["_new_stops", "_reread"])
async def test_a_stop_that_comes_in_the_middle_of_a_look_is_known_before_it_cuts(
    pair: tuple[World, World], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    known: list[bool] = []

    def cancel(stop: Stop) -> None:
        if stop.scope == "all":
            view = two.state.directory.view(ANN.project_id)
            known.append(stop.id in {each.id for each in view.stops})

    following = Following(two.state, cancel)
    await following.once()
    await one.state.registry.change(ANN, lambda ch: agents.move(ch, "agt_1", "pause"))
    read = getattr(Following, before)
    times = iter(range(9))
    at = 0 if before == "_new_stops" else 1

    def in_the_middle(self: Following) -> Any:
        if next(times) == at:
            anyio.from_thread.run(raise_stop, one)
        return read(self)

    monkeypatch.setattr(Following, before, in_the_middle)
    await following.once()
    await following.once()
    assert next(times) > at + 1
    assert known == [True]


@pytest.mark.parametrize("to", ["pause", "suspend", "revoke"])
async def test_an_agent_that_one_stops_has_its_calls_cut_on_the_other(
    pair: tuple[World, World], to: agents.Move
) -> None:
    one, two = pair
    cut: list[Stop] = []
    running = asyncio.create_task(Following(two.state, cut.append).run())
    await one.state.registry.change(ANN, lambda ch: agents.move(ch, "agt_1", to))
    await until(lambda: bool(cut))
    assert [(stop.scope, stop.target_id) for stop in cut] == [("agent", "agt_1")]
    if to != "revoke":
        await one.state.registry.change(ANN, lambda ch: agents.move(ch, "agt_1", "resume"))
        view = two.state.directory.view
        await until(lambda: view(ANN.project_id).agents[AgentId("agt_1")].state == "ACTIVE")
        assert len(cut) == 1
    await ended(running)


async def test_who_cannot_listen_polls(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair

    async def deaf(_: Following) -> None:
        return None

    monkeypatch.setattr(Following, "_listen", deaf)
    cut: list[Stop] = []
    running = asyncio.create_task(Following(two.state, cut.append).run())
    await raise_stop(one)
    await until(lambda: bool(cut))
    await ended(running)


async def test_who_cannot_read_stops_refuses(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = pair[1]
    following = Following(world.state, lambda _: None)
    running = asyncio.create_task(following.run())
    await until(following.sees)
    step = EmergencyStop(world.state.directory, lambda: None)
    step.check(world.caller)

    def away(_: Following) -> None:
        raise SQLAlchemyError("the server is away")

    with monkeypatch.context() as patched:
        patched.setattr(Following, "_read", away)
        await until(lambda: not following.sees())
        with pytest.raises(Refused, match="stop_unreadable"):
            step.check(world.caller)
    await until(following.sees)
    step.check(world.caller)
    await ended(running)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_commit_in_doubt_forwards_nothing_and_is_settled_when_the_server_is_back(
    pair: tuple[World, World], durable: bool
) -> None:
    world = pair[0]
    budget = world.add_budget(LIMIT)

    def cut_off(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        commit = driver.commit

        def ends() -> None:
            driver.commit = commit
            if durable:
                commit()
            driver.close()
            commit()

        driver.commit = ends

    approved = world.approved()
    admission = world.admission()
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(_: Connection) -> None:
        reached.set()
        go_on.wait()

    holding = world.state.writer.change(hold_up)
    await in_a_thread(reached.wait)
    cutting = asyncio.ensure_future(world.state.writer.change(cut_off))
    admitting = asyncio.ensure_future(admission.admit(approved))
    await asyncio.sleep(0)
    go_on.set()
    await holding
    results = await asyncio.gather(cutting, admitting, return_exceptions=True)
    assert isinstance(results[1], CommitInDoubt)
    world.state.settlement.take_back(approved.call)
    await world.state.settlement.retry()
    assert world.window(budget) == (0, 0)
    assert world.open_calls() == []
    fates = [record["fate"] for record in world.records("outcome", approved.call.id)]
    assert fates == (["not_forwarded"] if durable else [])
    assert await outcome_of(world, world.approved()) == "passed"
    check_logs(pair)


async def test_a_server_that_crashes_loses_nothing_and_is_used_again(tmp_path: Path) -> None:
    server = Server()
    try:
        with (
            server.database() as text,
            a_pair(tmp_path, PostgresUrl(text)) as pair,
        ):
            budget = pair[0].add_budget(10 * LIMIT)
            told: Counter[str] = Counter()

            async def call_on(world: World) -> None:
                while not enough.is_set():
                    approved = world.approved()
                    try:
                        permit = await world.admission().admit(approved)
                    except CommitInDoubt:
                        world.state.settlement.take_back(approved.call)
                        told["in doubt"] += 1
                    except Refused as refused:
                        told[refused.reason] += 1
                        await asyncio.sleep(0.01)
                    except SQLAlchemyError:
                        told["away"] += 1
                        await asyncio.sleep(0.01)
                    else:
                        told["passed"] += 1
                        await world.state.settlement.settle(permit, an_outcome(Fate.NOT_FORWARDED))

            enough = asyncio.Event()
            calling = [asyncio.create_task(call_on(world)) for world in pair * 2]
            for _ in range(2):
                await more(told, "passed")
                await in_a_thread(server.stop)
                await more(told, "away")
                await in_a_thread(server.start)
            await more(told, "passed")
            enough.set()
            await asyncio.gather(*calling)
            for world in pair:
                await world.state.settlement.retry()
                await world.state.writer.change(lambda _: None)
            assert pair[0].window(budget) == (0, 0)
            assert pair[0].open_calls() == []
            assert told.keys() <= {"passed", "in doubt", "away"}
            check_logs(pair)
    finally:
        server.close()

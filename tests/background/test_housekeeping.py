"""What happens beside the calls: the stop without the API takes hold, and everything is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.background.housekeeping import Housekeeping
from gateway.records.refused_calls import RefusedCalls
from gateway.refusals import Refused
from gateway.registry.stop_file import NAME, StopFile
from gateway.steps.breaker import Breaker
from gateway.steps.emergency_stop import EmergencyStop
from gateway.values import Action, Stop
from tests.builders import World, a_state

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        yield world


async def test_the_stop_file_cuts_calls_voids_approvals_and_stands_on_the_trail(
    world: World,
) -> None:
    state = world.state
    cut: list[Stop] = []

    def cancel(stop: Stop) -> int:
        cut.append(stop)
        return 0

    stop_file = StopFile(state.data_dir)
    refused_calls = RefusedCalls(state.writer, state.log, state.clock.now)
    house = Housekeeping(state, refused_calls, stop_file, Breaker(), cancel)
    with pytest.raises(Refused):
        await world.admission().admit(world.approved(Action.REQUIRE_APPROVAL))
    await house.once()
    assert cut == []
    stop_file.write("a fire")
    await house.once()
    await house.once()
    assert [stop.scope for stop in cut] == ["all"]
    assert [approval[0] for approval in world.approvals()] == ["DENIED"]
    assert stop_file.remove()
    await house.once()
    assert not stop_file.remove()
    events = [(r["event"], r["subject"], r["actor"]) for r in world.records(kind="event")]
    who = ("stp_file", "operator")
    assert events == [("stop.raised", *who), ("stop.lifted", *who)]


async def test_a_budget_that_ran_out_is_told(world: World) -> None:
    state = world.state
    refused_calls = RefusedCalls(state.writer, state.log, state.clock.now)
    house = Housekeeping(state, refused_calls, StopFile(state.data_dir), Breaker(), lambda _: 0)
    world.add_budget(1)
    await world.admission().admit(world.approved())
    await house.once()
    assert [r["event"] for r in world.records(kind="event")] == ["budget.exceeded"]


async def test_a_stop_file_that_cannot_be_read_cuts_nothing_and_is_nobodys_stop(
    world: World,
) -> None:
    state = world.state
    (state.data_dir / NAME).mkdir()
    stop_file = StopFile(state.data_dir)
    refused_calls = RefusedCalls(state.writer, state.log, state.clock.now)
    house = Housekeeping(state, refused_calls, stop_file, Breaker(), _cut_nothing)
    await house.once()
    assert stop_file.fault
    with pytest.raises(Refused, match="stop_unreadable"):
        EmergencyStop(state.directory, lambda: stop_file.seen).check(world.caller)
    with pytest.raises(Refused, match="stop_unreadable"):
        await world.admission(stop_file.read).admit(world.approved())
    (state.data_dir / NAME).rmdir()
    await house.once()
    await world.admission(stop_file.read).admit(world.approved())
    assert world.records(kind="event") == []


def _cut_nothing(_: Stop) -> int:
    raise AssertionError("nobody stopped anything")


@pytest.mark.parametrize(("action", "state"), [("pause", "PAUSED"), ("suspend", "SUSPENDED")])
async def test_an_agent_that_runs_in_circles_is_stopped_for_good(
    world: World, action: str, state: str
) -> None:
    world.set("projects", "prj_1", breaker_repeats=2, breaker_action=action)
    breaker, cut = Breaker(), []

    def cancel(stop: Stop) -> int:
        cut.append((stop.scope, stop.target_id))
        return 0

    refused_calls = RefusedCalls(world.state.writer, world.state.log, world.state.clock.now)
    stop_file = StopFile(world.state.data_dir)
    house = Housekeeping(world.state, refused_calls, stop_file, breaker, cancel)
    for _ in range(2):
        breaker.watch(world.decision().pinned)
    for _ in range(3):
        with pytest.raises(Refused, match="breaker_open"):
            breaker.watch(world.decision().pinned)
    await house.once()
    assert world.rows("SELECT state FROM agents") == [(state,)]
    assert cut == [("agent", "agt_1")]
    events = world.records(kind="event")
    assert [r["event"] for r in events] == ["breaker.tripped", f"agent.{action}"]
    assert (events[0]["agent"], events[0]["cause"], events[0]["limit"]) == ("agt_1", "repeats", 2)
    # Once a person resumes it, it begins anew.
    breaker.watch(world.decision().pinned)


async def test_a_breaker_that_only_asks_pauses_nobody(world: World) -> None:
    world.set("projects", "prj_1", breaker_repeats=1)
    breaker = Breaker()
    refused_calls = RefusedCalls(world.state.writer, world.state.log, world.state.clock.now)
    stop_file = StopFile(world.state.data_dir)
    house = Housekeeping(world.state, refused_calls, stop_file, breaker, lambda _: 0)
    for _ in range(3):
        breaker.watch(world.decision().pinned)
    await house.once()
    assert world.rows("SELECT state FROM agents") == [("ACTIVE",)]
    assert [r["event"] for r in world.records(kind="event")] == ["breaker.tripped"]

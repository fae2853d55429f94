"""No stop covers the call, its agents may act, its server is active: asked of memory alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.refusals import Refused
from gateway.steps.emergency_stop import EmergencyStop
from gateway.store import tables
from gateway.values import Caller, Stop, StopId
from tests.builders import World, a_call, a_state, no_stop


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a second agent that the key may name."""
    with a_state(tmp_path_factory.mktemp("data")) as world:
        row = {"id": "agt_2", "project_id": "prj_1", "name": "helper", "owner": "olga"}
        row |= {"description": "", "state": "ACTIVE", "created_at": "2026-01-01T00:00:00Z"}
        world.change(lambda c: c.execute(insert(tables.agents).values(**row)))
        world.set("keys", "key_1", may_assert=["helper"])
        yield world


def reason(world: World, caller: Caller, stop: Stop | None = None) -> str:
    """Why it is refused; empty when it is not."""
    step = EmergencyStop(world.state.directory, lambda: stop)
    try:
        step.clear(a_call(caller=caller))
    except Refused as refused:
        return refused.reason
    return ""


def test_a_call_that_nothing_stops_is_cleared_with_the_epoch(world: World) -> None:
    step = EmergencyStop(world.state.directory, no_stop)
    cleared = step.clear(a_call(caller=world.caller))
    assert cleared.epoch == world.state.directory.epoch
    world.add_stop("server", "srv_9")
    assert world.state.directory.epoch > cleared.epoch


@pytest.mark.parametrize(
    ("scope", "target", "stops"),
    [
        ("all", None, True),
        ("server", "srv_1", True),
        ("server", "srv_2", False),
        ("agent", "agt_1", True),
        ("agent", "agt_2", True),  # the key may name it
        ("agent", "agt_3", False),
    ],
)
def test_a_stop_covers_what_it_names(
    world: World, scope: str, target: str | None, stops: bool
) -> None:
    caller = world.caller
    world.add_stop(scope, target)
    assert reason(world, caller) == ("emergency_stop" if stops else "")


def test_a_stop_of_everything_comes_before_all_else(world: World) -> None:
    everywhere = Stop(StopId("stp_file"), None, "all", None, "a drill")
    world.set("servers", "srv_1", status="BLOCKED")
    assert reason(world, world.caller, everywhere) == "emergency_stop"


@pytest.mark.parametrize("agent", ["agt_1", "agt_2"])
@pytest.mark.parametrize("state", ["PAUSED", "SUSPENDED", "REVOKED"])
def test_a_paused_agent_refuses_each_key_that_is_bound_to_it_or_may_name_it(
    world: World, agent: str, state: str
) -> None:
    caller = world.caller
    world.set("agents", agent, state=state)
    assert reason(world, caller) == "agent_paused"


@pytest.mark.parametrize(
    ("table", "row_id", "change", "why"),
    [
        ("servers", "srv_1", {"status": "BLOCKED"}, "server_blocked"),
        ("servers", "srv_1", {"status": "PENDING_APPROVAL"}, "server_pending"),
        ("servers", "srv_1", {"revision": 2}, "server_pending"),
        ("keys", "key_1", {"state": "REVOKED"}, "key_revoked"),
    ],
)
def test_what_was_withdrawn_since_the_caller_was_known_refuses(
    world: World, table: str, row_id: str, change: dict[str, Any], why: str
) -> None:
    caller = world.caller
    world.set(table, row_id, **change)
    assert reason(world, caller) == why

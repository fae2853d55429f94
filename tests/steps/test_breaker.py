"""The circuit breaker: counted exactly, per agent and key, and what it then does."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.refusals import Refused
from gateway.registry.breaker_trips import Trip
from gateway.steps import breaker as breaker_module
from gateway.steps.breaker import Breaker
from gateway.values import AgentId, Call, Cleared, Enforcement, KeyId, Pinned, Steady
from tests.builders import a_call, a_caller, a_key, a_project, a_server, a_tool, an_agent


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_breaker() -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(clock), clock


def circling(action: str = "ask", **changes: Any) -> Call:
    """A call in a project that allows three identical ones a minute, and two refusals."""
    project = a_project(breaker_repeats=3, breaker_refusals=2, breaker_action=action)
    caller = replace(a_caller(project=project), **changes.pop("caller", {}))
    return a_call(caller=caller, **changes)


def watch(breaker: Breaker, call: Call) -> Steady:
    return breaker.watch(Pinned(Cleared(call, 0), a_tool(), must_ask=False))


def trips(breaker: Breaker) -> list[Trip]:
    found = []
    while (trip := breaker.trip()) is not None:
        found.append(trip)
    return found


def test_a_project_without_limits_counts_nothing() -> None:
    breaker, _ = a_breaker()
    call = a_call()
    for _ in range(1000):
        assert not watch(breaker, call).must_ask
        breaker.refused(call, Refused("policy_denied"))
    assert trips(breaker) == []


def test_more_than_n_identical_calls_in_a_minute_open_it_and_then_all_calls_ask() -> None:
    breaker, clock = a_breaker()
    for _ in range(3):
        assert not watch(breaker, circling()).must_ask
    assert watch(breaker, circling()).must_ask
    assert watch(breaker, circling(arguments={"object": "Lead"})).must_ask
    [trip] = trips(breaker)
    assert (trip.agent_id, trip.cause, trip.limit, trip.action) == ("agt_1", "repeats", 3, "ask")
    clock.now += 61
    assert not watch(breaker, circling()).must_ask


def test_calls_that_differ_or_come_slowly_are_no_circle() -> None:
    breaker, clock = a_breaker()
    for number in range(50):
        assert not watch(breaker, circling(arguments={"object": str(number)})).must_ask
    for _ in range(50):
        clock.now += 20
        assert not watch(breaker, circling()).must_ask
    for _ in range(50):
        assert not watch(breaker, circling(is_retry=True)).must_ask
    assert trips(breaker) == []


@pytest.mark.parametrize("action", ["pause", "suspend"])
def test_it_refuses_at_once_what_is_paused_in_a_moment(action: str) -> None:
    breaker, clock = a_breaker()
    for _ in range(3):
        watch(breaker, circling(action))
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            watch(breaker, circling(action))
        clock.now += 1
    assert (caught.value.reason, caught.value.code) == ("breaker_open", -31011)
    assert len(trips(breaker)) == 1
    breaker.close("agt_1", "key_1")
    assert not watch(breaker, circling(action)).must_ask


def test_a_burst_of_refusals_opens_it_but_waiting_for_a_person_does_not() -> None:
    breaker, _ = a_breaker()
    for reason in ("approval_required", "emergency_stop", "breaker_open", "policy_unavailable"):
        for _ in range(9):
            breaker.refused(circling(), Refused(reason))
    assert trips(breaker) == []
    for reason in ("policy_denied", "budget_exceeded", "unknown_tool"):
        breaker.refused(circling(), Refused(reason))
    assert [trip.cause for trip in trips(breaker)] == ["refusals"]
    assert watch(breaker, circling()).must_ask


def test_an_agent_is_counted_over_all_its_keys_and_a_key_over_all_its_agents() -> None:
    breaker, _ = a_breaker()
    for number in range(4):
        key = a_key(id=KeyId(f"key_{number}"))
        watch(breaker, circling(caller={"key": key}))
    assert [trip.agent_id for trip in trips(breaker)] == ["agt_1"]
    breaker, _ = a_breaker()
    for number in range(4):
        agent = an_agent(id=AgentId(f"agt_{number}"))
        watch(breaker, circling(caller={"agent": agent}))
    assert [(trip.agent_id, trip.key_id) for trip in trips(breaker)] == [(None, "key_1")]
    assert watch(breaker, circling(caller={"agent": None})).must_ask


def test_others_are_not_touched() -> None:
    breaker, _ = a_breaker()
    for _ in range(9):
        watch(breaker, circling())
    other = {"agent": an_agent(id=AgentId("agt_2")), "key": a_key(id=KeyId("key_2"))}
    assert not watch(breaker, circling(caller=other)).must_ask


def test_monitor_mode_only_notes_it() -> None:
    breaker, _ = a_breaker()
    watched = {"server": a_server(enforcement=Enforcement.MONITOR)}
    for _ in range(9):
        assert not watch(breaker, circling("pause", caller=watched)).must_ask
    assert [trip.enforced for trip in trips(breaker)] == [False]


def test_what_is_counted_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "_REMEMBERED", 20)
    breaker, _ = a_breaker()
    for number in range(200):
        watch(breaker, circling(arguments={"object": str(number)}))
        assert len(breaker._seen) <= 22
    for _ in range(4):
        found = watch(breaker, circling())
    assert found.must_ask

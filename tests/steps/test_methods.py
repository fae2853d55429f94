"""Decisions about messages: asked only where the bundle has a policy, and each in the trace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.policy.engine import Engine, EngineAnswer, EngineFault
from gateway.policy.features import UNKNOWN, Features
from gateway.records.refused_calls import RefusedCalls
from gateway.refusals import Refused
from gateway.steps.methods import Exchange, Methods, Said
from gateway.values import Era
from tests.builders import World, a_request, a_state

pytestmark = pytest.mark.anyio

READ = Said("resources/read", "client", {"uri": "file:///secret"})
FEATURES = Features(hides=False, methods=frozenset({"resources/read"}))


class FakeEngine(Engine):
    def __init__(self, action: str | None) -> None:
        self.action = action
        self.asked: list[Any] = []

    async def ask(
        self, document: bytes, question: bytes, *, key: str, seconds: float | None = None
    ) -> EngineAnswer:
        assert document == b"gateway/method"
        if self.action is None:
            raise EngineFault("down")
        self.asked.append(orjson.loads(question)["input"])
        result = {"action": self.action, "policy_ids": ["p"], "reasons": ["r"], "obligations": []}
        return EngineAnswer(result, "sha256:1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as it:
        yield it


async def check(
    world: World, engine: FakeEngine, said: Said = READ, features: Features = FEATURES
) -> None:
    state = world.state
    now = state.clock.now
    methods = Methods(
        engine,
        RefusedCalls(state.writer, state.log, now),
        features=lambda: features,
        view=state.directory.view,
        now=now,
    )
    exchange = Exchange(world.caller, a_request(), Era.MODERN, said.method, "s", 1)
    await methods.check(exchange, said)


async def test_a_denied_message_is_refused_and_both_are_in_the_trace(world: World) -> None:
    engine = FakeEngine("DENY")
    with pytest.raises(Refused) as refused:
        await check(world, engine)
    assert refused.value.reason == "policy_denied"
    (record,) = world.records(kind="message")
    assert refused.value.data["trace_id"] == record["id"]
    assert (record["method"], record["from"], record["effect"]) == (
        "resources/read",
        "client",
        "refuse",
    )
    assert engine.asked[0]["target"]["params"] == {"uri": "file:///secret"}
    assert engine.asked[0]["call"]["session"] != "s"


async def test_an_allowed_message_is_in_the_trace_before_it_goes_on(world: World) -> None:
    await check(world, FakeEngine("ALLOW"))
    (record,) = world.records(kind="message")
    assert (record["decision"], record["effect"]) == ("ALLOW", "forward")


async def test_in_monitor_mode_a_denied_message_goes_on_and_is_recorded(world: World) -> None:
    world.set("projects", "prj_1", enforcement="monitor")
    await check(world, FakeEngine("DENY"))
    (record,) = world.records(kind="message")
    assert (record["decision"], record["enforced"], record["effect"]) == ("DENY", False, "forward")


async def test_a_method_without_a_policy_is_not_asked_about(world: World) -> None:
    engine = FakeEngine("DENY")
    await check(world, engine, Said("prompts/get", "client", {}))
    assert engine.asked == []
    assert world.records(kind="message") == []


async def test_of_a_bundle_that_does_not_say_everything_is_asked(world: World) -> None:
    with pytest.raises(Refused):
        await check(world, FakeEngine("DENY"), Said("prompts/get", "client", {}), UNKNOWN)


@pytest.mark.parametrize("action", [None, "MAYBE"])
async def test_without_a_verdict_it_is_refused(world: World, action: str | None) -> None:
    with pytest.raises(Refused) as refused:
        await check(world, FakeEngine(action))
    assert refused.value.reason == "policy_unavailable"


async def test_what_is_too_large_to_decide_is_refused(world: World) -> None:
    said = Said("resources/read", "client", {"uri": "x" * 300_000})
    with pytest.raises(Refused) as refused:
        await check(world, FakeEngine("ALLOW"), said)
    assert refused.value.reason == "too_large_to_decide"

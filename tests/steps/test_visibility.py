"""What a list leaves out: one question a page, asked only where something can hide a tool."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.policy.engine import Engine, EngineAnswer, EngineFault
from gateway.policy.features import Features
from gateway.refusals import Refused
from gateway.registry import rules
from gateway.registry.core import Actor
from gateway.registry.rules import NewRule
from gateway.steps.visibility import Visibility
from gateway.values import Action, Era
from tests.builders import TOOL, World, a_request, a_state

pytestmark = pytest.mark.anyio

NOTHING = Features(hides=False, methods=frozenset())
HIDES = Features(hides=True, methods=frozenset())


class FakeEngine(Engine):
    """Answers every question with `result`, and keeps it."""

    def __init__(self) -> None:
        self.result: Any = []
        self.asked: list[Any] = []
        self.fault = False

    async def ask(
        self, document: bytes, question: bytes, *, key: str, seconds: float | None = None
    ) -> EngineAnswer:
        assert document == b"gateway/listing/hidden"
        if self.fault:
            raise EngineFault("down")
        self.asked.append(orjson.loads(question)["input"])
        return EngineAnswer(self.result, "sha256:1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as it:
        yield it


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def add_rule(world: World, action: str) -> None:
    new = NewRule(action=Action(action))
    world.state.registry.change_now(
        Actor.operator(world.caller.project.id, "tests"), lambda change: rules.create(change, new)
    )


async def hidden(
    world: World, engine: FakeEngine, *names: str, features: Features = HIDES
) -> frozenset[str]:
    directory = world.state.directory
    visibility = Visibility(
        engine, features=lambda: features, view=directory.view, now=world.state.clock.now
    )
    caller = world.caller
    return await visibility.hidden(caller, a_request(), Era.MODERN, names or (TOOL,))


async def test_a_page_is_one_question_without_arguments(world: World, engine: FakeEngine) -> None:
    engine.result = [TOOL]
    assert await hidden(world, engine, TOOL, "other") == {TOOL}
    (asked,) = engine.asked
    assert [one["tool"]["name"] for one in asked["tools"]] == [TOOL, "other"]
    assert [one["tool"]["pin"] for one in asked["tools"]] == ["ACCEPTED", "UNPINNED"]
    assert asked["shared"]["call"]["method"] == "tools/list"
    assert not {"arguments", "tool", "rules"} & set(asked["shared"])


async def test_nobody_is_asked_where_nothing_can_hide(world: World, engine: FakeEngine) -> None:
    add_rule(world, "ALLOW")
    assert await hidden(world, engine, features=NOTHING) == frozenset()
    assert engine.asked == []


async def test_a_rule_that_denies_is_reason_to_ask(world: World, engine: FakeEngine) -> None:
    add_rule(world, "DENY")
    await hidden(world, engine, features=NOTHING)
    assert [rule["action"] for rule in engine.asked[0]["tools"][0]["rules"]] == ["DENY"]


@pytest.mark.parametrize(
    ("table", "row", "values"),
    [
        ("projects", "prj_1", {"hide_denied_tools": False}),
        ("projects", "prj_1", {"enforcement": "monitor"}),
        ("servers", "srv_1", {"enforcement": "monitor"}),
    ],
)
async def test_a_project_that_shows_all_or_only_watches_hides_nothing(
    world: World, engine: FakeEngine, table: str, row: str, values: dict[str, Any]
) -> None:
    engine.result = [TOOL]
    world.set(table, row, **values)
    assert await hidden(world, engine) == frozenset()


async def test_a_page_too_large_for_one_question_is_asked_in_parts(
    world: World, engine: FakeEngine
) -> None:
    names = [f"{'x' * 1000}{number}" for number in range(300)]
    await hidden(world, engine, *names)
    assert len(engine.asked) > 1
    assert [one["tool"]["name"] for part in engine.asked for one in part["tools"]] == names


@pytest.mark.parametrize("result", [None, {}, "add", [1]])
async def test_half_an_answer_is_none(world: World, engine: FakeEngine, result: Any) -> None:
    engine.result = result
    with pytest.raises(Refused) as refused:
        await hidden(world, engine)
    assert refused.value.reason == "policy_unavailable"


async def test_without_an_answer_there_is_no_list(world: World, engine: FakeEngine) -> None:
    engine.fault = True
    with pytest.raises(Refused) as refused:
        await hidden(world, engine)
    assert refused.value.reason == "policy_unavailable"

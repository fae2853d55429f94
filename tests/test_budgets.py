"""Which budgets a call draws on, when their window ends, and what memory knows of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.budgets import Ledger, exceeded, matching, resets_at
from gateway.refusals import Refused
from gateway.steps.budget import BudgetLook
from gateway.values import Allowed, Budget, BudgetId, Pinned
from tests.builders import World, a_state


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        yield world


def look(world: World, *, enforced: bool = True) -> tuple[Budget, ...]:
    state = world.state
    step = BudgetLook(state.directory, state.ledger, state.clock.now)
    return step.look(Allowed(world.decision(enforced=enforced))).budgets


def fill(world: World, budget_id: str, used: int, held: int) -> None:
    window = world.budgets[0].window_at(world.state.clock.now())
    ledger = world.state.ledger
    world.change(lambda _: ledger.put(BudgetId(budget_id), window, used, held))


def test_a_call_draws_on_the_budgets_of_its_project_agent_server_and_tool(world: World) -> None:
    mine = [
        world.add_budget(1, id="bud_4", scope="tool", target_id="tol_1"),
        world.add_budget(1, id="bud_1"),
        world.add_budget(1, id="bud_3", scope="server", target_id="srv_1"),
        world.add_budget(1, id="bud_2", scope="agent", target_id="agt_1"),
    ]
    for scope in ("agent", "server", "tool"):
        world.add_budget(0, id=f"bud_of_another_{scope}", scope=scope, target_id="another")
    assert [budget.id for budget in look(world)] == sorted(mine)


def test_a_key_without_agent_counts_as_one_and_an_unknown_tool_as_none(world: World) -> None:
    world.add_budget(1, id="bud_1", scope="agent", target_id="key_1")
    world.add_budget(1, id="bud_2", scope="tool", target_id="tol_1")
    decision = world.decision(caller=replace(world.caller, agent=None))
    decision = replace(decision, pinned=Pinned(decision.pinned.cleared, None, must_ask=False))
    view = world.state.directory.view(world.caller.project.id)
    assert [budget.id for budget in matching(view, decision)] == ["bud_1"]


@pytest.mark.parametrize(
    ("used", "held", "passes"), [(0, 0, True), (1, 0, True), (1, 1, False), (2, 0, False)]
)
def test_a_budget_that_is_surely_over_and_blocks_refuses(
    world: World, used: int, held: int, passes: bool
) -> None:
    budget = world.add_budget(2)
    fill(world, budget, used, held)
    if passes:
        assert len(look(world)) == 1
        return
    with pytest.raises(Refused) as caught:
        look(world)
    assert caught.value.decided is not None
    data = caught.value.data
    assert (data["budget_id"], data["limit"], data["used"], data["held"]) == (budget, 2, used, held)


def test_what_only_warns_asks_or_watches_is_left_to_admission(world: World) -> None:
    for on_exceed in ("WARN", "APPROVAL"):
        world.add_budget(0, on_exceed)
    assert len(look(world)) == 2
    world.add_budget(0, "BLOCK")
    assert len(look(world, enforced=False)) == 3


@pytest.mark.parametrize(
    ("window", "ends"),
    [
        ("minute", "2026-12-31T23:59:00Z"),
        ("hour", "2027-01-01T00:00:00Z"),
        ("day", "2027-01-01T00:00:00Z"),
        ("month", "2027-01-01T00:00:00Z"),
    ],
)
def test_a_window_ends_where_the_next_begins(window: str, ends: str) -> None:
    budget = Budget("bud_1", "prj_1", "project", None, "requests", window, 1, "BLOCK")  # type: ignore[arg-type]
    now = "2026-12-31T23:58:59.999999Z"
    assert resets_at(budget, now) == ends
    assert exceeded(budget, 1, 0, now).data["resets_at"] == ends
    assert budget.window_at(now) != budget.window_at(ends)


def test_the_ledger_shows_only_what_is_durable(world: World) -> None:
    ledger, budget = Ledger(), BudgetId("bud_1")
    with world.state.reader.connect() as connection:
        ledger.begin(connection)
        ledger.put(budget, "w", 1, 2)
        assert ledger.get(budget, "w") == (0, 0)
        mark = ledger.mark()
        ledger.put(budget, "w", 5, 5)
        ledger.rewind(mark)
        ledger.committed(connection)
        assert ledger.get(budget, "w") == (1, 2)
        ledger.begin(connection)
        ledger.put(budget, "w", 9, 9)
        ledger.rolled_back()
        ledger.committed(connection)
    assert ledger.get(budget, "w") == (1, 2)

"""Budgets of money: what a call costs, held exactly, never settled above the limit."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gateway.amounts import MICROS
from gateway.background.budget_alerts import BudgetAlerts
from gateway.budgets import cost_of
from gateway.database_place import Place
from gateway.refusals import Refused
from gateway.steps.budget import BudgetLook
from gateway.store import tables
from gateway.values import Allowed, Approved, Decision, Fate, Permit
from tests.builders import World, a_caller, a_key, a_state, a_verdict, an_approved, an_outcome

pytestmark = pytest.mark.anyio

AMOUNT = {"price": 100_000, "argument": "total", "decimal_string": False, "cap": 50 * MICROS}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        yield world


def priced(world: World, cost: dict[str, Any] | None) -> None:
    tools = tables.tools
    world.change(lambda c: c.execute(update(tools).where(tools.c.id == "tol_1").values(cost=cost)))


def looked(world: World, decision: Decision) -> Approved:
    """Through the real look, as the pipeline does it. Raises `Refused`."""
    state = world.state
    look = BudgetLook(state.directory, state.ledger, state.clock.now)
    affordable = look.look(Allowed(decision))
    approved = an_approved(decision, affordable.budgets)
    return Approved(affordable, approved.needs_grant, approved.digest)


def asked(world: World, total: object = 1, **given: Any) -> Approved:
    return looked(world, world.decision(arguments={"total": total}, **given))


# --- what a call costs ---


@pytest.mark.parametrize(
    ("cost", "arguments", "micros"),
    [
        (None, {"total": 9}, 0),
        ({**AMOUNT, "argument": None}, {}, 100_000),
        (AMOUNT, {"total": 7}, 7 * MICROS),
        (AMOUNT, {"total": 0}, 100_000),
        ({**AMOUNT, "decimal_string": True}, {"total": "7.25"}, 7_250_000),
    ],
)
def test_a_call_costs_its_amount_and_at_least_the_price(
    world: World, cost: dict[str, Any] | None, arguments: dict[str, Any], micros: int
) -> None:
    priced(world, cost)
    assert cost_of(world.decision(arguments=arguments)) == micros


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({}, "total is missing."),
        ({"total": "7"}, "total is no number."),
        ({"total": None}, "total is no number."),
        ({"total": True}, "total is no number."),
        ({"total": -1}, "total is negative."),
        ({"total": 51}, "total is over 50."),
    ],
)
def test_an_amount_that_is_none_is_refused_before_anything_is_held(
    world: World, arguments: dict[str, Any], fault: str
) -> None:
    priced(world, AMOUNT)
    budget = world.add_budget(100 * MICROS, dimension="cost")
    with pytest.raises(Refused) as caught:
        looked(world, world.decision(arguments=arguments))
    assert (caught.value.reason, caught.value.code) == ("amount_refused", -31005)
    assert caught.value.data["fault"] == fault
    assert world.window(budget) == (0, 0)
    # In monitor mode nothing but stops, pins and the parser binds.
    assert looked(world, world.decision(arguments=arguments, enforced=False)).affordable.cost == 0


@pytest.mark.parametrize(
    ("obligation", "micros"),
    [
        ({"type": "cost", "amount": 2.5}, 2_500_000),
        ({"type": "cost", "amount": 0.5}, MICROS),
        ({"type": "cost", "amount": 0, "arguments": ["fee", "total"]}, 3 * MICROS),
        ({"type": "quorum", "count": 9}, MICROS),
    ],
)
def test_a_policys_cost_may_raise_what_a_call_costs_and_never_lower_it(
    world: World, obligation: dict[str, Any], micros: int
) -> None:
    priced(world, {**AMOUNT, "argument": None, "price": MICROS})
    verdict = a_verdict(obligations=(obligation,))
    assert cost_of(world.decision(arguments={"total": 3, "fee": 2}, verdict=verdict)) == micros


def test_a_policys_amount_that_is_none_refuses(world: World) -> None:
    obligation = {"type": "cost", "amount": 0, "arguments": ["fee"]}
    with pytest.raises(Refused) as caught:
        cost_of(world.decision(verdict=a_verdict(obligations=(obligation,))))
    assert caught.value.data["argument"] == "fee"


# --- held and settled ---


async def test_each_budget_holds_what_it_counts(world: World) -> None:
    priced(world, AMOUNT)
    money = world.add_budget(10 * MICROS, dimension="cost")
    calls = world.add_budget(10)
    permit = await world.admission().admit(asked(world, 4))
    assert (world.window(money), world.window(calls)) == ((0, 4 * MICROS), (0, 1))
    await world.state.settlement.settle(permit, an_outcome(Fate.ANSWERED))
    await world.state.writer.change(lambda _: None)
    assert (world.window(money), world.window(calls)) == ((4 * MICROS, 0), (1, 0))


async def test_a_call_that_costs_nothing_draws_on_no_budget_of_money(world: World) -> None:
    money = world.add_budget(0, dimension="cost")
    await world.admission().admit(asked(world))
    assert world.window(money) == (0, 0)


async def test_the_refusal_says_amounts_as_people_read_them(world: World) -> None:
    priced(world, AMOUNT)
    world.add_budget(12_500_000, dimension="cost")
    await world.admission().admit(asked(world, 10))
    with pytest.raises(Refused) as caught:
        asked(world, 3)
    data = caught.value.data
    assert (data["limit"], data["used"], data["held"]) == ("12.5", "0", "10")
    assert data["dimension"] == "cost"
    asked(world, 2)


async def test_naming_another_agent_is_no_way_around_a_budget(world: World) -> None:
    budget = world.add_budget(5, scope="agent", target_id="agt_1")
    of_key = world.add_budget(5, scope="agent", target_id="key_1")
    other = world.add_budget(5, scope="agent", target_id="agt_2")
    caller = world.caller
    named = a_caller(project=caller.project, key=a_key(), server=caller.server, asserted=True)
    drawn = [b.id for b in looked(world, world.decision(caller=named)).affordable.budgets]
    assert sorted(drawn) == sorted([budget, of_key])
    assert other not in drawn


async def test_budgets_are_known_again_after_a_restart(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        priced(world, AMOUNT)
        world.add_budget(10 * MICROS, dimension="cost")
        await world.admission().admit(asked(world, 8))
    with a_state(tmp_path) as world, pytest.raises(Refused):
        asked(world, 3)


@pytest.mark.parametrize("seed", range(4))
async def test_parallel_calls_never_settle_above_any_limit_whatever_crashes(
    tmp_path: Path, place: Place, seed: int
) -> None:
    """Between reserve and settle the process may end; what it admitted stays charged."""
    chance = random.Random(seed)
    limits: dict[str, int] = {}
    charged: dict[str, int] = {}
    with a_state(tmp_path, place) as world:
        priced(world, {**AMOUNT, "price": 0})
        for scope, target in (("project", None), ("agent", "agt_1"), ("tool", "tol_1")):
            limit = chance.randint(20, 60) * MICROS
            budget = world.add_budget(limit, scope=scope, target_id=target, dimension="cost")
            limits[budget] = limit
    admitted: list[Permit] = []
    total = 0
    for _ in range(5):
        with a_state(tmp_path, place) as world:
            total += sum(permit.approved.affordable.cost for permit in admitted)  # unknown: charged
            admitted.clear()
            admission = world.admission()
            for _ in range(3):
                group = []
                for _ in range(chance.randint(1, 12)):
                    try:
                        group.append(asked(world, chance.randint(1, 9)))
                    except Refused:
                        continue
                results = await asyncio.gather(*map(admission.admit, group), return_exceptions=True)
                admitted += [result for result in results if isinstance(result, Permit)]
                for permit in chance.sample(admitted, chance.randint(0, len(admitted))):
                    admitted.remove(permit)
                    fate = chance.choice(list(Fate))
                    await world.state.settlement.settle(permit, an_outcome(fate))
                    total += 0 if fate is Fate.NOT_FORWARDED else permit.approved.affordable.cost
                await world.state.writer.change(lambda _: None)
                held = sum(permit.approved.affordable.cost for permit in admitted)
                for budget, limit in limits.items():
                    assert world.window(budget) == (total, held)
                    assert total + held <= limit
                charged = {budget: world.window(budget)[0] for budget in limits}
    assert max(charged.values()) > 0
    assert min(limits.values()) - total < 9 * MICROS  # it was pressed against its limit


# --- told once ---


async def alerts_of(world: World) -> list[tuple[str, str]]:
    await BudgetAlerts(world.state.registry, world.state.ledger).look()
    return [(r["event"], r["subject"]) for r in world.records(kind="event")]


async def test_a_budget_that_runs_out_is_told_once_a_window_and_level(world: World) -> None:
    budget = world.add_budget(10, warn_at=50)
    admission = world.admission()
    for _ in range(4):
        await admission.admit(world.approved())
    assert await alerts_of(world) == []
    await admission.admit(world.approved())
    warned = [("budget.warning", budget)]
    assert await alerts_of(world) == warned
    await admission.admit(world.approved())
    assert await alerts_of(world) == warned
    for _ in range(4):
        await admission.admit(world.approved())
    told = [*warned, ("budget.exceeded", budget)]
    assert await alerts_of(world) == told
    with pytest.raises(Refused):
        await admission.admit(world.approved())
    assert await alerts_of(world) == told


@pytest.mark.parametrize("at_the_look", [True, False])
async def test_a_call_that_finds_no_room_is_told_even_below_the_limit(
    world: World, at_the_look: bool
) -> None:
    priced(world, AMOUNT)
    budget = world.add_budget(10 * MICROS, dimension="cost", warn_at=100)
    late = asked(world, 6)
    await world.admission().admit(asked(world, 6))
    assert await alerts_of(world) == []
    with pytest.raises(Refused):
        asked(world, 6) if at_the_look else await world.admission().admit(late)
    assert await alerts_of(world) == [("budget.exceeded", budget)]


async def test_a_budget_of_nothing_is_told_too(world: World) -> None:
    budget = world.add_budget(0)
    with pytest.raises(Refused):
        asked(world)
    assert await alerts_of(world) == [("budget.exceeded", budget)]
    window = world.budgets[0].window_at(world.state.clock.now())
    world.state.ledger.look_again((world.budgets[0].id, window))
    assert await alerts_of(world) == [("budget.exceeded", budget)]

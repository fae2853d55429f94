"""Random histories of calls, outcomes, approvals and restarts: the books always balance."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from gateway.database_place import Place
from gateway.refusals import Refused
from gateway.values import Action, Fate, Permit
from tests.builders import World, a_state, an_outcome

pytestmark = pytest.mark.anyio

LIMIT = 12
ARGUMENTS = ("Lead", "Account", "Contact")


class Books:
    """What must be in the database, kept the simple way."""

    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.under_way: dict[str, Permit] = {}
        self.fates: Counter[Fate] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def charged(self) -> int:
        return self.fates.total() - self.fates[Fate.NOT_FORWARDED]

    async def admit(self, world: World, chance: random.Random) -> None:
        """A few calls at the same moment."""
        actions = chance.choices((Action.ALLOW, Action.REQUIRE_APPROVAL), k=chance.randint(1, 6))
        asked = [
            world.approved(action, arguments={"object": chance.choice(ARGUMENTS)})
            for action in actions
        ]
        admission = world.admission()
        results = await asyncio.gather(*map(admission.admit, asked), return_exceptions=True)
        for result in results:
            if isinstance(result, Permit):
                self.under_way[result.call.id] = result
            else:
                assert isinstance(result, Refused)
                self.refused[result.reason] += 1

    async def settle(self, world: World, chance: random.Random) -> None:
        count = chance.randint(0, len(self.under_way))
        for call_id in chance.sample(sorted(self.under_way), count):
            fate = chance.choice(list(Fate))
            permit = self.under_way.pop(call_id)
            await world.state.settlement.settle(permit, an_outcome(fate))
            self.fates[fate] += 1
        await world.state.writer.change(lambda _: None)

    def restarted(self) -> None:
        self.fates[Fate.UNKNOWN] += len(self.under_way)
        self.under_way.clear()

    def check(self, world: World) -> None:
        assert world.window(self.budget) == (self.charged, len(self.under_way))
        assert self.charged + len(self.under_way) <= LIMIT
        assert sorted(world.open_calls()) == sorted(self.under_way)
        fates = Counter(Fate(record["fate"]) for record in world.records(kind="outcome"))
        assert fates == self.fates
        effects = Counter(record["effect"] for record in world.records(kind="decision"))
        assert effects["forward"] == len(self.under_way) + self.fates.total()
        assert effects["refuse"] == self.refused.total()
        # A grant is spent by one call, which left or may have: nobody spends it twice.
        spenders = [spent_by for _, spent_by in world.approvals() if spent_by is not None]
        assert len(spenders) == len(set(spenders))
        gone = {r["call"] for r in world.records(kind="outcome") if r["fate"] == "not_forwarded"}
        assert not gone & set(spenders)
        world.check_log()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_books_balance(tmp_path: Path, place: Place, seed: int) -> None:
    chance = random.Random(seed)
    with a_state(tmp_path, place) as world:
        books = Books(world.add_budget(LIMIT))
    for _ in range(4):
        with a_state(tmp_path, place) as world:
            books.restarted()
            for _ in range(chance.randint(1, 6)):
                await books.admit(world, chance)
                await books.settle(world, chance)
                world.change(
                    lambda c: c.exec_driver_sql(
                        "UPDATE approvals SET state = 'APPROVED' WHERE state = 'PENDING'"
                    )
                )
                books.check(world)
    assert books.refused.keys() == {"approval_required", "budget_exceeded"}

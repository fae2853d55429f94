"""Approvals against a model: whatever races, restarts or expires, there is one outcome.

Operations of one step run at once. Their results, and what the database holds afterwards, must be
those of the model after the same operations one by one, in some order.
"""

import asyncio
import copy
import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.clock import after
from gateway.refusals import Refused
from gateway.registry import approvals, stops
from gateway.registry.approvals import Verb
from gateway.registry.core import Actor
from gateway.registry.faults import Fault
from gateway.registry.stops import NewStop
from gateway.values import Action, Fate, Permit, ProjectId, Role
from tests.builders import World, a_state, a_verdict, an_outcome
from tests.gateways import a_pair
from tests.postgresql import a_database

TTL = 3600
JUMP = 1500
"""Three jumps let an approval expire, and no slow machine is late enough to do it in two."""
QUORUM = {"one": 1, "two": 2}
OWNER = "olga"

Result = tuple[Any, ...]


@dataclass
class Approval:
    """The model of one row."""

    what: str
    made: int
    state: str = "PENDING"
    votes: list[str] = field(default_factory=list)
    spent_by: int | None = None

    def expired(self, now: int) -> bool:
        return now - self.made >= TTL


@dataclass
class Model:
    now: int = 0
    rows: list[Approval] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    stopped: bool = False

    def call(self, number: int, what: str) -> Result:
        if self.stopped:
            return ("emergency_stop",)
        of_it = [(place, row) for place, row in enumerate(self.rows) if row.what == what]
        for _, row in of_it:
            if row.state == "APPROVED" and row.spent_by is None and not row.expired(self.now):
                row.spent_by = number
                self.open.add(number)
                return ("passed",)
        for place, row in reversed(of_it):
            if row.state in ("PENDING", "DENIED") and not row.expired(self.now):
                denied = row.state == "DENIED"
                return ("approval_denied" if denied else "approval_required", place)
        self.rows.append(Approval(what, self.now))
        newest = of_it[-1][1] if of_it else None
        ran_out = (
            newest is not None
            and newest.state in ("PENDING", "APPROVED")
            and newest.spent_by is None
            and newest.expired(self.now)
        )
        return ("approval_expired" if ran_out else "approval_required", len(self.rows) - 1)

    def decide(self, place: int, verb: str, person: str) -> Result:
        row = self.rows[place]
        if row.state != "PENDING" or row.expired(self.now):
            return ("Conflict",)
        if verb == "deny":
            row.state = "DENIED"
            return ("done",)
        if person == OWNER:
            return ("Forbidden",)
        if person in row.votes:
            return ("Conflict",)
        row.votes.append(person)
        if len(row.votes) == QUORUM[row.what]:
            row.state = "APPROVED"
        return ("done",)

    def stop(self) -> Result:
        self.stopped = True
        for row in self.rows:
            if row.expired(self.now):
                continue
            if row.state == "PENDING":
                row.state = "DENIED"
            elif row.state == "APPROVED" and (row.spent_by is None or row.spent_by in self.open):
                row.state = "WITHDRAWN"
        return ("done",)

    def settle(self, number: int, fate: Fate) -> Result:
        if number in self.open:
            self.open.discard(number)
            for row in self.rows:
                if row.spent_by == number and fate is Fate.NOT_FORWARDED:
                    row.spent_by = None
        return ("done",)

    def seen(self) -> list[Result]:
        return [(row.state, row.spent_by, sorted(row.votes)) for row in self.rows]


@dataclass(frozen=True)
class Operation:
    """What is done to the gateway, and the same done to the model."""

    real: Callable[[], Any]
    model: Callable[[Model], Result]


class Approvals(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.folder / "data")
        self.opened = ExitStack()
        self.turns = 0
        self.worlds = self._open()
        self.model = Model()
        self.calls: list[str] = []
        self.permits: dict[int, Permit] = {}
        self.stop_id = ""
        self.began = self.world.state.clock.now()

    def teardown(self) -> None:
        self.opened.close()
        shutil.rmtree(self.folder)

    def _open(self) -> tuple[World, ...]:
        return (self.opened.enter_context(a_state(self.folder / "data")),)

    @property
    def world(self) -> World:
        """The gateway whose turn it is."""
        self.turns += 1
        return self.worlds[self.turns % len(self.worlds)]

    def _not_before(self) -> None:
        for world in self.worlds:
            world.state.clock.not_before(after(self.began, self.model.now))

    # --- what may happen ---

    @rule(asked=strategies.lists(strategies.sampled_from(sorted(QUORUM)), min_size=1, max_size=3))
    def call(self, asked: list[str]) -> None:
        self._at_once([self._a_call(what) for what in asked])

    @rule(data=strategies.data())
    def decide(self, data: strategies.DataObject) -> None:
        if self.model.rows:
            count = data.draw(strategies.integers(1, 3))
            self._at_once([self._a_decision(data) for _ in range(count)])

    @rule(data=strategies.data())
    def race(self, data: strategies.DataObject) -> None:
        """A call, a decision, a settlement and maybe a stop, at the same moment."""
        operations = [self._a_call(data.draw(strategies.sampled_from(sorted(QUORUM))))]
        if self.model.rows:
            operations.append(self._a_decision(data))
        if self.permits:
            operations.append(self._a_settlement(data))
        if not self.model.stopped and data.draw(strategies.booleans()):
            operations.append(Operation(self._stop, lambda model: model.stop()))
        self._at_once(data.draw(strategies.permutations(operations)))

    @rule(what=strategies.sampled_from(sorted(QUORUM)), jumps=strategies.sampled_from((0, 0, 3)))
    def one_grant_for_two_calls(self, what: str, jumps: int) -> None:
        """All approve, and it is called twice, maybe too late: chance alone seldom comes to it."""
        self._at_once([self._a_call(what)])
        for place, row in enumerate(self.model.rows):
            waits = row.state == "PENDING" and not row.expired(self.model.now)
            if row.what == what and waits:
                for person in (OWNER, "Ann", "Ben")[: QUORUM[what] + 1]:
                    self._at_once([self._told(place, "approve", person)])
        self.model.now += jumps * JUMP
        self._not_before()
        self._at_once([self._a_call(what), self._a_call(what)])

    @rule(data=strategies.data())
    def settle(self, data: strategies.DataObject) -> None:
        if self.permits:
            self._at_once([self._a_settlement(data)])

    @rule()
    def lift(self) -> None:
        if self.model.stopped:
            registry = self.world.state.registry
            registry.change_now(_actor("Ann"), lambda ch: stops.lift(ch, self.stop_id, "over"))
            self.model.stopped = False

    @rule()
    def time_passes(self) -> None:
        self.model.now += JUMP
        self._not_before()

    @rule()
    def restart(self) -> None:
        """What was admitted and open is unknown then: its grant stays spent."""
        self.opened.close()
        self.worlds = self._open()
        self._not_before()
        self.model.open.clear()
        self.permits.clear()

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        assert self._seen() == self.model.seen()

    @invariant()
    def every_row_is_worth_what_the_model_says(self) -> None:
        now = self.world.state.clock.now()
        with self.world.state.reader.connect() as connection:
            page = approvals.listed(connection, "prj_1", None, now, None, 200)
        for real, row in zip(page.items, self.model.rows, strict=True):
            worth = approvals.effective_status(real, now)
            if row.spent_by is not None:
                assert worth == "CONSUMED"
            elif row.state in ("DENIED", "WITHDRAWN"):
                assert worth == "DENIED"
            else:
                assert worth == ("EXPIRED" if row.expired(self.model.now) else row.state)

    # --- how ---

    def _a_call(self, what: str) -> Operation:
        quorum = ({"type": "quorum", "count": QUORUM[what]},)
        verdict = a_verdict(Action.REQUIRE_APPROVAL, obligations=quorum)
        approved = self.world.approved(verdict=verdict, arguments={"object": what})
        number = len(self.calls)
        self.calls.append(approved.call.id)

        async def real() -> Result:
            try:
                self.permits[number] = await self.world.admission().admit(approved)
            except Refused as refused:
                named = refused.data.get("approval_id")
                return (refused.reason,) if named is None else (refused.reason, named)
            return ("passed",)

        return Operation(real, lambda model: model.call(number, what))

    def _a_decision(self, data: strategies.DataObject) -> Operation:
        place = data.draw(strategies.integers(0, len(self.model.rows) - 1))
        verbs: tuple[Verb, ...] = ("approve", "approve", "deny")
        verb = data.draw(strategies.sampled_from(verbs))
        return self._told(place, verb, data.draw(strategies.sampled_from(("Ann", "Ben", OWNER))))

    def _told(self, place: int, verb: Verb, person: str) -> Operation:
        approval_id = self._ids()[place]

        async def real() -> Result:
            registry = self.world.state.registry
            try:
                await registry.change(
                    _actor(person), lambda ch: approvals.decide(ch, approval_id, verb)
                )
            except Fault as fault:
                return (type(fault).__name__,)
            return ("done",)

        return Operation(real, lambda model: model.decide(place, verb, person))

    def _a_settlement(self, data: strategies.DataObject) -> Operation:
        number = data.draw(strategies.sampled_from(sorted(self.permits)))
        fate = data.draw(strategies.sampled_from((Fate.NOT_FORWARDED, Fate.ANSWERED)))
        permit = self.permits.pop(number)

        async def real() -> Result:
            state = self.world.state
            await state.settlement.settle(permit, an_outcome(fate))
            await state.writer.change(lambda _: None)
            return ("done",)

        return Operation(real, lambda model: model.settle(number, fate))

    async def _stop(self) -> Result:
        registry = self.world.state.registry
        new = NewStop(scope="all", reason="a drill")
        raised = await registry.change(_actor("Ann"), lambda ch: stops.raise_stop(ch, new))
        self.stop_id = raised.row.id
        return ("done",)

    def _at_once(self, operations: Sequence[Operation]) -> None:
        places = {approval_id: place for place, approval_id in enumerate(self._ids())}
        results = asyncio.run(self._together(operations))
        places |= {approval_id: place for place, approval_id in enumerate(self._ids())}
        results = [tuple(places.get(part, part) for part in result) for result in results]
        seen = self._seen()
        for order in itertools.permutations(range(len(operations))):
            model = copy.deepcopy(self.model)
            told = {place: operations[place].model(model) for place in order}
            if [told[n] for n in range(len(operations))] == results and model.seen() == seen:
                self.model = model
                return
        raise AssertionError(f"no order of the operations explains {results}, {seen}")

    async def _together(self, operations: Sequence[Operation]) -> list[Result]:
        return list(await asyncio.gather(*(operation.real() for operation in operations)))

    def _ids(self) -> list[str]:
        return [row[0] for row in self.world.rows("SELECT id FROM approvals ORDER BY id")]

    def _seen(self) -> list[Result]:
        numbers = {call_id: number for number, call_id in enumerate(self.calls)}
        with self.world.state.reader.connect() as connection:
            page = approvals.listed(connection, "prj_1", None, "", None, 200)
        return [
            (
                row.state,
                None if row.spent_by is None else numbers[row.spent_by],
                sorted(vote["person"] for vote in row.votes),
            )
            for row in page.items
        ]


class ApprovalsOfTwo(Approvals):
    """The same with two gateways on one PostgreSQL, which take turns, one operation each.

    Which of two wins a race is not the same twice, as Hypothesis wants it: that is tested apart.
    """

    def __init__(self) -> None:
        self.database = ExitStack()
        self.place = self.database.enter_context(a_database())
        super().__init__()
        for world in self.worlds:
            world.set("projects", "prj_1", approval_ttl_seconds=TTL)

    def teardown(self) -> None:
        super().teardown()
        self.database.close()

    async def _together(self, operations: Sequence[Operation]) -> list[Result]:
        return [await operation.real() for operation in operations]

    def _open(self) -> tuple[World, ...]:
        return self.opened.enter_context(a_pair(self.folder, self.place))


def _actor(person: str) -> Actor:
    return Actor(ProjectId("prj_1"), f"usr_{person}", person, Role.APPROVER)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A data directory, made once and copied for each run: migrations take longer than a run."""
    with a_state(tmp_path / "template") as world:
        world.set("projects", "prj_1", approval_ttl_seconds=TTL)
    return tmp_path / "template"


def test_whatever_happens_at_once_happens_in_one_order(template: Path) -> None:
    class Machine(Approvals):
        pass

    Machine.template = template
    case = Machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=12)
    case("runTest").runTest()


def test_with_two_gateways_too(template: Path) -> None:
    class Machine(ApprovalsOfTwo):
        pass

    Machine.template = template
    case = Machine.TestCase
    case.settings = settings(max_examples=6, stateful_step_count=10)
    case("runTest").runTest()

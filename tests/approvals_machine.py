"""Approvals driven as a state machine, beside the model of `tests.approvals_model`.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, insert, update

from gateway.clock import after
from gateway.database_place import DATABASE
from gateway.refusals import Refused
from gateway.registry import approvals, stops
from gateway.registry.approvals import Verb
from gateway.registry.core import Actor
from gateway.registry.faults import Fault
from gateway.registry.stops import NewStop
from gateway.store import tables
from gateway.values import (
    Action,
    Approved,
    Caller,
    Fate,
    KeyId,
    Permit,
    ProjectId,
    Role,
    ServerId,
)
from tests.approvals_model import KINDS, OWNERS, TTL, Model, Result
from tests.builders import World, a_state, a_verdict, an_outcome
from tests.gateways import a_pair
from tests.postgresql import a_database

PROJECT = ProjectId("prj_1")
JUMP = 1500
"""Three jumps let an approval expire, and no slow machine is late enough to do it in two."""
PEOPLE = ("Ann", "ANN", "Ben", "olga", "Olga", "otto")
"""Two spellings are one person, under two names of their own."""
FATES = (Fate.NOT_FORWARDED, Fate.ANSWERED, Fate.UNKNOWN)
OF_ANY_KIND = strategies.sampled_from(sorted(KINDS))


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
        self.settled: list[Permit] = []
        self.stop_id = ""
        self.began = self.world.state.clock.now()

    def teardown(self) -> None:
        self.opened.close()
        shutil.rmtree(self.folder)

    def _open(self) -> tuple[World, ...]:
        return (
            self.opened.enter_context(
                a_state(self.folder / "data", self.folder / "data" / DATABASE)
            ),
        )

    @property
    def world(self) -> World:
        """The gateway whose turn it is."""
        self.turns += 1
        return self.worlds[self.turns % len(self.worlds)]

    def _not_before(self) -> None:
        for world in self.worlds:
            world.state.clock.not_before(after(self.began, self.model.now))

    # --- what may happen ---

    @rule(asked=strategies.lists(OF_ANY_KIND, min_size=1, max_size=3))
    def calls_come(self, asked: list[str]) -> None:
        self.call(asked)

    @rule(data=strategies.data())
    def decide(self, data: strategies.DataObject) -> None:
        if self.model.rows:
            count = data.draw(strategies.integers(1, 3))
            self._at_once([self._a_decision(data) for _ in range(count)])

    @rule(data=strategies.data())
    def race(self, data: strategies.DataObject) -> None:
        """A call, a decision, a settlement and maybe a stop, at the same moment."""
        operations = [self._a_call(data.draw(OF_ANY_KIND))]
        if self.model.rows:
            operations.append(self._a_decision(data))
        if self.permits:
            operations.append(self._a_settlement(data))
        if not self.model.stopped and data.draw(strategies.booleans()):
            operations.append(Operation(self._stop, lambda model: model.stop()))
        self._at_once(data.draw(strategies.permutations(operations)))

    @rule(kind=OF_ANY_KIND, jumps=strategies.sampled_from((0, 0, 3)))
    def one_grant_for_two_calls(self, kind: str, jumps: int) -> None:
        """All approve, and it is called twice, maybe too late: chance alone seldom comes to it."""
        self.call([kind])
        for place, row in enumerate(self.model.rows):
            waits = row.state == "PENDING" and not row.expired(self.model.now)
            if row.kind == kind and waits:
                for person in PEOPLE:
                    self.told(place, "approve", person)
        self.time_passes(jumps)
        self.call([kind, kind])

    @rule(data=strategies.data())
    def settle(self, data: strategies.DataObject) -> None:
        if self.permits:
            self._at_once([self._a_settlement(data)])

    @rule(data=strategies.data())
    def settle_again(self, data: strategies.DataObject) -> None:
        """Whoever was not told that it is written writes it once more: it counts once."""
        if self.settled:
            permit = data.draw(strategies.sampled_from(self.settled))
            self.settled_again(permit, data.draw(strategies.sampled_from(FATES)))

    @rule()
    def lift(self) -> None:
        if self.model.stopped:
            registry = self.world.state.registry
            registry.change_now(_actor("Ann"), lambda ch: stops.lift(ch, self.stop_id, "over"))
            self.model.stopped = False

    @rule(jumps=strategies.just(1))
    def time_passes(self, jumps: int) -> None:
        self.model.now += jumps * JUMP
        self._not_before()

    @rule()
    def restart(self) -> None:
        self.opened.close()
        self.worlds = self._open()
        self._not_before()
        self.model.restart()
        self.permits.clear()

    @rule(definition=strategies.sampled_from(("d" * 64, "f" * 64)))
    def another_definition_is_accepted(self, definition: str) -> None:
        rows = tables.tools
        changed = update(rows).where(rows.c.id == "tol_1").values(accepted_sha256=definition)
        self.world.change(lambda c: c.execute(changed))
        for world in self.worlds:
            with world.state.reader.connect() as connection:
                world.state.directory.reread(connection, PROJECT)
        self.model.definition = definition

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

    # --- one thing alone ---

    def call(self, kinds: Sequence[str]) -> list[Result]:
        """At the same moment, where there is one gateway."""
        return self._at_once([self._a_call(kind) for kind in kinds])

    def told(self, place: int, verb: Verb, person: str) -> Result:
        return self._at_once([self._told(place, verb, person)])[0]

    def stop(self) -> None:
        self._at_once([Operation(self._stop, lambda model: model.stop())])

    def settled_as(self, number: int, fate: Fate) -> None:
        self._at_once([self._settled(number, fate)])

    def settled_again(self, permit: Permit, fate: Fate) -> None:
        self._at_once([Operation(lambda: self._settle(permit, fate), lambda _: ("done",))])

    # --- how ---

    def _a_call(self, kind: str) -> Operation:
        approved = self._asked(kind)
        number = len(self.calls)
        self.calls.append(approved.call.id)

        async def real() -> Result:
            try:
                self.permits[number] = await self.world.admission().admit(approved)
            except Refused as refused:
                named = refused.data.get("approval_id")
                return (refused.reason,) if named is None else (refused.reason, named)
            return ("passed",)

        return Operation(real, lambda model: model.call(number, kind))

    def _asked(self, kind: str) -> Approved:
        of = KINDS[kind]
        obligations: list[dict[str, Any]] = [{"type": "quorum", "count": of.quorum}]
        if of.approvers is not None:
            obligations.append({"type": "approvers", "names": list(of.approvers)})
        verdict = a_verdict(
            Action.REQUIRE_APPROVAL if of.asks else Action.ALLOW,
            policy_ids=(of.policy,),
            obligations=tuple(obligations),
        )
        view = self.world.state.directory.view(PROJECT)
        key = view.keys[KeyId(of.by)]
        assert key.agent_id is not None
        agent, server = view.agents[key.agent_id], view.servers[ServerId("srv_1")]
        caller = Caller(view.project, key, agent, False, server)
        arguments = {"object": of.arguments}
        return self.world.approved(verdict=verdict, arguments=arguments, caller=caller)

    def _a_decision(self, data: strategies.DataObject) -> Operation:
        place = data.draw(strategies.integers(0, len(self.model.rows) - 1))
        verbs: tuple[Verb, ...] = ("approve", "approve", "deny")
        verb = data.draw(strategies.sampled_from(verbs))
        return self._told(place, verb, data.draw(strategies.sampled_from(PEOPLE)))

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
        fate = data.draw(strategies.sampled_from(FATES))
        return self._settled(number, fate)

    def _settled(self, number: int, fate: Fate) -> Operation:
        permit = self.permits.pop(number)
        self.settled.append(permit)
        return Operation(
            lambda: self._settle(permit, fate), lambda model: model.settle(number, fate)
        )

    async def _settle(self, permit: Permit, fate: Fate) -> Result:
        state = self.world.state
        await state.settlement.settle(permit, an_outcome(fate))
        await state.writer.change(lambda _: None)
        return ("done",)

    async def _stop(self) -> Result:
        registry = self.world.state.registry
        new = NewStop(scope="all", reason="a drill")
        raised = await registry.change(_actor("Ann"), lambda ch: stops.raise_stop(ch, new))
        self.stop_id = raised.row.id
        return ("done",)

    def _at_once(self, operations: Sequence[Operation]) -> list[Result]:
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
                return results
        raise AssertionError(f"no order of the operations explains {results}, {seen}")

    async def _together(self, operations: Sequence[Operation]) -> list[Result]:
        return list(await asyncio.gather(*(operation.real() for operation in operations)))

    def _ids(self) -> list[str]:
        return [row[0] for row in self.world.rows("SELECT id FROM approvals ORDER BY id")]

    def _seen(self) -> Sequence[Any]:
        numbers = {call_id: number for number, call_id in enumerate(self.calls)}
        with self.world.state.reader.connect() as connection:
            page = approvals.listed(connection, "prj_1", None, "", None, 200)
        rows = [
            (
                row.state,
                None if row.spent_by is None else numbers[row.spent_by],
                sorted(vote["person"] for vote in row.votes),
            )
            for row in page.items
        ]
        return [*rows, self.world.window("bud_1")]


class ApprovalsOfTwo(Approvals):
    """The same with two gateways on one PostgreSQL, which take turns, one operation each.

    Which of two wins a race is not the same twice, as Hypothesis wants it: that is tested apart.
    """

    def __init__(self) -> None:
        self.database = ExitStack()
        self.place = self.database.enter_context(a_database())
        super().__init__()
        self.worlds[0].change(furnish)
        self.another_definition_is_accepted(self.model.definition)

    def teardown(self) -> None:
        super().teardown()
        self.database.close()

    async def _together(self, operations: Sequence[Operation]) -> list[Result]:
        return [await operation.real() for operation in operations]

    def _open(self) -> tuple[World, ...]:
        return self.opened.enter_context(a_pair(self.folder, self.place))


def _actor(person: str) -> Actor:
    return Actor(PROJECT, f"usr_{person}", person, Role.APPROVER)


def furnish(connection: Connection) -> None:
    """Make what the model takes for granted; the budget has room for whatever is called."""
    c = tables.projects.c
    connection.execute(
        update(tables.projects).where(c.id == PROJECT).values(approval_ttl_seconds=TTL)
    )
    common = {"project_id": PROJECT, "owner": OWNERS["key_2"], "state": "ACTIVE"}
    common["created_at"] = "2026-01-01T00:00:00.000000Z"
    agent = {"id": "agt_2", "name": "porter", "description": "", **common}
    connection.execute(insert(tables.agents).values(**agent))
    key = {"id": "key_2", "secret_sha256": b"2" * 32, "role": "project", "name": "the porter's"}
    key |= {"agent_id": "agt_2", "may_assert": [], "created_by": OWNERS["key_2"], **common}
    connection.execute(insert(tables.keys).values(**key))
    budget: dict[str, Any] = {
        "id": "bud_1",
        "project_id": PROJECT,
        "scope": "project",
        "dimension": "requests",
    }
    budget |= {"window": "month", "limit": 10**6, "on_exceed": "BLOCK", "warn_at": 80}
    budget |= {"created_at": common["created_at"]}
    connection.execute(insert(tables.budgets).values(**budget))

"""A pipeline on a real data directory; only policy engine and upstreams are written fakes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.flows import Ended
from gateway.in_band.approvals import InBand
from gateway.in_band.tasks import OwnTasks
from gateway.mcp.continuations import Continuations
from gateway.mcp.conversation import Conversation
from gateway.mcp.handles import Handles
from gateway.mcp.relay import Relay
from gateway.mcp.screening import Screening
from gateway.mcp.seals import Seals
from gateway.mcp.upstream import Upstreams
from gateway.pipeline import Pipeline
from gateway.policy.engine import Engine, EngineAnswer, EngineFault
from gateway.records.refused_calls import RefusedCalls
from gateway.registry.stop_file import StopFile
from gateway.steps.approvals import Approvals
from gateway.steps.authenticate import Authenticate
from gateway.steps.breaker import Breaker
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.inspection import Inspection
from gateway.steps.methods import Methods
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.steps.visibility import Visibility
from gateway.values import (
    Action,
    Answer,
    Caller,
    Decision,
    Fate,
    Forwarded,
    Permit,
    Pinned,
    Request,
    Risk,
)
from tests.builders import World, a_decision

PUBLIC_URL = "https://gateway.example.com"
RESULT = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
JSON_ANSWER = Forwarded(Fate.ANSWERED, 200, ((b"content-type", b"application/json"),), body=RESULT)


async def at_once() -> None:
    """Let go of the loop once, as whatever waits for a network does."""
    await asyncio.sleep(0)


class FakePolicy(Policy):
    """Says `action` of every call, once `meanwhile` is over."""

    def __init__(self) -> None:
        self.action = Action.ALLOW
        self.risk = Risk.LOW
        self.enforced = True
        self.meanwhile: Callable[[], Awaitable[None]] = at_once

    async def decide(self, pinned: Pinned) -> Decision:
        await self.meanwhile()
        return a_decision(
            pinned.call, self.action, pinned=pinned, risk=self.risk, enforced=self.enforced
        )


class Unhiding(Visibility):
    """Hides nothing, and asks nobody."""

    def __init__(self) -> None:
        pass

    async def hidden(self, *_: Any) -> frozenset[str]:
        return frozenset()


class Unheard(Conversation):
    """Without a policy for any method."""

    def __init__(self, upstreams: Upstreams) -> None:
        super().__init__(Undecided(), upstreams)


class Undecided(Methods):
    def __init__(self) -> None:
        pass

    def any(self) -> bool:
        return False


class FakeEvents:
    """A stream of two events, the second of which is the response."""

    def __init__(self) -> None:
        self.left = [b": progress\n\n", b"data: " + RESULT + b"\n\n"]
        self.response = self.data = b""
        self.ended: Ended = ""

    def __aiter__(self) -> "FakeEvents":
        return self

    async def __anext__(self) -> bytes:
        await at_once()
        if not self.left:
            self.ended = "complete"
            raise StopAsyncIteration
        event = self.left.pop(0)
        if not self.left:
            self.response = self.data = RESULT
        return event

    async def aclose(self) -> None:
        self.ended = self.ended or "closed"


class FakeUpstreams(Upstreams):
    """Keeps what was sent, and sees for itself that the decision was on disk by then."""

    def __init__(self, world: World) -> None:
        super().__init__(Handles(Seals(world.state.keyring.handles)))
        self._world = world
        self.sent: list[str] = []
        self.relayed: list[str] = []
        """Methods."""
        self.streams: list[FakeEvents] = []
        self.connecting: Callable[[], Awaitable[None]] = at_once
        self.answering: Callable[[], Awaitable[None]] = at_once
        self.answer: Forwarded | None = JSON_ANSWER
        """None: a stream."""

    async def forward(self, permit: Permit, before_write: Callable[[], None]) -> Forwarded:
        await self.connecting()
        before_write()
        call_id = permit.call.id
        decided = self._world.rows("SELECT kind FROM trace WHERE id = ?", call_id)
        assert decided == [("decision",)]
        self.sent.append(call_id)
        await self.answering()
        if self.answer is not None:
            return self.answer
        self.streams.append(FakeEvents())
        headers = ((b"content-type", b"text/event-stream"),)
        return Forwarded(Fate.ANSWERED, 200, headers, stream=self.streams[-1])

    async def relay(self, caller: Caller, request: Request, **_: Any) -> Forwarded:
        self.relayed.append(request.method)
        return JSON_ANSWER


@dataclass(frozen=True)
class Line:
    """The pipeline and its two fakes."""

    world: World
    policy: FakePolicy
    upstreams: FakeUpstreams
    pipeline: Pipeline

    async def handle(self, request: Request) -> Answer:
        return await self.pipeline.handle(request)

    async def quiet(self) -> None:
        """Until no call is under way, and whatever was queued is on disk."""
        while self.pipeline.running:
            await asyncio.wait(self.pipeline.running)
        await self.world.state.writer.change(lambda _: None)


class _NoEngine(Engine):
    """Nobody answers."""

    def __init__(self) -> None:
        pass

    async def ask(self, document: bytes, question: bytes, **_: Any) -> EngineAnswer:
        raise EngineFault("OPA is down")


def a_line(
    world: World,
    policy: Policy | None = None,
    inspects: frozenset[tuple[str, str]] = frozenset(),
    *,
    hold_seconds: float = 0.0,
    retry_seconds: float = 0.2,
) -> Line:
    """``inspects``: whose responses a policy looks at; nobody answers for it."""
    state = world.state
    now, directory = state.clock.now, state.directory
    fake, upstreams = FakePolicy(), FakeUpstreams(world)
    stop_file = StopFile(state.data_dir)
    seals = Seals(state.keyring.handles)
    screening = Screening(_NoEngine(), lambda: inspects, now)
    pipeline = Pipeline(
        directory=directory,
        authenticate=Authenticate(directory, now, lambda _: 0.0),
        handles=Handles(Seals(state.keyring.handles)),
        emergency_stop=EmergencyStop(directory, lambda: stop_file.seen),
        breaker=Breaker(),
        tool_pins=ToolPins(directory),
        policy=policy or fake,
        budget=BudgetLook(directory, state.ledger, now),
        approvals=Approvals(),
        admission=world.admission(stop_file.read),
        upstreams=upstreams,
        inspection=Inspection(screening),
        settlement=state.settlement,
        refused_calls=RefusedCalls(state.writer, state.log, now),
        relay=Relay(upstreams, state.registry, Unhiding(), Unheard(upstreams), screening),
        in_band=InBand(
            Continuations(seals),
            OwnTasks(state.registry, seals, PUBLIC_URL),
            state.registry,
            PUBLIC_URL,
            hold_seconds,
            retry_seconds,
        ),
        running=set(),
    )
    return Line(world, fake, upstreams, pipeline)

"""One tool call, top to bottom. Read this first.

    bytes ─ authenticate ─ parse ─ stop ─ tool pin ─ breaker ─ policy ─ budget ─ approval ─ admit
                                                                                             │
    answer ◄──────────────────────────────────────────────── settle ◄ inspect ◄ forward ◄─ Permit

Each step takes the value that the one before it returned, so none can be left out: the order is a
security property, and the type checker holds it. Before the Permit there are questions and one
exception, `Refused`; after it there are no refusals, only outcomes. The decision is on disk before
the Permit exists, and only a Permit can be forwarded.

Anchoring the log is not here: it follows the log from a task of its own.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import field, replace
from typing import Any, NewType, TypeVar

import structlog

from gateway import answers
from gateway.admission import Admission
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.in_band.approvals import Again, InBand
from gateway.in_band.tasks import Kept
from gateway.mcp.envelope import BadMessage, Message, RequestMessage, parse, tool_call
from gateway.mcp.handles import Handles
from gateway.mcp.relay import Relay
from gateway.mcp.tasks import METHODS as TASK_METHODS
from gateway.mcp.upstream import Upstreams
from gateway.records.outcome import Outcome
from gateway.records.refused_calls import RefusedCalls
from gateway.refusals import Refused, Unauthenticated
from gateway.registry.directory import Directory
from gateway.settlement import Settlement, SettlingEvents
from gateway.steps.approvals import Approvals
from gateway.steps.authenticate import Authenticate
from gateway.steps.breaker import Breaker
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.enforcement import enforce, strictest
from gateway.steps.inspection import Inspected, Inspection, outcome_of_stream, withheld
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.store.writer import CommitInDoubt
from gateway.telemetry.counters import ADMITTED, Counters, Durations
from gateway.telemetry.logs import fault_text
from gateway.telemetry.tracing import CallSpan, Step, Tracing, current, onward
from gateway.values import (
    Action,
    Answer,
    Approved,
    Call,
    Caller,
    CallId,
    Decision,
    Fate,
    Forwarded,
    Permit,
    Request,
)

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Screened = NewType("Screened", Inspected)
"""An answer that response policies let through, changed or withheld."""
Settled = NewType("Settled", Answer)
"""An answer whose outcome is written, or will be before its last byte leaves."""


@frozen
class Pipeline:
    """The steps, built by `gateway.assembly`."""

    directory: Directory
    authenticate: Authenticate
    handles: Handles
    emergency_stop: EmergencyStop
    tool_pins: ToolPins
    breaker: Breaker
    policy: Policy
    budget: BudgetLook
    approvals: Approvals
    admission: Admission
    upstreams: Upstreams
    inspection: Inspection
    settlement: Settlement
    refused_calls: RefusedCalls
    relay: Relay
    in_band: InBand
    running: set["asyncio.Task[Any]"] = field(default_factory=set)
    """Calls between admission and settlement; shutting down waits for them."""
    counters: Counters = field(default_factory=Counters)
    tracing: Tracing | None = None

    async def handle(self, request: Request) -> Answer:
        """Any MCP message of the proxy's door, answered."""
        try:
            caller = self.authenticate(request)
        except Unauthenticated as fault:
            self.counters.turn_away(fault.status)
            return answers.unauthenticated(fault)
        if request.method != "POST":
            request = self.handles.inward(caller, request, None)
            return await self._pass_on(caller, request, None)
        try:
            message = parse(request.body, request.headers)
        except BadMessage as bad:
            return await self._reject(caller, bad)
        if isinstance(message, RequestMessage) and message.method == "tools/call":
            return await self.call_tool(self._call(caller, request, message))
        if isinstance(message, RequestMessage) and message.method in TASK_METHODS:
            task_id = self.in_band.tasks.named(caller, message)
            if task_id is not None:
                return await self._own_task(caller, request, message, task_id)
        request = self.handles.inward(caller, request, message)
        return await self._pass_on(caller, request, message)

    async def carry_out(self, kept: Kept) -> Answer:
        """A call that was kept as a task, made anew, and not held open should it wait again.

        Raises `Unauthenticated` when its key may call no longer, `BadMessage`.
        """
        caller = self.authenticate.again(kept.project_id, kept.key_id, kept.request)
        message = parse(kept.request.body, kept.request.headers)
        assert isinstance(message, RequestMessage)
        call = self._call(caller, kept.request, message)
        return await self.call_tool(
            replace(call, id=kept.call_id, of_task=kept.task_id), waits=False
        )

    def _call(self, caller: Caller, request: Request, message: RequestMessage) -> Call:
        sent = request
        resumed = self.in_band.continuations.resume(caller, request, message)
        message = resumed.message
        request = self.handles.inward(caller, resumed.request, message)
        asked = tool_call(message)
        state = asked.request_state
        return Call(
            id=CallId(new_id("trc")),
            caller=caller,
            request=request,
            source="mcp",
            era=message.era,
            rpc_id=message.id,
            tool_name=asked.name,
            arguments=asked.arguments,
            meta=asked.meta,
            task=asked.task,
            input_responses=asked.input_responses,
            is_retry=resumed.own
            or (state is not None and self.handles.is_own_state(caller, state)),
            params=asked.params,
            session=message.session,
            continues=resumed.continues,
            sent=sent,
        )

    async def call_tool(self, call: Call, *, waits: bool = True) -> Answer:
        """One tool call: asked, then, if it may, carried out; traced whatever comes of it.

        One that a person must approve is held open for that where calls are held, if it `waits`.
        """
        started = time.perf_counter()
        span = None if self.tracing is None else self.tracing.begin(call)
        try:
            if span is None:
                return await self._called(call, waits)
            return await self._traced(onward(call, span), span, waits)
        finally:
            self.counters.call.since(started)

    async def _traced(self, call: Call, span: CallSpan, waits: bool) -> Answer:
        """With a span of its own, whose ids stand in each line that is logged meanwhile."""
        assert self.tracing is not None
        token = current.set(span)
        ids = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        try:
            with structlog.contextvars.bound_contextvars(**ids):
                return await self._called(call, waits)
        finally:
            current.reset(token)
            self.tracing.end(span)

    async def _called(self, call: Call, waits: bool) -> Answer:
        try:
            approved = await self.ask(call)
        except Refused as refused:
            return await self._refuse(call, refused)
        except asyncio.CancelledError:
            # Nobody hears the refusal, but the call was made, and the trace says what became of it.
            self._run(self._refuse(call, Refused("not_forwarded", detail="the caller left")))
            raise
        except Exception as fault:  # noqa: BLE001 - the one that refuses: a fault refuses
            return await self._refuse(call, Refused("internal", detail=repr(fault)))
        # From here the caller's hanging up must not tear a half-done call apart.
        again = self._again(call) if waits else None
        task = self._run(self._carry_out(approved, again))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._run(_drop(task))
            raise

    def _again(self, call: Call) -> Again:
        """The same call, made anew once a person has decided."""
        return lambda: self.call_tool(replace(call, id=CallId(new_id("trc"))), waits=False)

    async def permit(self, calls: Sequence[Call]) -> Permit:
        """As `call_tool`, for a call that whoever asks carries out: admitted, and not sent.

        ``calls`` are one call under each name that its tool goes by; the strictest answer holds.
        Raises `Refused`, which is written down by then; without a leaf it was only counted.
        """
        try:
            approved = strictest([await self.ask(call) for call in calls])
        except Refused as refused:
            raise await self._written(calls[0], refused) from None
        except Exception as fault:  # noqa: BLE001 - a fault refuses here too
            raise await self._written(calls[0], Refused("internal", detail=repr(fault))) from None
        handed_over = await asyncio.shield(self._run(self._hand_over(approved)))
        if isinstance(handed_over, Refused):
            raise handed_over
        return handed_over

    async def _hand_over(self, approved: Approved) -> Permit | Refused:
        call = approved.call
        try:
            permit = await self._admit(approved)
        except Refused as refused:
            self._met(call, refused, approved.decision)
            if not refused.leaf:
                self.refused_calls.count(call, refused)
            refused.decided = approved.decision
            return refused
        except Exception as fault:  # noqa: BLE001 - nothing is durable, so nothing is allowed
            _log.error("the decision could not be written", call=call.id, error=fault_text(fault))
            self._count(approved.decision, "trace_unavailable")
            return Refused("trace_unavailable")
        try:
            if call.request.gone():
                raise Refused("not_forwarded")
            self._still_permitted(permit)
        except Refused as refused:
            await self.settlement.settle(permit, Outcome(Fate.NOT_FORWARDED, "not_sent"))
            return refused
        await self.settlement.settle(permit, Outcome(Fate.HANDED_OVER, "handed_over"))
        return permit

    async def _written(self, call: Call, refused: Refused) -> Refused:
        """The refusal, once it is written down; another one when it cannot be."""
        self._met(call, refused)
        if refused.detail:
            # OPA quotes what it was given: the detail is for the erasable payload alone.
            _log.warning("refused", call=call.id, reason=refused.reason)
        try:
            await self.refused_calls.record(call, refused)
        except Exception as fault:  # noqa: BLE001 - nothing was allowed, and that is what we say
            _log.error("the refusal could not be written", call=call.id, error=fault_text(fault))
            return Refused("trace_unavailable")
        return refused

    def _run(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def ask(self, call: Call) -> Approved:
        """Every question, asked before anything changes. Raises `Refused`."""
        cleared = self.emergency_stop.clear(call)
        pinned = self.tool_pins.match(cleared)
        steady = self.breaker.watch(pinned)
        started = time.perf_counter()
        try:
            decision = await self.policy.decide(steady)
        finally:
            self._took("policy", self.counters.policy, started)
        allowed = enforce(decision)
        affordable = self.budget.look(allowed)
        return self.approvals.find(affordable)

    async def _carry_out(self, approved: Approved, again: Again | None) -> Settled:
        """Admit, then send: the decision is durable before the first byte leaves."""
        call = approved.call
        try:
            permit = await self._admit(approved)
        except Refused as refused:
            self._met(call, refused, approved.decision)
            trace_id = call.id if refused.leaf else self.refused_calls.count(call, refused)
            return Settled(await self.in_band.answer(call, refused, trace_id, again))
        except Exception as fault:  # noqa: BLE001 - nothing is durable, so nothing is sent
            _log.error("the decision could not be written", call=call.id, error=fault_text(fault))
            self._count(approved.decision, "trace_unavailable")
            return Settled(answers.refused_call(call, Refused("trace_unavailable"), call.id))
        started = time.monotonic()
        forwarded = await self._forward(permit)
        inspected = self.inspection.inspect(permit, forwarded, started)
        screened = await self._screen(inspected)
        return await self._settle(screened)

    async def _admit(self, approved: Approved) -> Permit:
        started = time.perf_counter()
        try:
            permit = await self.admission.admit(approved)
        except CommitInDoubt:
            self.settlement.take_back(approved.call)
            raise
        finally:
            self._took("admission", self.counters.admission, started)
        self._count(approved.decision, ADMITTED)
        return permit

    def _met(self, call: Call, refused: Refused, decision: Decision | None = None) -> None:
        """A refusal, as it counts for the circuit breaker and in the metrics."""
        self.breaker.refused(call, refused)
        if decision is None and isinstance(refused.decided, Decision):
            decision = refused.decided
        self._count(decision, refused.reason)

    def _count(self, decision: Decision | None, reason: str) -> None:
        action = Action.DENY if decision is None else decision.verdict.action
        self.counters.decided(action.value, reason)
        if self.tracing is not None and (span := current.get()) is not None:
            span.action, span.reason = action.value, reason

    def _took(self, step: Step, durations: Durations, started: float) -> None:
        durations.since(started)
        if self.tracing is not None and (span := current.get()) is not None:
            span.took(step, started)

    async def _forward(self, permit: Permit) -> Forwarded:
        started = time.perf_counter()
        forwarded = await self._send(permit)
        self._took("forward", self.counters.forward, started)
        self.counters.forwarded(forwarded.fate.value, forwarded.reason)
        return forwarded

    async def _send(self, permit: Permit) -> Forwarded:
        """Send once, or say why it surely was not sent."""
        if permit.call.request.gone():
            return Forwarded(Fate.NOT_FORWARDED, reason="not_forwarded")
        try:
            forwarded = await self.upstreams.forward(permit, lambda: self._still_permitted(permit))
            return await self.relay.hear(permit.call, forwarded)
        except Refused as refused:
            return Forwarded(Fate.NOT_FORWARDED, reason=refused.reason)
        except Exception as fault:  # noqa: BLE001 - whether it ran is not known: say so, charge it
            _log.error("forwarding failed", call=permit.call.id, error=fault_text(fault))
            return Forwarded(Fate.UNKNOWN, reason="upstream_error")

    async def _screen(self, inspected: Inspected) -> Screened:
        """Ask response policies, where there are any; what cannot be asked about stays here."""
        try:
            return Screened(await self.inspection.screen(inspected))
        except Exception as fault:  # noqa: BLE001 - the call was made, and its answer is withheld
            call_id = inspected.permit.call.id
            _log.error("a response could not be screened", call=call_id, error=fault_text(fault))
            if inspected.events is not None:
                await inspected.events.aclose()
            return Screened(withheld(inspected, "answer_unreadable"))

    def _still_permitted(self, permit: Permit) -> None:
        """The last act before the first byte. Raises `Refused`."""
        if time.monotonic() > permit.deadline:
            raise Refused("not_forwarded")
        unchanged = self.directory.epoch == permit.epoch and self.directory.sees()
        if not unchanged or self.emergency_stop.everywhere():
            self.emergency_stop.check(permit.call.caller)

    async def _settle(self, inspected: Screened) -> Settled:
        """Write the outcome, or see to it that it is written before the answer's last byte."""
        answer, events, permit = inspected.answer, inspected.events, inspected.permit
        if events is None:
            await self.settlement.settle(permit, inspected.outcome)
            return Settled(self.in_band.carry(permit, answer))
        stream = SettlingEvents(
            events,
            lambda: self.settlement.settle(permit, outcome_of_stream(inspected, events)),
        )
        return Settled(self.in_band.carry(permit, replace(answer, stream=stream)))

    async def _refuse(self, call: Call, refused: Refused) -> Answer:
        """A refusal is written down before it is told; one that cannot be is a 503."""
        self._met(call, refused)
        if refused.detail:
            _log.warning("refused", call=call.id, reason=refused.reason)
        try:
            trace_id = await self.refused_calls.record(call, refused)
        except Exception as fault:  # noqa: BLE001 - nothing was sent, and that is what we say
            _log.error("the refusal could not be written", call=call.id, error=fault_text(fault))
            refused, trace_id = Refused("trace_unavailable"), call.id
        return answers.refused_call(call, refused, trace_id)

    async def _reject(self, caller: Caller, bad: BadMessage) -> Answer:
        """What cannot be read is written down too."""
        self.counters.not_read(bad.rpc_code)
        try:
            await self.refused_calls.reject(caller, bad.rpc_code)
        except Exception as fault:  # noqa: BLE001 - nothing was sent, and that is what we say
            _log.error(
                "the refusal could not be written", key=caller.key.id, error=fault_text(fault)
            )
            unwritten = answers.refused_message(bad.rpc_id, Refused("trace_unavailable"))
            return replace(unwritten, status=503)
        return answers.bad_message(bad)

    async def _pass_on(self, caller: Caller, request: Request, message: Message | None) -> Answer:
        """What is no tool call: stops bind it too, the rest is the relay's."""
        try:
            self.emergency_stop.check(caller)
        except Refused as refused:
            rpc_id = message.id if isinstance(message, RequestMessage) else None
            return answers.refused_message(rpc_id, refused)
        answer = await self.relay.pass_on(caller, request, message)
        return self.in_band.met(message, answer)

    async def _own_task(
        self, caller: Caller, request: Request, message: RequestMessage, task_id: str
    ) -> Answer:
        """What is asked of a task that the gateway made; its server may have one of its own."""
        tasks = self.in_band.tasks
        try:
            self.emergency_stop.check(caller)
            row = await tasks.find(caller, task_id)
            onward = tasks.onward(caller, request, message, row)
            if onward is None:
                await self.relay.allow(caller, request, message)
                return await tasks.answer(caller, request, message, row)
        except Refused as refused:
            return answers.refused_message(message.id, refused)
        inward = self.handles.inward(caller, onward.request, onward.message)
        return onward.renamed(await self._pass_on(caller, inward, onward.message))


async def _drop(task: "asyncio.Task[Answer]") -> Answer:
    """See to an answer that nobody reads: its stream would run on, and never be settled."""
    answer = await task
    if answer.stream is not None:
        await answer.stream.aclose()
    return answer

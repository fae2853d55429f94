"""The control plane: what does not pass the proxy is decided, or recorded, by the same Verify.

`decide` is the proxy's own line of questions up to the Permit, which is handed over instead of
forwarded. `record` is for what has happened: it is asked what would have been decided, nothing is
spent or refused, and the record says that nothing could be enforced.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import orjson
from sqlalchemy import Connection, and_, or_, select

from gateway.budgets import cost_of, matching
from gateway.clock import after
from gateway.dry_run import DryRun, Looked
from gateway.edge import TokenBuckets
from gateway.extensions import told
from gateway.extensions.asked import Asked, call_of, note_draft, outcome_draft, would_draft
from gateway.extensions.events import REQUESTED, EventIn, digest
from gateway.extensions.reports import Claim, Claimed, Entry, Reports
from gateway.extensions.senders import Sender, Senders
from gateway.extensions.told import FAULTS, Told
from gateway.ids import new_id
from gateway.pipeline import Pipeline
from gateway.policy.engine import EngineFault
from gateway.policy.risk import RiskAssessor
from gateway.refusals import Refused
from gateway.registry import records
from gateway.registry.core import Registry
from gateway.registry.directory import Directory, ProjectView
from gateway.registry.faults import Invalid, Unready
from gateway.store import tables
from gateway.trace.record import Draft
from gateway.values import (
    Budget,
    Call,
    Caller,
    CallId,
    Decision,
    Fate,
    Json,
    Key,
    Risk,
)

URGENT_AN_HOUR = 60
"""Reports of one extension that may have the log anchored at once."""
_REMEMBERED_RISKS = 4096
_BEING_DECIDED_SECONDS = 2.0


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class ControlPlane:
    """``revision`` names the policy that decides now."""

    def __init__(
        self,
        pipeline: Pipeline,
        dry_run: DryRun,
        risks: RiskAssessor,
        reports: Reports,
        registry: Registry,
        revision: Callable[[], str | None],
    ) -> None:
        self.pipeline = pipeline
        self.reports = reports
        self.registry = registry
        self.dry_run = dry_run
        self._risks = risks
        self._revision = revision
        self._directory: Directory = registry.directory
        self.senders = Senders(registry, lambda key: self._directory.view(key.project_id))
        self._known_risks: OrderedDict[tuple[str | None, str, str], Risk] = OrderedDict()
        self._rates: dict[int, TokenBuckets] = {}
        self._urgent = TokenBuckets(per_second=URGENT_AN_HOUR / 3600, burst=URGENT_AN_HOUR)
        self._turns: dict[tuple[str, str], _Turn] = {}

    def take(self, sender: Sender) -> float:
        """Take one event from the extension's rate; how many seconds it must wait, or 0."""
        if sender.extension is None:
            return 0.0
        rate = sender.extension.events_per_minute
        if rate not in self._rates:
            self._rates[rate] = TokenBuckets(per_second=rate / 60, burst=max(rate / 6, 1.0))
        return self._rates[rate].take(sender.key.id)

    async def event(self, key: Key, document: Mapping[str, Json], event: EventIn) -> Told:
        """One event of ``POST /webhooks/ingest``. Raises a `Fault` for what is not taken."""
        sender = self.senders.sender(key)
        _check(sender, event)
        caller = await self.senders.caller(sender, event)
        event_id = event.event_id or new_id("evt")
        asked = Asked(sender, event, document, event_id, caller)
        if sender.extension is None:
            asked = replace(asked, source="sdk")
        if event.mode == "decide":
            return await self.decide(asked)
        if event.joins:
            return await self.outcome(asked)
        if event.tool is None:
            return await self.note(asked)
        return await self.record(asked)

    # --- asked before ---

    async def decide(self, asked: Asked) -> Told:
        """Decide once for each event id; a verdict that rests on what has changed since is none."""
        # The same event twice at a time: the second waits for what the first is told.
        which = (asked.sender.key.id, asked.event_id)
        turn = self._turns.setdefault(which, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                return await self._decide_once(asked)
        finally:
            turn.waiting -= 1
            if turn.waiting == 0:
                self._turns.pop(which, None)

    async def _decide_once(self, asked: Asked) -> Told:
        claim = self._claim(asked)
        claimed = await self.reports.claim(claim)
        if not claimed.is_new:
            before = await self._as_told(asked, claimed)
            if before is not None and await self._still_holds(asked, before, claimed, claim):
                return before
            if before is None and self._is_fresh(claimed):
                raise Unready("This event is being decided; ask again.")
            claimed = await self.reports.claim(replace(claim, replacing=claimed.trace_id))
        calls = await self.calls(asked, claimed.trace_id)
        try:
            permit = await self.pipeline.permit(calls)
        except Refused as why:
            return told.refused(claimed.trace_id, why)
        return told.permitted(permit)

    async def _still_holds(
        self, asked: Asked, before: Told, claimed: Claimed, claim: Claim
    ) -> bool:
        if before.reason_code in FAULTS:
            return False
        if before.passes:
            return claimed.basis == claim.basis
        if before.decision != "PENDING_APPROVAL":
            return True
        return await self.registry.read(lambda c: _is_pending(c, before, self.registry.clock.now()))

    def _is_fresh(self, claimed: Claimed) -> bool:
        # Without a record another gateway decides it now, or one has died over it.
        return claimed.claimed_at > after(self.registry.clock.now(), -_BEING_DECIDED_SECONDS)

    async def _as_told(self, asked: Asked, claimed: Claimed) -> Told | None:
        await self.pipeline.settlement.written()
        project_id = asked.sender.key.project_id
        return await self.registry.read(lambda c: _recorded(c, project_id, claimed.trace_id))

    async def calls(self, asked: Asked, trace_id: str) -> list[Call]:
        """The event as a call, once under each name of its tool."""
        tool = asked.event.tool
        if tool is None:
            raise Invalid({"tool": "is needed"})
        risk = await self.presumed_risk(asked.caller, tool.name, tool.description)
        names = [tool.name] if tool.id in (None, tool.name) else [tool.name, tool.id]
        return [call_of(asked, trace_id, str(name), risk) for name in names]

    async def presumed_risk(self, caller: Caller, name: str, description: str) -> Risk:
        """How much harm a tool that no scan knows can do, from what is said of it."""
        known = self.known_risk(caller, name, description)
        if known is not None:
            return known
        try:
            definition = {"name": name, "description": description}
            (assessed,) = await self._risks.risks([definition])
        except EngineFault:
            return Risk.HIGH
        self._known_risks[self._risk_key(name, description)] = assessed.risk
        if len(self._known_risks) > _REMEMBERED_RISKS:
            self._known_risks.popitem(last=False)
        return assessed.risk

    def known_risk(self, caller: Caller, name: str, description: str) -> Risk | None:
        """The same without asking anything: None where that is needed."""
        tools = self._directory.view(caller.project.id).tools.get(caller.server.id, {})
        if name in tools:
            return tools[name].risk
        return self._known_risks.get(self._risk_key(name, description))

    def _risk_key(self, name: str, description: str) -> tuple[str | None, str, str]:
        return self._revision(), name, hashlib.sha256(description.encode()).hexdigest()

    # --- reported afterwards ---

    async def record(self, asked: Asked) -> Told:
        """A call that has happened: what would have been decided, and what became of it."""
        looked, reason, call = await self._look(asked)
        charges = () if looked is None else _charges(self._view(asked), looked.decision)
        urgent = self._may_be_urgent(asked, looked, reason)

        def drafts(trace_id: str) -> list[Draft]:
            own = replace(call, id=CallId(trace_id))
            found = [would_draft(own, looked, reason, urgent=urgent)]
            if asked.event.is_outcome:
                found.append(outcome_draft(asked, trace_id))
            return found

        claimed = await self.reports.write(Entry(self._claim(asked), drafts, charges))
        if not claimed.is_new:
            before = await self._as_told(asked, claimed)
            if before is not None:
                return before
        return told.would(claimed.trace_id, looked, reason)

    async def outcome(self, asked: Asked) -> Told:
        """What became of a call that this sender asked about, or will announce."""
        event = asked.event

        def drafts(trace_id: str) -> list[Draft]:
            return [outcome_draft(asked, trace_id)]

        of_trace, of_event = event.trace_id or "", event.request_event_id or ""
        entry = Entry(self._claim(asked), drafts, of_trace=of_trace, of_event=of_event)
        return told.recorded((await self.reports.write(entry)).trace_id)

    async def note(self, asked: Asked) -> Told:
        """What is no tool call: recorded under its own name, decided by nothing."""

        def drafts(trace_id: str) -> list[Draft]:
            return [note_draft(asked, trace_id)]

        claimed = await self.reports.write(Entry(self._claim(asked), drafts))
        return told.recorded(claimed.trace_id)

    async def would(self, asked: Asked) -> Told:
        """What would be decided now, without any effect but a count of such questions."""
        looked, reason, call = await self._look(asked)
        action = looked.decision.verdict.action.value if looked is not None else reason
        key = asked.sender.key
        self.pipeline.refused_calls.probe(key.project_id, key.id, action)
        return told.would(call.id, looked, reason)

    async def _look(self, asked: Asked) -> tuple[Looked | None, str, Call]:
        calls = await self.calls(asked, "")
        looks: list[tuple[Looked | None, str]] = []
        for call in calls:
            try:
                looked = await self.dry_run.look(call)
            except Refused as why:
                looks.append((None, why.reason))
            else:
                looks.append((looked, _would_refuse(looked)))
        best = max(range(len(looks)), key=lambda n: _severity(looks[n]))
        return (*looks[best], calls[best])

    def _may_be_urgent(self, asked: Asked, looked: Looked | None, reason: str) -> bool:
        extension = asked.sender.extension
        if extension is None or "urgent" not in extension.scopes:
            return False
        risky = looked is not None and looked.decision.risk in (Risk.HIGH, Risk.CRITICAL)
        return (bool(reason) or risky) and self._urgent.take(asked.sender.key.id) == 0

    # --- both ---

    def _view(self, asked: Asked) -> ProjectView:
        return self._directory.view(asked.sender.key.project_id)

    def _claim(self, asked: Asked) -> Claim:
        return Claim(
            project_id=asked.sender.key.project_id,
            sender=asked.sender.key.id,
            event_id=asked.event_id,
            digest=digest(asked.document),
            basis=self._basis(asked) if asked.event.mode == "decide" else "",
        )

    def _basis(self, asked: Asked) -> str:
        """All that a verdict rests on besides the event: a stop, a rule, a pin changes it."""
        caller, tool = asked.caller, asked.event.tool
        view = self._view(asked)
        names = {tool.name, tool.id or tool.name} if tool is not None else set()
        tools = view.tools.get(caller.server.id, {})
        known = [tools[name] for name in sorted(names) if name in tools]
        now = self.registry.clock.now()
        found = [
            self._revision(),
            [stop.id for stop in view.stops],
            self.pipeline.emergency_stop.everywhere(),
            [
                view.matching_rules(caller.agent, caller.server, name, tools.get(name), now)
                for name in sorted(names)
            ],
            [one for one in view.overrides.get(caller.server.id, ()) if one.expires_at > now],
            [[one.pin, one.definition_sha256, one.risk] for one in known],
            [caller.server.revision, caller.server.status, caller.server.enforcement],
            dict(caller.server.params),
            caller.agent,
            [view.project.default_action, view.project.enforcement, view.project.unknown_tools],
        ]
        return hashlib.sha256(orjson.dumps(found)).hexdigest()


def _check(sender: Sender, event: EventIn) -> None:
    """Raises `Forbidden` or `Invalid`."""
    faults = {}
    if event.mode == "decide":
        sender.must_have("decide")
        if event.event_type != REQUESTED:
            faults["mode"] = f"decide is for {REQUESTED} only"
        if event.tool is None:
            faults["tool"] = "is needed"
    elif not (event.joins and sender.extension is None):
        sender.must_have("webhook:ingest")
    if event.event_type == REQUESTED and event.tool is None:
        faults["tool"] = "is needed"
    if event.is_outcome and event.tool is None and not event.joins:
        faults["tool"] = "is needed, or the trace_id or request_event_id that it belongs to"
    if faults:
        raise Invalid(faults)


def _charges(view: ProjectView, decision: Decision) -> tuple[tuple[Budget, int], ...]:
    try:
        cost = cost_of(decision)
    except Refused:
        cost = 0  # an amount that cannot be read refuses a call; this one has happened
    drawn = ((budget, budget.draw(cost)) for budget in matching(view, decision))
    return tuple((budget, amount) for budget, amount in drawn if amount)


def _would_refuse(looked: Looked) -> str:
    decision = looked.decision
    for reason in looked.blocked_by:
        if reason != "budget_exceeded":
            return reason
    action = decision.verdict.action.value
    if decision.enforced and action == "DENY":
        return "policy_denied"
    if "budget_exceeded" in looked.blocked_by:
        return "budget_exceeded"
    return "approval_required" if decision.asks_approval else ""


def _severity(look: tuple[Looked | None, str]) -> tuple[bool, bool]:
    return (bool(look[1]) and look[1] != "approval_required", bool(look[1]))


def _recorded(connection: Connection, project_id: str, trace_id: str) -> Told | None:
    """What was told; None while it is not decided, or what it holds may still be given back."""
    t, a, o = tables.trace.c, tables.approvals.c, tables.open_calls.c
    if connection.execute(select(o.call_id).where(o.call_id == trace_id)).first() is not None:
        return None
    # An outcome that a sender reports has no risk: only our own say what became of a verdict.
    ours = or_(t.kind == "decision", and_(t.kind == "outcome", t.risk.is_not(None)))
    of_call = (t.call_id == trace_id, t.project_id == project_id, ours)
    query = select(t.log, t.idx, t.kind, t.body).where(*of_call).order_by(t.idx).limit(2)
    found = {row.kind: orjson.loads(row.body) for row in records.of_id(connection, query, trace_id)}
    record = found.get("decision")
    if record is None:
        return None
    if found.get("outcome", {}).get("fate") == Fate.NOT_FORWARDED:
        record["reason_code"] = "not_forwarded"
    expires_at = None
    if record.get("approval"):
        expiry = select(a.expires_at).where(a.id == record["approval"])
        expires_at = connection.execute(expiry).scalar_one_or_none()
    return told.from_record(record, expires_at)


def _is_pending(connection: Connection, before: Told, now: str) -> bool:
    a = tables.approvals.c
    query = select(a.id).where(a.id == before.approval_id, a.state == "PENDING", a.expires_at > now)
    return connection.execute(query).first() is not None

"""The one transaction that makes a Permit: it alone composes, and it alone changes anything.

Calls that wait at the same moment share the transaction and its flush, never each other's fate:
each claim below passes some calls and refuses others, and says which. A claim takes what the one
before it returned, so none can be left out. What the steps before asked of memory is asked again
here of the database, because a stop, a revocation or a changed tool may have come between.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NewType

import orjson
from sqlalchemy import Connection

from gateway.budgets import Ledger, Window, exceeded
from gateway.ids import new_id
from gateway.mcp.continuations import of_a_round
from gateway.records.calls import decision_draft
from gateway.records.refused_calls import bounded
from gateway.refusals import Refused
from gateway.registry.directory import Directory
from gateway.registry.grants import Grants, TooManyPending
from gateway.registry.stop_file import stopped
from gateway.rounds import Continuation
from gateway.store.rows import insert_rows, run
from gateway.store.writer import Writer
from gateway.trace.log import Log
from gateway.trace.record import Draft
from gateway.values import (
    AgentId,
    Approved,
    Budget,
    Call,
    Caller,
    Hold,
    Permit,
    Stop,
)


@dataclass(slots=True, eq=False)
class Claim:
    """One call on its way through the transaction."""

    approved: Approved
    refused: Refused | None = None
    approval_id: str | None = None
    """The grant spent on it, or the approval it waits for."""
    granted: bool = False
    grant: Continuation | None = None
    events: list[Draft] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


Group = tuple[Claim, ...]
Unstopped = NewType("Unstopped", Group)
Authorized = NewType("Authorized", Group)
Unchanged = NewType("Unchanged", Group)
Granted = NewType("Granted", Group)
Held = NewType("Held", Group)
Decided = NewType("Decided", list[tuple[Claim, bytes]])


class Admission:
    """``stop_file`` reads the deployment-wide stop that works without the API; an admitted call may
    be sent for `permit_seconds`.
    """

    def __init__(
        self,
        writer: Writer,
        log: Log,
        directory: Directory,
        ledger: Ledger,
        grants: Grants,
        stop_file: Callable[[], Stop | None],
        permit_seconds: float,
    ) -> None:
        self._writer = writer
        self._log = log
        self._directory = directory
        self._ledger = ledger
        self._grants = grants
        self._stop_file = stop_file
        self._permit_seconds = permit_seconds
        self._refusals = bounded()

    async def admit(self, approved: Approved) -> Permit:
        """The decision is on disk when this returns. Raises `Refused`, which is on disk too: as a
        record of its own when it has a leaf, otherwise for the caller to count.
        """
        permit: Permit = await self._writer.submit(self._admit, approved)
        return permit

    def _admit(self, connection: Connection, asked: Sequence[Approved]) -> list[Permit | Refused]:
        epoch = self._directory.epoch
        group = tuple(Claim(approved) for approved in asked)
        unstopped = self._unstopped(connection, group)
        authorized = self._authorized(connection, unstopped)
        unchanged = self._unchanged(connection, authorized)
        granted = self._granted(connection, unchanged)
        held = self._held(connection, granted)
        decided = self._decided(connection, held)
        return self._permits(decided, epoch)

    def _unstopped(self, connection: Connection, group: Group) -> Unstopped:
        everywhere = self._stop_file()
        rows = _rows(
            connection,
            "SELECT id, project_id, scope, target_id FROM stops"
            " WHERE lifted_at IS NULL AND project_id IN (SELECT value FROM json_each(?))",
            {claim.approved.call.caller.project.id for claim in group},
        )
        if everywhere is None and not rows:
            return Unstopped(group)
        for claim in group:
            caller = claim.approved.call.caller
            if everywhere is not None:
                claim.refused = stopped(everywhere.id, "all")
            targets = {caller.server.id, *_agents(claim)}
            for stop_id, project_id, scope, target_id in rows:
                if project_id == caller.project.id and (scope == "all" or target_id in targets):
                    claim.refused = stopped(stop_id, scope)
        return Unstopped(group)

    def _authorized(self, connection: Connection, group: Unstopped) -> Authorized:
        callers = [claim.approved.call.caller for claim in group]
        keys = _set(
            connection,
            "SELECT id FROM keys WHERE state = 'ACTIVE' AND (expires_at IS NULL OR expires_at > ?)"
            " AND id IN (SELECT value FROM json_each(?))",
            {caller.key.id for caller in callers},
            self._log.now,
        )
        agents = _set(
            connection,
            "SELECT id FROM agents WHERE state = 'ACTIVE'"
            " AND id IN (SELECT value FROM json_each(?))",
            {agent_id for claim in group for agent_id in _agents(claim)},
        )
        servers = {
            server_id: (revision, status)
            for server_id, revision, status in _rows(
                connection,
                "SELECT id, revision, status FROM servers WHERE status <> 'BLOCKED'"
                " AND id IN (SELECT value FROM json_each(?))",
                {caller.server.id for caller in callers},
            )
        }
        for claim, caller in zip(group, callers, strict=True):
            if claim.refused is not None:
                continue
            if caller.key.id not in keys:
                claim.refused = Refused("key_revoked")
            elif not agents.issuperset(_agents(claim)):
                claim.refused = Refused("agent_paused")
            elif not _is_open(servers.get(caller.server.id), caller):
                claim.refused = Refused("server_pending")
        return Authorized(group)

    def _unchanged(self, connection: Connection, group: Authorized) -> Unchanged:
        pins = {
            (server_id, name): (pin, sha256)
            for server_id, name, pin, sha256 in _rows(
                connection,
                "SELECT server_id, name, pin, accepted_sha256 FROM tools"
                " WHERE (server_id, name) IN"
                " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')"
                " FROM json_each(?))",
                {(c.approved.call.caller.server.id, c.approved.call.tool_name) for c in group},
            )
        }
        for claim in group:
            call = claim.approved.call
            tool = claim.approved.decision.pinned.tool
            pin = pins.get((call.caller.server.id, call.tool_name))
            if claim.refused is not None:
                continue
            if tool is None:
                # A scan found it meanwhile: it is no longer unknown.
                if pin is not None and not (call.caller.control_plane and pin[0] == "PENDING"):
                    claim.refused = Refused("tool_pending")
            elif pin is None or pin[0] != tool.pin or pin[1] != tool.definition_sha256:
                claim.refused = Refused("tool_changed", {"tool_id": tool.id})
        return Unchanged(group)

    def _granted(self, connection: Connection, group: Unchanged) -> Granted:
        for claim in group:
            if claim.refused is None and claim.approved.needs_grant:
                self._spend_or_ask(connection, claim)
        return Granted(group)

    def _spend_or_ask(self, connection: Connection, claim: Claim) -> None:
        now = self._log.now
        gone_on = self._grants.go_on(connection, claim.approved, now)
        spent = gone_on or self._grants.spend(connection, claim.approved, now)
        if spent is not None:
            claim.granted, claim.approval_id = True, spent
            claim.grant = _continuation(claim.approved.call, spent, gone_on)
            return
        standing = self._grants.standing(connection, claim.approved, now)
        reason = "approval_required"
        if standing is None:
            if self._grants.expired(connection, claim.approved, now):
                reason = "approval_expired"
            try:
                standing = self._grants.ask(connection, claim.approved, now)
            except TooManyPending:
                claim.refused = Refused(
                    "rate_limited", {"limit": "approvals waiting for one agent"}
                )
                return
            claim.events.append(_approval_event(claim.approved, standing.id))
        claim.approval_id = standing.id
        if standing.state == "DENIED":
            reason = "approval_denied"
        data = {
            "approval_id": standing.id,
            "expires_at": standing.expires_at,
            "poll": f"/api/v1/approvals/status?approval_id={standing.id}",
        }
        claim.refused = Refused(reason, data)

    def _held(self, connection: Connection, group: Granted) -> Held:
        windows: dict[Window, list[int]] = {}
        drawing = [c for c in group if c.refused is None and c.approved.affordable.budgets]
        # In id order, so that two gateways lock the same rows in the same order.
        for budget in sorted({b for c in drawing for b in c.approved.affordable.budgets}, key=_id):
            window = budget.window_at(self._log.now)
            windows[budget.id, window] = _window(connection, budget, window)
        for claim in drawing:
            self._hold_one(connection, claim, windows)
        for (budget_id, window), (used, held) in windows.items():
            run(
                connection,
                "UPDATE budget_windows SET held = ? WHERE budget_id = ? AND window_start = ?",
                (held, budget_id, window),
            )
            self._ledger.put(budget_id, window, used, held)
        return Held(group)

    def _hold_one(
        self, connection: Connection, claim: Claim, windows: dict[Window, list[int]]
    ) -> None:
        now = self._log.now
        cost = claim.approved.affordable.cost
        for budget in claim.approved.affordable.budgets:
            used, held = windows[budget.id, budget.window_at(now)]
            if used + held + budget.draw(cost) <= budget.limit:
                continue
            self._ledger.refuses(budget.id, budget.window_at(now))
            if budget.on_exceed == "APPROVAL" and not claim.granted and _binds(claim):
                self._spend_or_ask(connection, claim)
            elif budget.on_exceed == "BLOCK" and _binds(claim):
                claim.refused = exceeded(budget, used, held, now)
            else:
                claim.warnings.append(budget.id)
            if claim.refused is not None:
                if claim.granted:  # a grant spent on a call that does not leave is not spent
                    self._grants.give_back(connection, [claim.approved.call.id])
                    self._grants.go_back(connection, [claim.grant])
                    claim.granted, claim.approval_id, claim.grant = False, None, None
                return
        for budget in claim.approved.affordable.budgets:
            window = budget.window_at(now)
            amount = budget.draw(cost)
            windows[budget.id, window][1] += amount
            claim.holds.append(Hold(budget.id, window, amount))

    def _decided(self, connection: Connection, group: Held) -> Decided:
        drafts: list[Draft] = []
        places: list[int | None] = []
        for claim in group:
            drafts.extend(claim.events)
            if claim.refused is not None and self._refusals.take(_key(claim)) > 0:
                places.append(None)  # too many of them: the pipeline counts it
                continue
            places.append(len(drafts))
            drafts.append(
                decision_draft(
                    claim.approved,
                    claim.refused,
                    claim.approval_id,
                    len(claim.holds),
                    claim.warnings,
                )
            )
        appended = self._log.append(connection, drafts)
        slot, now = self._log.slot.number, self._log.now
        admitted = [_open_call(claim, now, slot) for claim in group if claim.refused is None]
        insert_rows(connection, "open_calls", _OPEN_CALL_COLUMNS, admitted)
        return Decided(
            [
                (claim, b"" if place is None else appended[place].leaf)
                for claim, place in zip(group, places, strict=True)
            ]
        )

    def _permits(self, decided: Decided, epoch: int) -> list[Permit | Refused]:
        deadline = time.monotonic() + self._permit_seconds
        results: list[Permit | Refused] = []
        for claim, leaf in decided:
            if claim.refused is not None:
                claim.refused.leaf = leaf
                results.append(claim.refused)
                continue
            results.append(
                Permit(
                    approved=claim.approved,
                    leaf=leaf,
                    deadline=deadline,
                    epoch=epoch,
                    holds=tuple(claim.holds),
                    warnings=tuple(claim.warnings),
                    grant=claim.grant,
                )
            )
        return results


def _rows(connection: Connection, sql: str, ids: Any, *before: str) -> list[Any]:
    parameters = (*before, orjson.dumps(list(ids)).decode())
    return run(connection, sql, parameters)


def _set(connection: Connection, sql: str, ids: set[Any], *before: str) -> set[str]:
    return {row[0] for row in _rows(connection, sql, ids, *before)} if ids else set()


def _agents(claim: Claim) -> frozenset[AgentId]:
    caller = claim.approved.call.caller
    agent = caller.agent
    return caller.key.agent_ids | {agent.id} if agent else caller.key.agent_ids


def _is_open(found: tuple[int, str] | None, caller: Caller) -> bool:
    """Whether the server is as it was asked for, and its door is not closed to this caller."""
    if found is None or found[0] != caller.server.revision:
        return False
    return found[1] == "ACTIVE" or caller.control_plane


def _continuation(call: Call, approval_id: str, gone_on: str | None) -> Continuation:
    """What the call may go on under, should its tool ask for input."""
    if gone_on is not None and call.continues is not None:
        return call.continues.next()
    return Continuation(approval_id, 0, of_a_round(call.params))


def _binds(claim: Claim) -> bool:
    return claim.approved.decision.enforced


def _key(claim: Claim) -> str:
    return claim.approved.call.caller.key.id


def _id(budget: Budget) -> str:
    return budget.id


def _window(connection: Connection, budget: Budget, window: str) -> list[int]:
    ((used, held),) = run(
        connection,
        "INSERT INTO budget_windows (budget_id, window_start, used, held) VALUES (?, ?, 0, 0)"
        " ON CONFLICT (budget_id, window_start) DO UPDATE SET used = budget_windows.used"
        " RETURNING used, held",
        (budget.id, window),
    )
    return [used, held]


_OPEN_CALL_COLUMNS = (
    "call_id, project_id, agent_id, server_id, tool, risk, holds, approval_id, admitted_at, slot"
)


def _open_call(claim: Claim, now: str, slot: int) -> tuple[Any, ...]:
    call = claim.approved.call
    caller = call.caller
    holds = [[hold.budget_id, hold.window, hold.amount] for hold in claim.holds]
    risk = claim.approved.decision.risk.value
    return (
        *(call.id, caller.project.id, caller.agent.id if caller.agent else None),
        *(caller.server.id, call.tool_name, risk, orjson.dumps(holds).decode()),
        *(claim.approval_id, now, slot),
    )


def _approval_event(approved: Approved, approval_id: str) -> Draft:
    caller = approved.call.caller
    return Draft(
        kind="approval",
        id=new_id("trc"),
        project_id=caller.project.id,
        fields={
            "state": "PENDING",
            "approval": approval_id,
            "server": caller.server.id,
            "agent": caller.agent.id if caller.agent else None,
            "key": caller.key.id,
        },
        call_id=approved.call.id,
    )

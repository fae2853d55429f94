"""What became of an admitted call: its outcome record, its budgets, its approval.

A call that surely did not leave gives back what it held. A call that left is charged, whatever
came of it; when nobody knows whether it ran, it is charged too and its outcome says `unknown`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.budgets import Ledger
from gateway.flows import EventStream
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.records.calls import URGENT_RISKS, outcome_draft
from gateway.records.outcome import Outcome
from gateway.registry.grants import Grants
from gateway.store.rows import run
from gateway.store.tables import open_calls
from gateway.store.writer import Writer, WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace.log import Log
from gateway.trace.record import Draft, bounded
from gateway.values import BudgetId, Call, CallId, Fate, Permit, ProjectId

_log = structlog.get_logger(__name__)

MAX_QUEUED = 4096
"""Outcomes on their way to the disk; a call beyond that waits for its own."""


@frozen
class _Settled:
    permit: Permit
    outcome: Outcome


class Settlement:
    def __init__(self, writer: Writer, log: Log, ledger: Ledger, grants: Grants) -> None:
        self._writer = writer
        self._log = log
        self._ledger = ledger
        self._grants = grants
        self._queued: set[asyncio.Future[Any]] = set()
        self._unwritten: list[_Settled] = []
        self._in_doubt: list[Call] = []

    async def settle(self, permit: Permit, outcome: Outcome) -> None:
        """Queue the outcome; for HIGH and CRITICAL calls return only once it is on disk.

        A failure to write is logged by the writer: the call has been made, and its answer must not
        be lost too. `retry` writes it later, or else a restart records it as unknown.
        """
        urgent = permit.approved.decision.risk in URGENT_RISKS or len(self._queued) >= MAX_QUEUED
        writing = self._write(_Settled(permit, outcome), urgent=urgent)
        if urgent and writing is not None:
            await asyncio.wait([writing])

    def take_back(self, call: Call) -> None:
        """The commit of its admission is in doubt and it was not sent: with the next `retry` what
        it may hold is given back. Until then a crash leaves it charged, its outcome unknown.
        """
        self._in_doubt.append(call)

    async def retry(self) -> None:
        """Write what could not be written; until then it holds budgets. Call every few seconds."""
        again, self._unwritten = self._unwritten, []
        in_doubt, self._in_doubt = self._in_doubt, []
        if in_doubt:
            try:
                await self._writer.change(lambda c: self._take_back(c, in_doubt))
            except (SQLAlchemyError, WriterStopped) as fault:
                self._in_doubt += in_doubt
                _log.error("calls in doubt are not settled yet", why=fault_text(fault))
        writing = [self._write(settled, urgent=True) for settled in again]
        if queued := [future for future in writing if future is not None]:
            await asyncio.wait(queued)

    async def finish(self) -> None:
        """When the gateway ends: wait for what is queued, and try what failed once more."""
        await self.written()
        await self.retry()

    async def written(self) -> None:
        """Wait until each outcome that is queued now is on disk, or could not be written."""
        if self._queued:
            await asyncio.wait(self._queued)

    def _write(self, settled: _Settled, *, urgent: bool) -> "asyncio.Future[Any] | None":
        submit = self._writer.submit if urgent else self._writer.submit_patiently
        try:
            future = submit(self._settle, settled)
        except WriterStopped:
            _log.error("the outcome comes too late to be written", call=settled.permit.call.id)
            return None
        self._queued.add(future)
        future.add_done_callback(lambda future: self._written(settled, future))
        return future

    def _written(self, settled: _Settled, future: "asyncio.Future[Any]") -> None:
        self._queued.discard(future)
        if not future.cancelled() and future.exception() is not None:
            self._unwritten.append(settled)

    def _settle(self, connection: Connection, asked: Sequence[_Settled]) -> list[None]:
        open_ids = {
            row[0]
            for row in run(
                connection,
                "DELETE FROM open_calls WHERE call_id IN (SELECT value FROM json_each(?))"
                " RETURNING call_id",
                (orjson.dumps([one.permit.call.id for one in asked]).decode(),),
            )
        }
        # What is settled already stays as it is, should a commit have failed in name only.
        settled = [one for one in asked if one.permit.call.id in open_ids]
        if settled:
            self._end(connection, settled)
        return [None] * len(asked)

    def _end(self, connection: Connection, settled: Sequence[_Settled]) -> None:
        self._log.append(connection, [outcome_draft(s.permit, s.outcome) for s in settled])
        holds: dict[tuple[str, str], list[int]] = {}
        for one in settled:
            charged = one.outcome.fate is not Fate.NOT_FORWARDED
            for hold in one.permit.holds:
                _add(holds, hold.budget_id, hold.window, hold.amount, charged)
        self._charge(connection, holds)
        returned = [s.permit for s in settled if s.outcome.fate is Fate.NOT_FORWARDED]
        if returned:
            self._grants.give_back(connection, [permit.call.id for permit in returned])
            self._grants.go_back(connection, [permit.grant for permit in returned])

    def _take_back(self, connection: Connection, calls: Sequence[Call]) -> None:
        of_them = open_calls.c.call_id.in_([call.id for call in calls])
        rows = connection.execute(select(open_calls).where(of_them)).all()
        if not rows:
            return
        drafts = [_ended(row, Fate.NOT_FORWARDED, "trace_unavailable") for row in rows]
        self._log.append(connection, drafts)
        self._charge(connection, _held_by(rows, charged=False))
        self._grants.give_back(connection, [CallId(row.call_id) for row in rows])
        admitted_with = {row.call_id: row.approval_id for row in rows}
        self._grants.go_back(
            connection,
            [
                call.continues.next()
                for call in calls
                if call.continues is not None
                and call.continues.approval_id == admitted_with.get(call.id)
            ],
        )
        connection.execute(open_calls.delete().where(of_them))

    def _charge(self, connection: Connection, holds: dict[tuple[str, str], list[int]]) -> None:
        for (budget_id, window), (released, used_up) in sorted(holds.items()):
            rows = run(
                connection,
                "UPDATE budget_windows SET held = held - ?, used = used + ?"
                " WHERE budget_id = ? AND window_start = ? RETURNING used, held",
                (released, used_up, budget_id, window),
            )
            for used, held in rows:  # none when the budget was deleted meanwhile
                self._ledger.put(BudgetId(budget_id), window, used, held)

    def recover(self, connection: Connection) -> int:
        """At start: settle as unknown what the slot's last process admitted and left open.

        Nobody knows whether those calls ran, so they stay charged. Returns their number.
        """
        ours = open_calls.c.slot == self._log.slot.number
        rows = connection.execute(select(open_calls).where(ours)).all()
        if not rows:
            return 0
        drafts = [_ended(row, Fate.UNKNOWN, "gateway_restart") for row in rows]
        self._log.append(connection, drafts)
        self._charge(connection, _held_by(rows, charged=True))
        connection.execute(open_calls.delete().where(ours))
        return len(rows)


class SettlingEvents:
    """An event stream that settles its call once: before the response leaves, or at its end."""

    def __init__(self, events: EventStream, settle: Callable[[], Awaitable[None]]) -> None:
        self._events = events
        self._settle_call = settle
        self._settled = False

    def __aiter__(self) -> "SettlingEvents":
        return self

    async def __anext__(self) -> bytes:
        try:
            event = await self._events.__anext__()
        except StopAsyncIteration:
            await self._settle()
            raise
        if self._events.response:
            await self._settle()
        return event

    async def aclose(self) -> None:
        await self._events.aclose()
        await self._settle()

    async def _settle(self) -> None:
        if not self._settled:
            self._settled = True
            await self._settle_call()


def _add(
    holds: dict[tuple[str, str], list[int]], budget: str, window: str, amount: int, charged: bool
) -> None:
    total = holds.setdefault((budget, window), [0, 0])
    total[0] += amount
    total[1] += amount if charged else 0


def _held_by(rows: Sequence[Any], *, charged: bool) -> dict[tuple[str, str], list[int]]:
    holds: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for budget_id, window, amount in row.holds:
            _add(holds, budget_id, window, amount, charged)
    return holds


def _ended(row: Any, fate: Fate, error_code: str) -> Draft:
    return Draft(
        kind="outcome",
        id=new_id("trc"),
        project_id=ProjectId(row.project_id),
        call_id=CallId(row.call_id),
        fields={
            "server": row.server_id,
            "tool": bounded(row.tool),
            "agent": row.agent_id,
            "risk": row.risk,
            "fate": fate.value,
            "status": "not_sent" if fate is Fate.NOT_FORWARDED else "unknown",
            "error_code": error_code,
        },
    )

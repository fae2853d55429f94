"""What extensions report, written down: each event once, whoever sends it again and whenever.

An event is known by its sender and its id. The first one claims the id together with a trace id;
sent again it finds both. An outcome that comes before the call it belongs to reserves the trace id
that the call will get, so that the order of arrival does not matter.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from gateway.budgets import Ledger
from gateway.clock import after
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.registry.faults import Conflict, Missing
from gateway.store.rows import run
from gateway.store.tables import events, extension_activity
from gateway.store.writer import Writer
from gateway.trace.log import Log
from gateway.trace.record import Draft, bounded
from gateway.values import Budget, ProjectId

KEPT_DAYS = 30
"""How long an event that is sent again is known as the same."""
_FORGOTTEN_AT_ONCE = 5_000
_FIND = "SELECT digest, basis, trace_id, created_at FROM events WHERE sender = ? AND event_id = ?"
_INSERT = (
    "INSERT INTO events (sender, event_id, project_id, digest, basis, trace_id, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE events SET digest = ?, basis = ?, trace_id = ?, created_at = ?"
    " WHERE sender = ? AND event_id = ?"
)


@frozen
class Claim:
    """An event that asks for its place. ``basis`` is a digest of all that decides it."""

    project_id: ProjectId
    sender: str
    event_id: str
    digest: str
    basis: str = ""
    replacing: str = ""
    """The trace id of an earlier decision of the same event that does not hold any more."""


@frozen
class Claimed:
    """The event's place: new, or the one that it got the first time."""

    trace_id: str
    is_new: bool
    basis: str
    claimed_at: str


@frozen
class Entry:
    """An event to be written down whole, in one transaction, unless it is there already."""

    claim: Claim
    drafts: Callable[[str], Sequence[Draft]]
    """The records, given the trace id that the event has."""
    charges: tuple[tuple[Budget, int], ...] = ()
    """What budgets are charged, whether they have it or not: it has happened."""
    of_trace: str = ""
    """The trace id of the call whose outcome this is."""
    of_event: str = ""
    """Or the id of the event that announced the call, perhaps one that is still to come."""


@frozen
class Activity:
    """What an extension did: shown in its list."""

    extension_id: str
    events: int = 0
    failed_open: int = 0
    error: str = ""


class Reports:
    def __init__(self, writer: Writer, log: Log, ledger: Ledger) -> None:
        self._writer = writer
        self._log = log
        self._ledger = ledger

    async def claim(self, claim: Claim) -> Claimed:
        """Durable when it returns. Raises `Conflict` for an id that another event has."""
        claimed: Claimed = await self._writer.submit(self._claim_all, claim)
        return claimed

    async def write(self, entry: Entry) -> Claimed:
        """Write the event down. Raises `Conflict`, and `Missing` for a call of nobody's."""
        claimed: Claimed = await self._writer.submit(self._write_all, entry)
        return claimed

    def note(self, activity: Activity) -> None:
        """Count what an extension did; on disk with the next commit."""
        future = self._writer.submit_patiently(self._note_all, activity)
        future.add_done_callback(_seen_to)

    # --- on the writing thread ---

    def _claim_all(self, connection: Connection, asked: Sequence[Claim]) -> list[Any]:
        return [self._claimed(connection, claim) for claim in asked]

    def _claimed(
        self, connection: Connection, claim: Claim, reserved: str = ""
    ) -> "Claimed | Conflict":
        here = (claim.sender, claim.event_id)
        rows = run(connection, _FIND, here)
        now = self._log.now
        if not rows:
            trace_id = reserved or new_id("trc")
            values = (*here, claim.project_id, claim.digest, claim.basis, trace_id, now)
            run(connection, _INSERT, values)
            return Claimed(trace_id, True, claim.basis, now)
        digest, basis, trace_id, claimed_at = rows[0]
        if digest not in (None, claim.digest):
            return Conflict("This event_id was used for another event.")
        if digest is not None and trace_id != claim.replacing:
            return Claimed(trace_id, False, basis or "", claimed_at)
        if digest is not None:
            trace_id = new_id("trc")
        run(connection, _UPDATE, (claim.digest, claim.basis, trace_id, now, *here))
        return Claimed(trace_id, True, claim.basis, now)

    def _write_all(self, connection: Connection, asked: Sequence[Entry]) -> list[Any]:
        return [self._write_one(connection, entry) for entry in asked]

    def _write_one(self, connection: Connection, entry: Entry) -> "Claimed | Conflict | Missing":
        reserved = ""
        if entry.of_trace or entry.of_event:
            reserved = self._call_of(connection, entry)
            if not reserved:
                return Missing("decision of this sender")
        claimed = self._claimed(connection, entry.claim, reserved)
        if isinstance(claimed, Claimed) and claimed.is_new:
            self._charge(connection, entry.charges)
            self._log.append(connection, entry.drafts(claimed.trace_id))
        return claimed

    def _call_of(self, connection: Connection, entry: Entry) -> str:
        e, claim = events.c, entry.claim
        mine = select(e.trace_id).where(e.sender == claim.sender)
        if entry.of_trace:
            found = connection.execute(mine.where(e.trace_id == entry.of_trace)).first()
            return entry.of_trace if found is not None else ""
        row = connection.execute(mine.where(e.event_id == entry.of_event)).first()
        if row is not None:
            return str(row.trace_id)
        trace_id = new_id("trc")
        connection.execute(
            insert(events).values(
                sender=claim.sender,
                event_id=entry.of_event,
                project_id=claim.project_id,
                trace_id=trace_id,
                created_at=self._log.now,
            )
        )
        return trace_id

    def _charge(self, connection: Connection, charges: tuple[tuple[Budget, int], ...]) -> None:
        # In id order, so that two gateways lock the same rows in the same order.
        for budget, amount in sorted(charges, key=lambda one: one[0].id):
            window = budget.window_at(self._log.now)
            ((used, held),) = run(
                connection,
                "INSERT INTO budget_windows (budget_id, window_start, used, held)"
                " VALUES (?, ?, ?, 0) ON CONFLICT (budget_id, window_start)"
                " DO UPDATE SET used = budget_windows.used + excluded.used RETURNING used, held",
                (budget.id, window, amount),
            )
            self._ledger.put(budget.id, window, used, held)

    def _note_all(self, connection: Connection, asked: Sequence[Activity]) -> list[None]:
        a = extension_activity.c
        for extension_id in sorted({one.extension_id for one in asked}):
            mine = [one for one in asked if one.extension_id == extension_id]
            errors = [one.error for one in mine if one.error]
            counts = {
                "events": sum(one.events for one in mine),
                "errors": len(errors),
                "failed_open": sum(one.failed_open for one in mine),
            }
            last = {"last_error": bounded(errors[-1])} if errors else {}
            more = {name: a[name] + count for name, count in counts.items()}
            done = connection.execute(
                update(extension_activity)
                .where(a.extension_id == extension_id)
                .values(last_seen=self._log.now, **more, **last)
            )
            if done.rowcount == 0:
                values = {"extension_id": extension_id, "last_seen": self._log.now}
                connection.execute(insert(extension_activity).values(**values, **counts, **last))
        return [None] * len(asked)


def forget(connection: Connection, now: str) -> int:
    """Let go of some events that are too old; return how many there were."""
    e = events.c
    old = e.created_at < after(now, -KEPT_DAYS * 86_400)
    oldest = select(e.sender, e.event_id).where(old).limit(_FORGOTTEN_AT_ONCE)
    gone = delete(events).where(tuple_(e.sender, e.event_id).in_(oldest))
    return connection.execute(gone).rowcount


def _seen_to(future: "asyncio.Future[Any]") -> None:
    # The writer has logged why; a count that is lost harms nobody.
    if not future.cancelled():
        future.exception()

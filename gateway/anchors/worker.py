"""Follows the log and has its head anchored: soon after what is urgent, now and then otherwise.

One task for each backend, beside the calls and never in their way. It looks at the database each
second, so that a restart goes on where it was. While a head waits, the newest takes its place: an
outage of hours is followed by one anchor, which covers all of it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gateway.anchors import rows
from gateway.anchors.outbox import Outbox
from gateway.anchors.rows import Grown
from gateway.anchors.values import (
    Anchor,
    Condition,
    Final,
    Head,
    Known,
    Progress,
    State,
    Waiting,
)
from gateway.clock import parse
from gateway.frozen import frozen
from gateway.store.leases import LeaseLost
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace import receipts
from gateway.trace.log import stored_hashes
from gateway.trace.merkle import roots

POLL_SECONDS = 1.0
LEAD_SECONDS = 5.0
"""How long before a deadline the head is sent: the chain takes its seconds too."""
LEAD_SHARE = 0.2
FORK_SECONDS = 60.0
LATE = 2
"""Deadlines after which it is told that an anchor is late."""

_log = structlog.get_logger(__name__)


class Backend(Protocol):
    """One place that vouches for heads. A small interface, so that another is easily added."""

    async def advance(self, anchor: Anchor) -> Progress:
        """Do what can be done now, from the database's state alone; the same head may come again.

        Raises `LeaseLost` and nothing else of its own.
        """

    async def known(self, origin: str) -> Sequence[Known] | Waiting:
        """The newest heads of the log that the backend holds, by whoever anchored it."""

    def close(self) -> None: ...


@frozen
class Deadlines:
    """Seconds from a record to the anchor that covers it."""

    urgent: float
    routine: float


class Log(Protocol):
    """What the worker needs of `gateway.trace.log.Log`."""

    @property
    def number(self) -> int: ...

    @property
    def origin(self) -> str: ...

    @property
    def size(self) -> int: ...


class Worker:
    """Anchors all logs on one backend, until it is cancelled: the head of this process's own log,
    below which lies a record that names the heads of the others.
    """

    def __init__(
        self,
        backend: Backend,
        outbox: Outbox,
        log: Log,
        sign: Callable[[], Awaitable[Head]],
        deadlines: Deadlines,
        seal: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """``sign`` makes a durable checkpoint of all records, ``seal(log, why)`` ends a log of
        which the backend holds another history.
        """
        self._backend = backend
        self._outbox = outbox
        self._log = log
        self._sign = sign
        self._deadlines = deadlines
        self._told: tuple[Condition, str] | None = None
        self._seal = seal
        self._compared = False
        self._begun: set[int] = set()
        self._scanned: dict[int, int] = {}
        self._urgent: dict[int, str] = {}

    async def run(self) -> None:
        try:
            while True:
                pause = await self._tick()
                await asyncio.sleep(pause)
        finally:
            self._backend.close()
            with contextlib.suppress(SQLAlchemyError, WriterStopped):
                await self._outbox.let_go()

    async def _tick(self) -> float:
        try:
            return await self.step()
        except LeaseLost:
            return POLL_SECONDS
        except (SQLAlchemyError, WriterStopped) as fault:
            # The disk is full or the gateway ends; calls are refused for the same reason.
            _log.error("the anchor's outbox cannot be written", why=fault_text(fault))
            return 10 * POLL_SECONDS

    async def step(self) -> float:
        """Do what is due; returns in how many seconds to look again."""
        if not self._compared:
            seen = await self._compare()
            if seen is not None:
                return await self._wait(seen, None)
            self._compared = True
        if not await self._is_due() or not await self._outbox.hold():
            return POLL_SECONDS
        # Read again under the lease: another process may have gone on with it.
        if not await self._is_due():
            return POLL_SECONDS
        anchor = await self._newest(await self._unfinished())
        progress = await self._advance(anchor)
        if isinstance(progress, Final):
            await self._outbox.final(anchor, progress.receipt)
            await self._tell(Condition.OK, "")
            return 0
        return await self._wait(progress, anchor)

    async def _wait(self, progress: Waiting, anchor: Anchor | None) -> float:
        if progress.contradicts:
            return await self._contradicted(progress, anchor)
        await self._tell(*await self._seen(progress))
        # Short enough to keep the lease.
        return (
            min(progress.seconds, 5.0) if progress.condition is Condition.OK else progress.seconds
        )

    async def _advance(self, anchor: Anchor) -> Progress:
        if anchor.state is State.QUEUED and (seen := await self._compare()) is not None:
            return seen
        return await self._backend.advance(anchor)

    # --- what the backend holds, against what is here ---

    async def _compare(self) -> Waiting | None:
        """None when the database holds all that the backend knows of this process's log."""
        number, size = self._log.number, self._log.size
        heads = await self._backend.known(self._log.origin)
        if isinstance(heads, Waiting):
            return heads
        for known in heads:
            if known.size > size:
                why = f"it holds {known.size} records of this log and the database {size}"
            elif known.root != await self._root(number, known.size):
                why = f"it holds another root for the first {known.size} records"
            else:
                continue
            return Waiting(Condition.FORK, f"{self._outbox.backend}: {why}", FORK_SECONDS, True)
        return None

    async def _root(self, number: int, size: int) -> bytes | None:
        def root(connection: Connection) -> bytes | None:
            try:
                return roots(stored_hashes(connection, number))(0, size)
            except ValueError:  # hashes are missing
                return None

        return await self._outbox.read(root)

    async def _contradicted(self, progress: Waiting, anchor: Anchor | None) -> float:
        """Seal the log: it was put back from a copy, or changed. A successor goes on.

        A log that was begun here for this reason is not sealed in turn: nobody can know anything
        of it yet, so the backend is wrong, and that is left to people.
        """
        await self._tell(progress.condition, progress.detail)
        number = self._log.number
        ours = anchor is None or anchor.head.log == number
        if ours and number in self._begun:
            return progress.seconds
        if anchor is not None:
            await self._outbox.void(anchor)
        if ours:
            await self._seal(number, progress.detail)
            self._begun.add(self._log.number)
        return POLL_SECONDS

    # --- what is due ---

    async def _is_due(self) -> bool:
        return await self._unfinished() is not None or await self._due()

    async def _unfinished(self) -> Anchor | None:
        return await self._outbox.read(lambda c: rows.unfinished(c, self._outbox.backend))

    async def _newest(self, anchor: Anchor | None) -> Anchor:
        """The head to go on with: as long as nothing has left, that is the newest."""
        if anchor is not None and anchor.state is State.QUEUED:
            if anchor.head.log == self._log.number and not await self._since(anchor):
                return anchor
            anchor = None
        return anchor or await self._outbox.queue(await self._sign())

    async def _since(self, anchor: Anchor) -> bool:
        """Whether there is something new behind an anchor's head, in whichever log."""
        own, head = (self._log.number, self._log.size), anchor.head

        def look(connection: Connection) -> bool:
            covered = receipts.covered_by(connection, head.log, head.size)
            grown = rows.grown(connection, own, covered)
            return any(rows.first_news(connection, one) for one in grown)

        return await self._outbox.read(look)

    async def _due(self) -> bool:
        urgent, since = await self._waiting()
        return self._is_over(urgent, self._deadlines.urgent) or self._is_over(
            since, self._deadlines.routine
        )

    async def _waiting(self) -> tuple[str | None, str | None]:
        """Since when something urgent, and anything at all, waits. Reads no record twice."""
        own, backend = (self._log.number, self._log.size), self._outbox.backend

        def look(connection: Connection) -> tuple[str | None, str | None]:
            grown = rows.grown(connection, own, receipts.covered(connection, backend))
            urgent = [self._first_urgent(connection, one) for one in grown]
            news = [rows.first_news(connection, one) for one in grown]
            return min(filter(None, urgent), default=None), min(filter(None, news), default=None)

        return await self._outbox.read(look)

    def _first_urgent(self, connection: Connection, grown: Grown) -> str | None:
        log = grown.log
        if self._scanned.get(log, 0) < grown.start:
            self._scanned[log] = grown.start
            self._urgent.pop(log, None)
        if log not in self._urgent and self._scanned.get(log, 0) < grown.size:
            found, seen = rows.first_urgent(connection, log, self._scanned.get(log, 0))
            self._scanned[log] = seen
            if found is not None:
                self._urgent[log] = found
        return self._urgent.get(log)

    def _is_over(self, since: str | None, deadline: float) -> bool:
        if since is None:
            return False
        lead = min(LEAD_SECONDS, deadline * LEAD_SHARE)
        return self._seconds_since(since) >= deadline - lead

    def _seconds_since(self, ts: str) -> float:
        return (parse(self._outbox.now) - parse(ts)).total_seconds()

    async def _seen(self, waiting: Waiting) -> tuple[Condition, str]:
        """What to tell of it; a wait that looks well and has taken twice its time does not."""
        if waiting.condition is Condition.OK:
            urgent, since = await self._waiting()
            for ts, deadline in (
                (urgent, self._deadlines.urgent),
                (since, self._deadlines.routine),
            ):
                if ts is not None and self._seconds_since(ts) > LATE * deadline:
                    return Condition.LATE, f"records since {ts} wait: {waiting.detail}"
            return Condition.OK, ""
        return waiting.condition, waiting.detail

    async def _tell(self, condition: Condition, detail: str) -> None:
        """Keep and log a change of condition; details that merely move are not one."""
        if self._told == (condition, detail):
            return
        changed = self._told is None or self._told[0] is not condition
        self._told = (condition, detail)
        await self._outbox.tell(condition, detail)
        if changed and condition is Condition.OK:
            _log.info("anchoring works", anchor=self._outbox.backend)
        elif changed:
            _log.error(
                "anchoring needs attention",
                anchor=self._outbox.backend,
                condition=condition.value,
                detail=detail,
            )

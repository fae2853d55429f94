"""Follows the log and has its head anchored: soon after what is urgent, now and then otherwise.

One task for each backend, beside the calls and never in their way. It looks at the database each
second, so that a restart goes on where it was. While a head waits, the newest takes its place: an
outage of hours is followed by one anchor, which covers all of it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.anchors import rows
from gateway.anchors.outbox import Outbox
from gateway.anchors.rows import LeaseLost
from gateway.anchors.values import (
    Anchor,
    Condition,
    Final,
    Head,
    Progress,
    State,
    Waiting,
)
from gateway.clock import parse
from gateway.store.writer import WriterStopped

POLL_SECONDS = 1.0
LEAD_SECONDS = 5.0
"""How long before a deadline the head is sent: the chain takes its seconds too."""
LEAD_SHARE = 0.2
LATE = 2
"""Deadlines after which it is told that an anchor is late."""

_log = structlog.get_logger(__name__)


class Backend(Protocol):
    """One place that vouches for heads. A small interface, so that another is easily added."""

    async def advance(self, anchor: Anchor) -> Progress:
        """Do what can be done now, from the database's state alone; the same head may come again.

        Raises `LeaseLost` and nothing else of its own.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds from a record to the anchor that covers it."""

    urgent: float
    routine: float


class Log(Protocol):
    """What the worker needs of `gateway.trace.log.Log`."""

    @property
    def number(self) -> int: ...

    @property
    def size(self) -> int: ...


class Worker:
    """Anchors one log on one backend, until it is cancelled."""

    def __init__(
        self,
        backend: Backend,
        outbox: Outbox,
        log: Log,
        sign: Callable[[], Awaitable[Head]],
        deadlines: Deadlines,
    ) -> None:
        """``sign`` makes a durable checkpoint of all records."""
        self._backend = backend
        self._outbox = outbox
        self._log = log
        self._sign = sign
        self._deadlines = deadlines
        self._told: tuple[Condition, str] | None = None
        self._scanned = (-1, 0)
        self._urgent: str | None = None

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
            _log.error("the anchor's outbox cannot be written", why=str(fault))
            return 10 * POLL_SECONDS

    async def step(self) -> float:
        """Do what is due; returns in how many seconds to look again."""
        if not await self._is_due() or not await self._outbox.hold():
            return POLL_SECONDS
        # Read again under the lease: another process may have gone on with it.
        if not await self._is_due():
            return POLL_SECONDS
        anchor = await self._newest(await self._unfinished())
        progress = await self._backend.advance(anchor)
        if isinstance(progress, Final):
            await self._outbox.final(anchor, progress.receipt)
            await self._tell(Condition.OK, "")
            return 0
        await self._tell(*await self._seen(progress))
        # Short enough to keep the lease.
        return (
            min(progress.seconds, 5.0) if progress.condition is Condition.OK else (progress.seconds)
        )

    async def _is_due(self) -> bool:
        return await self._unfinished() is not None or await self._due(await self._start())

    async def _unfinished(self) -> Anchor | None:
        return await self._outbox.read(lambda c: rows.unfinished(c, self._outbox.backend))

    async def _newest(self, anchor: Anchor | None) -> Anchor:
        """The head to go on with: as long as nothing has left, that is the newest."""
        if anchor is not None and anchor.state is State.QUEUED:
            log, start = self._log.number, anchor.head.size
            if anchor.head.log == log and not await self._outbox.read(
                lambda c: rows.first_news(c, log, start)
            ):
                return anchor
            anchor = None
        return anchor or await self._outbox.queue(await self._sign())

    async def _start(self) -> int:
        log, backend = self._log.number, self._outbox.backend
        return await self._outbox.read(lambda c: rows.anchored_size(c, backend, log))

    async def _due(self, start: int) -> bool:
        if start >= self._log.size:
            return False
        urgent, since = await self._waiting(start)
        return self._is_over(urgent, self._deadlines.urgent) or self._is_over(
            since, self._deadlines.routine
        )

    async def _waiting(self, start: int) -> tuple[str | None, str | None]:
        """Since when something urgent, and anything at all, waits. Reads no record twice."""
        log = self._log.number
        number, scanned = self._scanned
        if number != log or scanned < start:
            self._scanned, self._urgent = (log, start), None
        if self._urgent is None and self._scanned[1] < self._log.size:
            begin = self._scanned[1]
            self._urgent, seen = await self._outbox.read(lambda c: rows.first_urgent(c, log, begin))
            self._scanned = (log, seen)
        return self._urgent, await self._outbox.read(lambda c: rows.first_news(c, log, start))

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
            urgent, since = await self._waiting(await self._start())
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

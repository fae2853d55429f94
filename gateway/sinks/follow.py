"""Follows every log for each sink from stored indexes: at least once, each log in order, and never
in the way of a call. A record may come twice after a crash; its log and index say so.

Where several gateways share a database, one at a time sends the records of them all.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import anyio.to_thread
import structlog
from sqlalchemy import Connection, Engine, Select, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.cold import reading
from gateway.cold.objects import ColdFault
from gateway.ids import new_id
from gateway.settings import Settings, SettingsFault
from gateway.sinks.targets import Line, SinkFault, SinkMisnamed, Target, target
from gateway.store import leases, tables
from gateway.store.writer import Writer, WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace.merkle import TILE_WIDTH

BATCH = 500
POLL_SECONDS = 0.5
SAVE_SECONDS = 1.0
"""How often the index is stored: what was sent since comes again after a crash."""
MOST_BACKOFF = 60.0
LEASE_SECONDS = 15.0

_c = tables.sink_cursors.c
_t = tables.trace.c
_log = structlog.get_logger(__name__)


Places = Mapping[int, int]
"""Each log to the index of its next record to send; a log that is missing begins with its first."""


def check(settings: Settings) -> None:
    """Raises `SettingsFault`."""
    faults = []
    for text in settings.sinks:
        try:
            _target(settings, text).close()
        except SinkMisnamed as fault:
            faults.append(f"GATEWAY_SINKS: {fault}")
    if faults:
        raise SettingsFault(faults)


async def run(settings: Settings, writer: Writer, reader: Engine, now: Callable[[], str]) -> None:
    """Until cancelled: each sink by itself, so that a slow one holds up no other."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_until_cancelled())
        for text in settings.sinks:
            follower = Follower(text, _target(settings, text), writer, reader, now)
            group.create_task(follower.run())


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()


def _target(settings: Settings, text: str) -> Target:
    token = settings.sink_token
    secret = None if token is None else token.get_secret_value()
    return target(text, settings.private_upstreams, secret)


class Follower:
    """Brings the records to one sink."""

    def __init__(
        self, name: str, to: Target, writer: Writer, reader: Engine, now: Callable[[], str]
    ) -> None:
        self._name = name
        self._lease = f"sink:{name}"
        self._holder = new_id("snk")
        self._to = to
        self._writer = writer
        self._reader = reader
        self._now = now
        self._failures = 0
        self._saved_at = 0.0
        self._held_until = 0.0
        self._stored: Places = {}

    async def run(self) -> None:
        places: Places | None = None
        try:
            while True:
                pause = POLL_SECONDS
                try:
                    if not await self._hold():
                        places, pause = None, LEASE_SECONDS / 3
                    else:
                        if places is None:
                            places = self._stored = await self._read(self._places)
                        places, pause = await self.step(places)
                except (SinkFault, ColdFault) as fault:
                    pause = self._failed(str(fault))
                except (SQLAlchemyError, WriterStopped) as fault:
                    _log.error(
                        "a sink's index cannot be stored", sink=self._name, why=fault_text(fault)
                    )
                    pause = MOST_BACKOFF
                await asyncio.sleep(pause)
        finally:
            self._to.close()
            if places is not None:
                with contextlib.suppress(SQLAlchemyError, WriterStopped):
                    await self._save(places)
                    await self._writer.change(lambda c: leases.give(c, self._lease, self._holder))

    async def _hold(self) -> bool:
        """Take the lease, or prolong it long before it runs out; False: another gateway sends."""
        asked = monotonic()
        if asked < self._held_until - LEASE_SECONDS * 2 / 3:
            return True
        held = await self._writer.change(
            lambda c: leases.take(c, self._lease, self._holder, self._now(), LEASE_SECONDS)
        )
        self._held_until = asked + LEASE_SECONDS if held else 0.0
        return held

    async def step(self, places: Places) -> tuple[Places, float]:
        """Send what comes next; returns where to go on, and in how many seconds."""
        log, lines = await self._read(lambda c: next_lines(c, places))
        if lines:
            await self._to.send(lines)
            if self._failures:
                _log.info("a sink takes records again", sink=self._name)
            self._failures = 0
            places = {**places, log: lines[-1].idx + 1}
        if places != self._stored and monotonic() - self._saved_at >= SAVE_SECONDS:
            await self._save(places)
        return places, 0 if lines else POLL_SECONDS

    async def _save(self, places: Places) -> None:
        new = {log: idx for log, idx in places.items() if self._stored.get(log) != idx}
        if new:
            await self._writer.change(lambda c: store(c, self._name, new))
            self._stored, self._saved_at = places, monotonic()

    def _places(self, connection: Connection) -> Places:
        return stored(connection, self._name)

    def _failed(self, why: str) -> float:
        if self._failures == 0:
            _log.error("a sink takes no records; they wait", sink=self._name, why=why)
        self._failures += 1
        return min(MOST_BACKOFF, 2.0 ** (self._failures - 1))

    async def _read(self, fn: Any) -> Any:
        def snapshot() -> Any:
            with self._reader.connect() as connection, connection.begin():
                return fn(connection)

        return await anyio.to_thread.run_sync(snapshot)


def stored(connection: Connection, name: str) -> Places:
    """Where a sink goes on."""
    rows = connection.execute(select(_c.log, _c.idx).where(_c.name == name))
    return {log: idx for log, idx in rows}


def store(connection: Connection, name: str, places: Places) -> None:
    for log, idx in places.items():
        moved = update(tables.sink_cursors).where(_c.name == name, _c.log == log).values(idx=idx)
        if connection.execute(moved).rowcount == 0:
            connection.execute(insert(tables.sink_cursors).values(name=name, log=log, idx=idx))


def next_lines(connection: Connection, places: Places) -> tuple[int, Sequence[Line]]:
    """What comes next, of the log that is told least of; none where all is sent."""
    logs = connection.execute(select(tables.logs.c.log).order_by(tables.logs.c.log)).scalars()
    for log in logs:
        if lines := lines_from(connection, log, places.get(log, 0)):
            return log, lines
    return 0, ()


def lines_from(connection: Connection, log: int, idx: int) -> Sequence[Line]:
    """Durable records of one log in their order."""
    query: Select[Any] = select(_t.idx, _t.ts, _t.kind, _t.reason_code, _t.body)
    query = query.where(_t.log == log, _t.idx >= idx)
    query = query.order_by(_t.idx).limit(BATCH)
    if idx < reading.size(connection, log):
        # Of a sink that is new: whoever had one before is past what is in cold storage.
        rows = reading.rows(connection, query, [(log, idx // TILE_WIDTH)])
    else:
        rows = list(connection.execute(query))
    return [
        Line(row.idx, row.ts, row.kind, row.kind == "decision" and bool(row.reason_code), row.body)
        for row in rows
    ]

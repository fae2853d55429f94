"""Follows the log for each sink from a stored index: at least once, in order, and never in the
way of a call. A record may come twice after a crash; its index says so.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import anyio.to_thread
import structlog
from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.settings import Settings, SettingsFault
from gateway.sinks.targets import Line, SinkFault, SinkMisnamed, Target, target
from gateway.store import tables
from gateway.store.writer import Writer, WriterStopped
from gateway.telemetry import fault_text

BATCH = 500
POLL_SECONDS = 0.5
SAVE_SECONDS = 1.0
"""How often the index is stored: what was sent since comes again after a crash."""
MOST_BACKOFF = 60.0

_c = tables.sink_cursors.c
_t = tables.trace.c
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next record to send."""

    log: int = 0
    idx: int = 0


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


async def run(settings: Settings, writer: Writer, reader: Engine) -> None:
    """Until cancelled: each sink by itself, so that a slow one holds up no other."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_until_cancelled())
        for text in settings.sinks:
            follower = Follower(text, _target(settings, text), writer, reader)
            group.create_task(follower.run())


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()


def _target(settings: Settings, text: str) -> Target:
    token = settings.sink_token
    secret = None if token is None else token.get_secret_value()
    return target(text, settings.private_upstreams, secret)


class Follower:
    """Brings the records to one sink."""

    def __init__(self, name: str, to: Target, writer: Writer, reader: Engine) -> None:
        self._name = name
        self._to = to
        self._writer = writer
        self._reader = reader
        self._failures = 0
        self._saved_at = 0.0
        self._stored: Cursor | None = None

    async def run(self) -> None:
        cursor: Cursor | None = None
        try:
            while True:
                pause = POLL_SECONDS
                try:
                    cursor = cursor or await self._read(lambda c: stored(c, self._name))
                    cursor, pause = await self.step(cursor)
                except SinkFault as fault:
                    pause = self._failed(str(fault))
                except (SQLAlchemyError, WriterStopped) as fault:
                    _log.error(
                        "a sink's index cannot be stored", sink=self._name, why=fault_text(fault)
                    )
                    pause = MOST_BACKOFF
                await asyncio.sleep(pause)
        finally:
            self._to.close()
            if cursor is not None:
                with contextlib.suppress(SQLAlchemyError, WriterStopped):
                    await self._save(cursor)

    async def step(self, cursor: Cursor) -> tuple[Cursor, float]:
        """Send what comes next; returns where to go on, and in how many seconds."""
        lines = await self._read(lambda c: lines_from(c, cursor))
        if lines:
            await self._to.send(lines)
            if self._failures:
                _log.info("a sink takes records again", sink=self._name)
            self._failures = 0
            cursor = Cursor(cursor.log, lines[-1].idx + 1)
        elif (following := await self._read(lambda c: next_log(c, cursor))) is not None:
            return Cursor(following, 0), 0
        if cursor != self._stored and monotonic() - self._saved_at >= SAVE_SECONDS:
            await self._save(cursor)
        return cursor, 0 if len(lines) == BATCH else POLL_SECONDS

    async def _save(self, cursor: Cursor) -> None:
        if cursor != self._stored:
            await self._writer.change(lambda c: store(c, self._name, cursor))
            self._stored, self._saved_at = cursor, monotonic()

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


def stored(connection: Connection, name: str) -> Cursor:
    """Where a sink goes on; a new one begins with the first record."""
    row = connection.execute(select(_c.log, _c.idx).where(_c.name == name)).first()
    return Cursor() if row is None else Cursor(row.log, row.idx)


def store(connection: Connection, name: str, cursor: Cursor) -> None:
    place = {"log": cursor.log, "idx": cursor.idx}
    moved = update(tables.sink_cursors).where(_c.name == name).values(**place)
    if connection.execute(moved).rowcount == 0:
        connection.execute(insert(tables.sink_cursors).values(name=name, **place))


def lines_from(connection: Connection, cursor: Cursor) -> Sequence[Line]:
    """Durable records in their order."""
    query = select(_t.idx, _t.ts, _t.kind, _t.reason_code, _t.body).where(
        _t.log == cursor.log, _t.idx >= cursor.idx
    )
    rows = connection.execute(query.order_by(_t.idx).limit(BATCH))
    return [
        Line(idx, ts, kind, kind == "decision" and reason is not None, body)
        for idx, ts, kind, reason, body in rows
    ]


def next_log(connection: Connection, cursor: Cursor) -> int | None:
    """The log that succeeded a sealed one."""
    query = select(func.min(tables.logs.c.log)).where(tables.logs.c.log > cursor.log)
    return connection.execute(query).scalar()

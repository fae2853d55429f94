"""``GET /metrics`` on the management listener: what there is to know, taken when it is asked for.

A call only counts (`gateway.telemetry.counters`). The library that writes the text is imported by
the first scrape, in a thread, and so is the database read: no call waits for either.
"""

import asyncio
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.cold import reading
from gateway.cold.archive import Archive
from gateway.data_dir.state import State
from gateway.database_place import DATABASE
from gateway.frozen import frozen
from gateway.listeners import shows_token
from gateway.pipeline import Pipeline
from gateway.policy.activation import Activation, PolicyStatus
from gateway.policy.opa import Opa, OpaStatus
from gateway.registry.stop_file import StopFile
from gateway.store import database, tables
from gateway.telemetry.counters import Counters
from gateway.trace import checkpoint, receipts

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format (exposition formats, "Text-based format")."""

FRESH_SECONDS = 5.0
"""Several collectors, or an impatient one, are told what the first was told so long ago."""


@frozen
class Stored:
    """What only the database knows, and what is compared with it."""

    log: tuple[int, int]
    """The log in use and its durable records, as of just before."""
    approvals_pending: int
    stops: int
    signed: tuple[int, int]
    """The log that was signed last, and how many records of it."""
    anchored: int
    """Records of the log in use that somebody outside vouches for."""
    anchors: Mapping[receipts.Standing, int]
    cold: tuple[int, int]
    """Records of all logs in cold storage, and their bytes."""
    bytes: int | None
    """Of a database on a server; None where it is a file."""


@frozen
class Reading:
    """All that one answer tells."""

    counters: Counters
    stored: Stored
    opa: OpaStatus
    policy: PolicyStatus
    calls_running: int
    streams_open: int
    writer_queued: int
    writer_failing: bool
    stopped_by_file: bool
    database_bytes: int
    cold_failing: bool


@dataclass(slots=True)
class Metrics:
    """An ASGI application for one path. A reader needs the management listener's token."""

    token: bytes
    state: State
    pipeline: Pipeline
    opa: Opa
    policy: Activation
    stop_file: StopFile
    archive: Archive | None = None
    _stored: Stored | None = None
    _read_at: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("GET only", 405, {"Allow": "GET"})
        if not shows_token(request.headers.get("Authorization", ""), self.token):
            return PlainTextResponse(
                "a bearer token is needed", 401, {"WWW-Authenticate": 'Bearer realm="metrics"'}
            )
        exposition = await asyncio.to_thread(
            importlib.import_module, "gateway.telemetry.exposition"
        )
        text: bytes = exposition.text(self._reading(await self._from_database()))
        return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    async def _from_database(self) -> Stored:
        if self._stored is None or monotonic() - self._read_at > FRESH_SECONDS:
            log, now = self.state.log, self.state.clock.now()
            position = (log.number, log.size)
            self._stored = await self.state.registry.read(
                lambda reader: _stored(reader, position, now)
            )
            self._read_at = monotonic()
        return self._stored

    def _reading(self, stored: Stored) -> Reading:
        writer = self.state.writer
        return Reading(
            counters=self.pipeline.counters,
            stored=stored,
            opa=self.opa.status(),
            policy=self.policy.status(),
            calls_running=len(self.pipeline.running),
            streams_open=self.pipeline.upstreams.open_streams,
            writer_queued=writer.queued,
            writer_failing=writer.failing,
            stopped_by_file=self.stop_file.raised,
            cold_failing=self.archive is not None and bool(self.archive.fault),
            database_bytes=_file_bytes(self.state) if stored.bytes is None else stored.bytes,
        )


def _stored(connection: Connection, log: tuple[int, int], now: str) -> Stored:
    a, s = tables.approvals.c, tables.stops.c
    pending = select(func.count()).where(a.state == "PENDING", a.expires_at > now)
    stops = select(func.count()).where(s.lifted_at.is_(None))
    signed = checkpoint.latest(connection, log[0])
    return Stored(
        log=log,
        approvals_pending=connection.execute(pending).scalar_one(),
        stops=connection.execute(stops).scalar_one(),
        signed=(0, 0) if signed is None else (signed.log, signed.checkpoint.size),
        anchored=receipts.standing(connection).anchored,
        anchors=_anchors(connection),
        cold=reading.total(connection),
        bytes=database.size(connection),
    )


def _anchors(connection: Connection) -> dict[receipts.Standing, int]:
    anchors, backends = tables.anchors.c, tables.anchor_backends.c
    of = (anchors.state, backends.enabled, backends.condition)
    query = (
        select(*of, func.count().label("number"))
        .join_from(tables.anchors, tables.anchor_backends, backends.name == anchors.backend)
        .group_by(*of)
    )
    found: dict[receipts.Standing, int] = {}
    for row in connection.execute(query):
        state = receipts.state_of(row)
        found[state] = found.get(state, 0) + row.number
    return found


def _file_bytes(state: State) -> int:
    return sum(_size(state, end) for end in ("", "-wal"))


def _size(state: State, end: str) -> int:
    try:
        return os.stat(state.data_dir / (DATABASE + end)).st_size
    except FileNotFoundError:
        return 0

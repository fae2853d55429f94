"""Server-sent events (HTML Standard, section 9.2): pages learn here that something is new."""

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.visitor import SignedOut, session_of
from gateway.registry import approvals
from gateway.store import tables
from gateway.values import ProjectId

LOOK_SECONDS = 2.0
STREAM_SECONDS = 60.0
"""A browser then connects anew, and whether the person is still signed in is looked at again."""
_t = tables.trace.c


class Live:
    def __init__(self, context: DashboardContext) -> None:
        self._context = context

    async def stream(self, request: Request) -> Response:
        try:
            session = await session_of(self._context, request)
        except SignedOut:
            # No redirect: the browser would take a page for a stream and ask for ever.
            return Response(status_code=204)
        return StreamingResponse(
            self._events(session.user.project_id),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    async def _events(self, project_id: ProjectId) -> AsyncIterator[bytes]:
        registry, told = self._context.registry, None
        ends = time.monotonic() + STREAM_SECONDS
        yield b"retry: 2000\n\n"
        while time.monotonic() < ends and not self._context.ending():
            seen = registry.changes
            state = await registry.read(partial(_state, project_id, registry.clock.now()))
            if state != told:
                told = state
                yield b"data: " + orjson.dumps(state) + b"\n\n"
            await registry.changed(seen, LOOK_SECONDS)


def _state(project_id: ProjectId, now: str, connection: Connection) -> dict[str, Any]:
    newest = select(func.max(_t.ts)).where(_t.project_id == project_id)
    return {
        "pending": approvals.pending(connection, project_id, now),
        "version": connection.execute(newest).scalar_one(),
    }

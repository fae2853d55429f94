"""Servers of the HTTP+SSE transport (MCP 2024-11-05), as streamable-HTTP servers with sessions.

A session of ours is one stream of theirs: `initialize` opens it, DELETE or disuse ends it.
"""

import asyncio
import secrets
from collections.abc import Mapping
from time import monotonic

import orjson

from gateway.http1.client import BeforeWrite, Header, NotSent
from gateway.mcp.headers import value_of
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.routes import Exchange
from gateway.mcp.sse_answers import JSON, SseAnswer
from gateway.mcp.sse_session import SessionLimits, SseSession, Way
from gateway.values import Json, Server

_BETWEEN_LOOKS = 0.25
"""Of the time after which a session that is not used ends."""


class SseSessions:
    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._sessions: dict[bytes, SseSession] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def open(
        self,
        way: Way,
        method: str,
        headers: list[Header],
        body: bytes,
        *,
        deadline: float,
        before_write: BeforeWrite | None = None,
    ) -> Exchange | SseAnswer:
        """What `Client.open` is for other servers; the `Mcp-Session-Id` is one of ours.

        What has no session, or one that is gone, is answered here, and nothing is sent: 400, 404.
        """
        name = value_of(headers, b"mcp-session-id")
        message = _read(body) if method == "POST" else {}
        if message.get("method") == "initialize" and not name:
            return await self._begin(way, headers, body, message, deadline, before_write)
        if not name:
            return _refusal(400, "This server needs a session: begin with `initialize`.")
        session = self._of(way.server, name)
        if session is None:
            return _refusal(404, "The session has ended; begin another with `initialize`.")
        if method == "GET":
            return session.listen() or _refusal(409, "The session has such a stream already.")
        if method == "DELETE":
            self._drop(name)
            return SseAnswer(200)
        return await session.post(
            headers, body, message, deadline=deadline, before_write=before_write
        )

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close()
        await asyncio.gather(*(session.ended() for session in sessions.values()))

    async def _begin(
        self,
        way: Way,
        headers: list[Header],
        body: bytes,
        message: Mapping[str, Json],
        deadline: float,
        before_write: BeforeWrite | None,
    ) -> Exchange | SseAnswer:
        if not self._room(way.server):
            return _refusal(503, "All sessions that this server may have are in use; try later.")
        name = secrets.token_urlsafe(32).encode()
        session = self._sessions[name] = SseSession(way.server, self._limits)
        kept = False
        try:
            refused = await session.connect(way, deadline)
            if refused is not None:
                return refused
            answer = await session.post(
                headers, body, message, deadline=deadline, before_write=before_write
            )
            kept = answer.status == 200
        finally:
            if not kept:
                self._drop(name)
        answer.headers = (*answer.headers, (b"mcp-session-id", name))
        if self._looking is None:
            self._look_later()
        return answer

    def _of(self, server: Server, name: bytes) -> SseSession | None:
        session = self._sessions.get(name)
        if session is None or session.server.id != server.id:
            return None
        if session.closed:
            self._drop(name)
            return None
        return session

    def _room(self, server: Server) -> bool:
        """Make room, if need be by ending what was used longest ago and does nothing now."""
        own = {n: s for n, s in self._sessions.items() if s.server.id == server.id}
        if len(own) < self._limits.sessions:
            return True
        idle = [name for name, session in own.items() if session.closed or not session.in_use]
        if not idle:
            return False
        self._drop(min(idle, key=lambda name: own[name].used_at))
        return True

    def _drop(self, name: bytes) -> None:
        if (session := self._sessions.pop(name, None)) is not None:
            session.close()

    def _look_later(self) -> None:
        seconds = self._limits.idle_seconds * _BETWEEN_LOOKS
        self._looking = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._looking = None
        long_ago = monotonic() - self._limits.idle_seconds
        for name, session in list(self._sessions.items()):
            if session.closed or (not session.in_use and session.used_at < long_ago):
                self._drop(name)
        if self._sessions:
            self._look_later()


def _read(body: bytes) -> Mapping[str, Json]:
    try:
        message = read_json(body)
    except Unreadable as fault:
        raise NotSent(str(fault)) from None
    return message if isinstance(message, dict) else {}


def _refusal(status: int, why: str) -> SseAnswer:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": why}}
    return SseAnswer(status, (JSON,), orjson.dumps(body))

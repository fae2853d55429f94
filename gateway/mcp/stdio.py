"""Servers that are programs: an MCP server over HTTP towards the proxy, lines towards the program.

There is no HTTP behind this, so statuses, sessions and streams are made here (2025-11-25 and
2026-07-28, basic/transports): one process a session in the legacy era, one for all in the modern.
"""

import asyncio
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gateway.frozen import frozen
from gateway.http1.client import BeforeWrite, Interrupted, NotSent, Response
from gateway.mcp.headers import Header
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.routes import Exchange, Route
from gateway.mcp.stdio_exchange import EVENTS, StdioExchange, answered, error
from gateway.mcp.stdio_process import Child, StdioLimits, as_line, start
from gateway.mcp.stdio_programs import SCHEME, Program, Programs, read_programs
from gateway.mcp.stdio_talk import Session, Shared, Talk
from gateway.values import ProjectId, Server

__all__ = ["StdioDoor", "StdioServers", "read_programs"]

_MODERN: Final = b"2026-07-28"
_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_STATUSES: Final = {-32601: 404, -32600: 400, -32700: 400, -32020: 400, -32021: 400, -32022: 400}
_SWEEP_SECONDS: Final = 60.0
_NO_SESSION: Final = "The session is not known here; initialize again."


@frozen
class _Asked:
    """A request of the proxy's, taken apart again."""

    method: str
    session: bytes
    version: bytes
    body: bytes
    due: float
    idle_seconds: float | None
    before_write: BeforeWrite | None

    def last_act(self) -> None:
        if self.before_write is not None:
            self.before_write()


class StdioServers:
    """The ways to all stdio servers of the deployment."""

    def __init__(
        self,
        programs: Programs,
        slug: Callable[[ProjectId], str],
        limits: StdioLimits | None = None,
    ) -> None:
        """``slug`` is that of a project, by which the operator's file names those it serves."""
        self._programs = programs
        self._slug = slug
        self._limits = limits or StdioLimits()
        self._doors: set[StdioDoor] = set()

    def route(self, server: Server) -> Route:
        """Raises `NotSent` for a name that the operator's file does not have for the project."""
        name = server.url.removeprefix(SCHEME)
        program = self._programs.by_name.get(name)
        if program is None or not server.url.startswith(SCHEME):
            raise NotSent(f"the operator's file of stdio servers has no {name}")
        if program.projects is not None and self._slug(server.project_id) not in program.projects:
            raise NotSent(f"the operator's file keeps {name} for other projects")
        self._doors = {door for door in self._doors if not door.is_over}
        door = StdioDoor(program, self._programs, self._limits)
        self._doors.add(door)
        return Route(door, "/", ((b"host", b"stdio"),), program.secrets)

    def warnings(self) -> dict[str, str]:
        """What readiness says of them."""
        return self._programs.warnings()

    async def close(self) -> None:
        """End every process, and wait until each has ended."""
        for door in self._doors:
            door.close()
        await asyncio.gather(*(door.closed() for door in self._doors))


class StdioDoor:
    """A `gateway.mcp.routes.Door` to one server: its sessions, and its shared process."""

    def __init__(self, program: Program, programs: Programs, limits: StdioLimits) -> None:
        self._program = program
        self._programs = programs
        self._limits = limits
        self._sessions: dict[bytes, Session] = {}
        self._shared: Shared | None = None
        self._starting = asyncio.Lock()
        self._children: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return self._closed and not self._children

    async def open(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        idle_seconds: float | None = None,
        before_write: BeforeWrite | None = None,
    ) -> Exchange:
        """As `gateway.http1.client.Client.open`: nothing is written before `before_write`."""
        method, headers = _read_head(head)
        asked = _Asked(
            method,
            headers.get(b"mcp-session-id", b""),
            headers.get(b"mcp-protocol-version", b""),
            body,
            deadline,
            idle_seconds,
            before_write,
        )
        if method != "POST":
            return self._listen(asked) if method == "GET" else self._leave(asked)
        try:
            message = read_json(body)
        except Unreadable as fault:
            return answered(400, error(None, -32700, str(fault)))
        if not isinstance(message, dict):
            return answered(400, error(None, -32600, "A body is one message."))
        if _is_modern(asked, message):
            return await self._modern(asked, message)
        return await self._legacy(asked, message)

    async def request(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        max_body: int,
        before_write: BeforeWrite | None = None,
    ) -> Response:
        exchange = await self.open(head, body, deadline=deadline, before_write=before_write)
        return Response(exchange.status, exchange.headers, await exchange.read(max_body))

    def close(self) -> None:
        """End all processes; who waits for an answer gets an error."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for session in list(self._sessions.values()):
            session.end()
        if self._shared is not None:
            self._shared.end()

    async def closed(self) -> None:
        await asyncio.gather(*self._children, return_exceptions=True)

    # The legacy era

    async def _legacy(self, asked: _Asked, message: dict[str, Any]) -> Exchange:
        rpc_id = message.get("id")
        if message.get("method") == "initialize" and rpc_id is not None:
            return await self._initialize(asked, message)
        session = self._sessions.get(asked.session)
        if session is None:
            if not asked.session:
                return answered(400, error(rpc_id, -32600, "Mcp-Session-Id is missing."))
            return answered(404, error(rpc_id, -32600, _NO_SESSION))
        session.check()
        if "method" not in message:
            if session.expects(rpc_id):
                asked.last_act()
                session.tell(as_line(asked.body))
            return answered(202)
        if rpc_id is None:
            asked.last_act()
            session.tell(as_line(asked.body))
            return answered(202)
        return await self._ask(asked, session, message)

    async def _initialize(self, asked: _Asked, message: dict[str, Any]) -> Exchange:
        if len(self._sessions) >= self._program.processes:
            raise NotSent("it has as many sessions as the operator allows")
        name = secrets.token_urlsafe(24).encode()

        def on_gone(talk: Talk, spoke: bool) -> None:
            self._sessions.pop(name, None)
            self._count(spoke)

        session = Session(on_gone)
        # It counts from now on, so that many at once stay within the limit.
        self._sessions[name] = session
        try:
            session.begin(await self._start(asked, session))
            exchange = await self._ask(asked, session, message, (b"mcp-session-id", name))
        except BaseException:
            self._sessions.pop(name, None)
            session.end()
            raise
        self._sweep_later()
        return exchange

    async def _ask(
        self, asked: _Asked, session: Session, message: dict[str, Any], *extra: Header
    ) -> Exchange:
        rpc_id = message["id"]
        if session.knows(rpc_id):
            return answered(400, error(rpc_id, -32600, "This id is in use in the session."))
        exchange = StdioExchange(
            lambda: session.forget(rpc_id),
            most_bytes=self._limits.unread_bytes,
            idle_seconds=asked.idle_seconds,
        )
        line = as_line(asked.body)
        session.check()
        asked.last_act()
        session.ask(rpc_id, _token(message), exchange, line)
        await self._begin(asked, exchange, *extra)
        return exchange

    def _listen(self, asked: _Asked) -> Exchange:
        session = self._sessions.get(asked.session)
        if session is None:
            return answered(404 if asked.session else 405, error(None, -32600, _NO_SESSION))
        if session.listener is not None:
            return answered(409, error(None, -32600, "The session has such a stream already."))

        def on_close() -> None:
            session.listener = None

        exchange = StdioExchange(
            on_close, most_bytes=self._limits.unread_bytes, idle_seconds=asked.idle_seconds
        )
        exchange.headers = (EVENTS,)
        asked.last_act()
        session.listen(exchange)
        return exchange

    def _leave(self, asked: _Asked) -> Exchange:
        session = self._sessions.pop(asked.session, None)
        if session is None:
            return answered(404 if asked.session else 405, error(None, -32600, _NO_SESSION))
        asked.last_act()
        session.end()
        return answered(200)

    # The modern era

    async def _modern(self, asked: _Asked, message: dict[str, Any]) -> Exchange:
        rpc_id = message.get("id")
        if "method" not in message or rpc_id is None:
            # What a client says without an id is about a request whose stream it closes instead.
            return answered(202)
        discovers = message["method"] == "server/discover"
        try:
            shared = await self._running(asked)
            exchange = await self._ask_shared(asked, shared, message, discovers=discovers)
        except Interrupted:
            if not discovers:
                raise
            return _unknown_method(rpc_id)
        if discovers and not exchange.first():
            exchange.close()
            self._retire(shared)
            return _unknown_method(rpc_id)
        exchange.status = _status(exchange)
        if discovers and exchange.status != 200:
            self._retire(shared)
        return exchange

    async def _ask_shared(
        self, asked: _Asked, shared: Shared, message: dict[str, Any], *, discovers: bool
    ) -> StdioExchange:
        own: list[int] = []
        exchange = StdioExchange(
            lambda: shared.give_up(own[0]),
            most_bytes=self._limits.unread_bytes,
            idle_seconds=asked.idle_seconds,
        )
        shared.check()
        asked.last_act()
        own.append(shared.ask(message, exchange))
        await self._begin(asked, exchange, discovers=discovers)
        return exchange

    async def _running(self, asked: _Asked) -> Shared:
        async with self._starting:
            if self._shared is None or self._shared.over:

                def on_gone(talk: Talk, spoke: bool) -> None:
                    if self._shared is talk:
                        self._shared = None
                    self._count(spoke)

                shared = Shared(on_gone)
                shared.begin(await self._start(asked, shared))
                self._shared = shared
                self._sweep_later()
            return self._shared

    def _retire(self, shared: Shared) -> None:
        """End a process that does not know the modern era, unless somebody waits for it."""
        if not shared.busy and self._shared is shared:
            self._shared = None
            shared.end()

    # Both

    async def _begin(
        self, asked: _Asked, exchange: StdioExchange, *extra: Header, discovers: bool = False
    ) -> None:
        limits = self._limits
        patience = limits.discover_seconds if discovers else limits.answer_seconds
        try:
            await exchange.begin(max(0.0, min(patience, asked.due - monotonic())), *extra)
        except BaseException:
            exchange.close()
            raise

    async def _start(self, asked: _Asked, talk: Talk) -> Child:
        wait = self._not_before - monotonic()
        if wait > 0:
            if wait > 2 * self._limits.back_off_seconds:
                raise NotSent(f"it ends as soon as it starts; it is tried again in {wait:.0f} s")
            await asyncio.sleep(wait)
        if self._closed:
            raise NotSent("the server was changed")
        child = await start(self._program, self._programs, self._limits, talk.hear, talk.gone)
        self._children.add(child.task)
        child.task.add_done_callback(self._children.discard)
        return child

    def _count(self, spoke: bool) -> None:
        """Back off from a program that ends before it said anything."""
        limits = self._limits
        self._failures = 0 if spoke else min(self._failures + 1, 30)
        seconds = limits.back_off_seconds * 2 ** (self._failures - 1) if self._failures else 0.0
        self._not_before = monotonic() + min(seconds, limits.back_off_most)

    def _sweep_later(self) -> None:
        if self._sweeping is None and not self._closed:
            loop = asyncio.get_running_loop()
            seconds = min(_SWEEP_SECONDS, self._limits.idle_seconds)
            self._sweeping = loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """End what nobody used for long."""
        self._sweeping = None
        before = monotonic() - self._limits.idle_seconds
        for name, session in list(self._sessions.items()):
            if session.used < before and not session.busy:
                del self._sessions[name]
                session.end()
        if self._shared is not None and self._shared.used < before:
            self._retire(self._shared)
        if self._sessions or self._shared is not None:
            self._sweep_later()


def _read_head(head: bytes) -> tuple[str, dict[bytes, bytes]]:
    """What `Route.head` wrote."""
    first, *lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines if line)
    return first.split(b" ")[0].decode(), {n.lower(): v.strip() for n, _, v in pairs}


def _is_modern(asked: _Asked, message: dict[str, Any]) -> bool:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    named = isinstance(meta, dict) and _VERSION_KEY in meta
    return named or asked.version >= _MODERN


def _token(message: dict[str, Any]) -> Any:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta.get("progressToken") if isinstance(meta, dict) else None


def _unknown_method(rpc_id: str | int) -> StdioExchange:
    return answered(404, error(rpc_id, -32601, "The server does not know server/discover."))


def _status(exchange: StdioExchange) -> int:
    """The modern era says some errors by HTTP, too (2026-07-28, basic/transports)."""
    if exchange.content_type != "application/json" or b'"error"' not in exchange.first():
        return 200
    found = read_json(exchange.first()).get("error")
    code = found.get("code") if isinstance(found, dict) else None
    return _STATUSES.get(code, 200) if isinstance(code, int) else 200

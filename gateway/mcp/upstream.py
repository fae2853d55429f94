"""The MCP servers behind the gateway: one request sent once, its answer as it came.

What an answer means is decided elsewhere. Here it is decided what may cross: headers by list, no
redirects, nothing that the upstream says about the gateway's own credential.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import orjson
import structlog

from gateway.egress.guard import Network
from gateway.frozen import frozen
from gateway.http1.client import (
    BeforeWrite,
    Http1Error,
    NotSent,
    TooLarge,
)
from gateway.mcp.handles import Handles
from gateway.mcp.headers import Header, to_caller, to_upstream, value_of
from gateway.mcp.routes import Exchange, Route, Routes, secrets_in
from gateway.mcp.sse import EVENT_LIMIT, EventScanner
from gateway.mcp.sse_answers import SseAnswer
from gateway.mcp.sse_session import SessionLimits, Way
from gateway.mcp.sse_sessions import SseSessions
from gateway.mcp.stdio import StdioServers
from gateway.mcp.streams import RelayedEvents
from gateway.mcp.tokens import NoToken, Tokens
from gateway.values import Caller, Era, Fate, Forwarded, Permit, Request, Server, ServerId

_OF_A_SESSION = frozenset({b"mcp-session-id", b"mcp-protocol-version"})
_OF_OUR_MESSAGES = (
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
)

_log = structlog.get_logger(__name__)


@frozen
class Limits:
    """Seconds and bytes that one exchange with an upstream may take."""

    connect_seconds: float = 5.0
    head_seconds: float = 60.0
    """Until the head of the answer; a plain answer must be whole by then too."""
    look_seconds: float = 0.5
    """How often it is looked whether who waits for a head has hung up."""
    idle_seconds: float = 600.0
    """Silence within a stream."""
    answer_bytes: int = 4 * 1024 * 1024
    event_bytes: int = EVENT_LIMIT
    connections: int = 256
    """Per server and credential; streams are not counted."""
    sessions: int = 256
    """Per server of the transport sse, each with a stream of its own."""
    endpoint_seconds: float = 10.0
    """Until such a server has said where to post."""


@dataclass(slots=True, eq=False)
class _Running:
    """A request whose answer is awaited or streaming: what an emergency stop may cut."""

    caller: Caller
    request: Request
    rpc_id: str | int | None
    era: Era
    trace_id: str
    sent: bool = False
    cut: bool = False
    task: asyncio.Task[Any] | None = None
    """Who waits for the answer, until it is there."""
    given_up: bool = False
    secrets: tuple[bytes, ...] = ()
    """The gateway's own, which the server was sent and may not tell."""
    stream: RelayedEvents | None = None

    def give_up(self) -> None:
        """End the wait for an answer, by a cancellation that its task takes back."""
        if self.task is not None and not self.given_up:
            self.given_up = True
            self.task.cancel()


class Upstreams:
    """``private_allowed`` and ``listeners`` are the deployment's; see `gateway.egress.guard`."""

    def __init__(
        self,
        handles: Handles,
        *,
        private_allowed: tuple[Network, ...] = (),
        listeners: frozenset[tuple[str, int]] = frozenset(),
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        tokens: Tokens | None = None,
        stdio: StdioServers | None = None,
    ) -> None:
        """``tokens`` serves the servers whose credential is OAuth's; others need none."""
        self.limits = limits or Limits()
        self._handles = handles
        self._tokens = tokens
        self._routes = Routes(
            private_allowed=private_allowed,
            listeners=listeners,
            connections=self.limits.connections,
            connect_seconds=self.limits.connect_seconds,
            tls=tls,
            programs=None if stdio is None else stdio.route,
        )
        self._sse = SseSessions(
            SessionLimits(
                sessions=self.limits.sessions,
                endpoint_seconds=self.limits.endpoint_seconds,
                idle_seconds=self.limits.idle_seconds,
                event_bytes=self.limits.event_bytes,
            )
        )
        self._stdio = stdio
        self._running: set[_Running] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    async def forward(self, permit: Permit, before_write: BeforeWrite) -> Forwarded:
        """Send a permitted `tools/call` once. Whatever ``before_write`` raises, nothing was sent.

        The permit's deadline and stop epoch are for ``before_write`` to check: it runs as the last
        act before the first byte.
        """
        call = permit.call
        running = _Running(call.caller, call.request, call.rpc_id, call.era, call.id)
        return await self._exchange(running, before_write)

    async def relay(
        self,
        caller: Caller,
        request: Request,
        *,
        rpc_id: str | int | None = None,
        era: Era = Era.LEGACY,
        trace_id: str = "",
    ) -> Forwarded:
        """Send any other message, or a GET or DELETE, and return its answer.

        ``rpc_id`` is the request's id, which an emergency stop answers on a stream that it cuts.
        """
        return await self._exchange(_Running(caller, request, rpc_id, era, trace_id), None)

    def cut(self, match: Callable[[Caller], bool]) -> int:
        """End every running exchange whose caller matches, at once; return how many there were."""
        matching = [r for r in self._running if not r.cut and match(r.caller)]
        for running in matching:
            running.cut = True
            if running.stream is not None:
                self._cancel_upstream(running, running.stream.open_id)
                running.stream.cut()
            else:
                running.give_up()
        return len(matching)

    @property
    def open_streams(self) -> int:
        """Streams of events under way from upstreams to callers."""
        return sum(running.stream is not None for running in self._running)

    def route(self, server: Server) -> Route:
        """The way to a server. Raises `NotSent` when its URL may not be used."""
        return self._routes.to(server)

    async def credential(self, server: Server) -> tuple[Header, ...]:
        """What a request to the server needs beside its route's head: a token, where it has one.

        Raises `NotSent` (`gateway.mcp.tokens.NoToken`).
        """
        if server.oauth is None:
            return ()
        if self._tokens is None:
            raise NoToken("there is nobody to ask for a token")
        return await self._tokens.header(server)

    async def converse(
        self,
        way: Way,
        method: str,
        headers: list[Header],
        body: bytes,
        *,
        deadline: float,
        before_write: BeforeWrite | None = None,
    ) -> Exchange | SseAnswer:
        """A request to a server of the transport sse, in a session of `gateway.mcp.sse_sessions`.

        ``headers`` hold the credential too. Raises as `gateway.http1.client.Client.open` does.
        """
        return await self._sse.open(
            way, method, headers, body, deadline=deadline, before_write=before_write
        )

    def drop(self, server_id: ServerId) -> None:
        """Close what leads to a server that changed or is gone, with whatever runs on it."""
        self._routes.drop(server_id)

    def warnings(self) -> dict[str, str]:
        """What readiness says of the ways to servers."""
        return {} if self._stdio is None else self._stdio.warnings()

    async def close(self) -> None:
        """Close everything. Streams under way end as broken ones."""
        if self._looking is not None:
            self._looking.cancel()
        await self._sse.close()
        self._routes.close()
        if self._stdio is not None:
            await self._stdio.close()
        for farewell in list(self._farewells):
            farewell.cancel()
        await asyncio.gather(*self._farewells, return_exceptions=True)

    async def _exchange(self, running: _Running, before_write: BeforeWrite | None) -> Forwarded:
        def last_act() -> None:
            if before_write is not None:
                before_write()
            running.sent = True

        running.task = task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._running.add(running)
        streaming = False
        if self._looking is None:
            self._look_later()
        try:
            forwarded = await self._ask(running, last_act)
            streaming = forwarded.stream is not None
            return forwarded
        except asyncio.CancelledError:
            # As `asyncio.timeout` tells its own cancellation from others, at a tenth of its cost.
            if not running.given_up or task.uncancel() > cancelling:
                raise
            return self._given_up(running)
        except NotSent as fault:
            _log.warning("not sent", server=running.caller.server.id, why=fault.why)
            reason = "upstream_auth" if isinstance(fault, NoToken) else "upstream_unreachable"
            return Forwarded(Fate.NOT_FORWARDED, reason=reason)
        except Http1Error as fault:
            _log.warning("no answer", server=running.caller.server.id, why=fault.why)
            return Forwarded(Fate.UNKNOWN, reason="upstream_error")
        finally:
            running.task = None
            if not streaming:
                self._running.discard(running)

    async def _ask(self, running: _Running, last_act: BeforeWrite) -> Forwarded:
        request = running.request
        server = running.caller.server
        route = self.route(server)
        has_body = request.method == "POST"
        length = len(request.body) if has_body else None
        headers = to_upstream(request.headers, running.era)
        running.secrets = route.secrets
        credential: tuple[Header, ...] = ()
        if server.oauth is not None:
            credential = await self.credential(server)
            headers += credential
            running.secrets = secrets_in(credential)
        body = request.body if has_body else b""
        deadline = monotonic() + self.limits.head_seconds
        exchange: Exchange | SseAnswer
        if server.transport == "sse":
            exchange = await self.converse(
                Way(server, route, credential),
                request.method,
                headers,
                body,
                deadline=deadline,
                before_write=last_act,
            )
        else:
            exchange = await route.client.open(
                route.head(request.method, headers, length),
                body,
                deadline=deadline,
                idle_seconds=self.limits.idle_seconds,
                before_write=last_act,
            )
        try:
            return await self._answer(running, exchange)
        except BaseException:
            exchange.close()
            raise

    async def _answer(self, running: _Running, exchange: Exchange | SseAnswer) -> Forwarded:
        status = exchange.status
        # A session that is gone is answered without anything being sent.
        fate = Fate.ANSWERED if running.sent else Fate.NOT_FORWARDED
        reason = _unfit(exchange)
        if reason:
            exchange.close()
            if status == 401 and self._tokens is not None:
                self._tokens.refused(running.caller.server)
            return Forwarded(Fate.ANSWERED, status, reason=reason)
        if exchange.content_type == "text/event-stream" and status < 300:
            headers = self._headers(running, exchange, streaming=True)
            return Forwarded(Fate.ANSWERED, status, headers, stream=self._stream(running, exchange))
        try:
            body = await exchange.read(self.limits.answer_bytes)
        except TooLarge:
            return Forwarded(Fate.ANSWERED, status, reason="answer_too_large")
        if any(secret in body for secret in running.secrets):
            _log.warning("an answer tells the gateway's credential", server=_server_of(running))
            return Forwarded(Fate.ANSWERED, status, reason="answer_withheld")
        headers = self._headers(running, exchange, streaming=False)
        body = self._handles.body_outward(running.caller, body)
        return Forwarded(fate, status, headers, body=body)

    def _headers(
        self, running: _Running, exchange: Exchange | SseAnswer, *, streaming: bool
    ) -> tuple[Header, ...]:
        kept = to_caller(exchange.headers, streaming=streaming)
        pages = running.request.shows_pages
        return self._handles.headers_outward(running.caller, kept, shows_pages=pages)

    def _stream(self, running: _Running, exchange: Exchange | SseAnswer) -> RelayedEvents:
        running.stream = RelayedEvents(
            exchange,
            EventScanner(self.limits.event_bytes),
            rpc_id=running.rpc_id,
            era=running.era,
            trace_id=running.trace_id,
            rename=lambda event: self._handles.event_outward(running.caller, event),
            secrets=running.secrets,
            on_end=lambda: self._running.discard(running),
        )
        return running.stream

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self.limits.look_seconds, self._look)

    def _look(self) -> None:
        """In the modern era who hangs up cancels (2026-07-28, basic/transports, "Cancellation").

        Once there is a stream, its closing tells; a server may be long in beginning one.
        """
        self._looking = None
        for running in self._running:
            if running.era is Era.MODERN and running.stream is None and running.request.gone():
                running.give_up()
        if self._running:
            self._look_later()

    def _given_up(self, running: _Running) -> Forwarded:
        if not running.sent:
            reason = "emergency_stop" if running.cut else "not_forwarded"
            return Forwarded(Fate.NOT_FORWARDED, reason=reason)
        self._cancel_upstream(running, running.rpc_id)
        return Forwarded(Fate.UNKNOWN, reason="emergency_stop" if running.cut else "caller_left")

    def _cancel_upstream(self, running: _Running, rpc_id: str | int | None) -> None:
        """In the modern era closing the stream is the cancellation; before it, a message is."""
        if running.era is Era.MODERN or rpc_id is None:
            return
        # A request without a session is `initialize`, or to a server that would not know it again.
        if value_of(running.request.headers, b"mcp-session-id"):
            params = {"requestId": rpc_id, "reason": "stopped by an operator"}
            body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            self.tell(running.caller, running.request, orjson.dumps(body))

    def tell(self, caller: Caller, request: Request, body: bytes) -> None:
        """POST a message of the gateway's own in the session of a request; once, and later."""
        task = asyncio.create_task(self._say(caller, request, body))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _say(self, caller: Caller, request: Request, body: bytes) -> None:
        session = [header for header in request.headers if header[0] in _OF_A_SESSION]
        deadline = monotonic() + self.limits.connect_seconds
        try:
            route = self.route(caller.server)
            credential = await self.credential(caller.server)
            headers = [*_OF_OUR_MESSAGES, *session, *credential]
            if caller.server.transport == "sse":
                way = Way(caller.server, route, credential)
                await self.converse(way, "POST", headers, body, deadline=deadline)
                return
            head = route.head("POST", headers, len(body))
            await route.client.request(head, body, deadline=deadline, max_body=65536)
        except Http1Error:
            # A server that cannot be told finds out by itself.
            return


def _server_of(running: _Running) -> str:
    return running.caller.server.id


def _unfit(exchange: Exchange | SseAnswer) -> str:
    """Why an answer may not be relayed, by its head alone."""
    status = exchange.status
    if status in (401, 403):
        # It speaks of the gateway's credential; relayed, the agent would go and fetch another.
        return "upstream_auth"
    if 300 <= status < 400:
        return "upstream_error"
    if value_of(exchange.headers, b"content-encoding").lower() not in (b"", b"identity"):
        return "answer_unreadable"
    return ""

"""One session with a server of the HTTP+SSE transport: a stream to listen to, an address to tell.

Source: MCP 2024-11-05, basic/transports, "HTTP with SSE". All answers come on the one stream, so
they are told apart by their ids, and progress by its token.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from urllib.parse import urljoin, urlsplit

import structlog

from gateway.frozen import frozen
from gateway.http1.client import BeforeWrite, Header, Interrupted, NotSent, TooLarge
from gateway.mcp.headers import value_of
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.routes import Exchange, Route, secrets_in
from gateway.mcp.sse import EventScanner, name_of
from gateway.mcp.sse_answers import EVENTS, JSON, Mailbox, SseAnswer
from gateway.values import Json, Server

_HELD = 100
"""Messages that nobody can be given yet; the oldest gives way."""
_PATIENCE = 1.0
"""Seconds until a request that has no answer yet is answered by a stream."""
_NOT_SENT_ON = frozenset({b"mcp-session-id", b"last-event-id"})
_PORTS = {"http": 80, "https": 443}

_Key = tuple[str, str | int]
"""A JSON-RPC id: 1 and "1" are two."""

_log = structlog.get_logger(__name__)


@frozen
class Way:
    """To a server, as whom."""

    server: Server
    route: Route
    credential: tuple[Header, ...]


@frozen
class SessionLimits:
    sessions: int = 256
    """Per server."""
    endpoint_seconds: float = 10.0
    """Until a server has named the address to post to."""
    idle_seconds: float = 600.0
    """Of a session that nothing runs in, and of silence while something does."""
    event_bytes: int = 4 * 1024 * 1024


class SseSession:
    def __init__(self, server: Server, limits: SessionLimits) -> None:
        self.server = server
        self.closed = False
        self.used_at = monotonic()
        self._limits = limits
        self._posts: Route | None = None
        self._secrets: tuple[bytes, ...] = ()
        """Of the stream's own request: a token may have been renewed since."""
        self._open: dict[_Key, Mailbox] = {}
        self._progress: dict[_Key, Mailbox] = {}
        self._listener: Mailbox | None = None
        self._held: deque[bytes] = deque(maxlen=_HELD)
        self._named: asyncio.Future[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def in_use(self) -> bool:
        return bool(self._open) or self._listener is not None

    async def connect(self, way: Way, deadline: float) -> Exchange | None:
        """Open the stream and learn where to post.

        Returns the server's answer when it refuses the credential. Raises `NotSent`: nothing that
        a caller said has left.
        """
        seconds = min(self._limits.endpoint_seconds, deadline - monotonic())
        head = way.route.head("GET", [(b"accept", b"text/event-stream"), *way.credential], None)
        try:
            stream = await way.route.client.open(head, deadline=monotonic() + seconds)
        except Interrupted as fault:
            raise NotSent(f"its event stream broke: {fault.why}") from None
        if stream.status in (401, 403):
            return stream
        _check_stream(stream)
        self._secrets = secrets_in(way.credential)
        self._named = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(stream))
        try:
            async with asyncio.timeout(seconds):
                named = await self._named
        except TimeoutError:
            raise NotSent(
                f"its event stream named no endpoint within {self._limits.endpoint_seconds:g} "
                "seconds"
            ) from None
        target = endpoint_target(way.server.url, named)
        # Of its own, for what is remembered of a head holds the target.
        self._posts = replace(way.route, target=target, _heads={})
        return None

    async def post(
        self,
        headers: list[Header],
        body: bytes,
        message: Mapping[str, Json],
        *,
        deadline: float,
        before_write: BeforeWrite | None,
    ) -> SseAnswer:
        """Send a message, and for a request return its answer. Raises as `Client.request` does."""
        self.used_at = monotonic()
        if "method" not in message or "id" not in message:
            refused = await self._send(headers, body, deadline, before_write)
            return refused or SseAnswer(202)
        key = _key(message["id"])
        if key in self._open:
            raise NotSent("the session has an open request with the same id")
        box = self._open[key] = Mailbox(self._limits.event_bytes)
        token = _token(message)
        if token is not None:
            self._progress[token] = box
        try:
            refused = await self._send(headers, body, deadline, before_write)
            if refused is None:
                await box.wait(_PATIENCE)
                if box.only:
                    refused = SseAnswer(200, (JSON,), await box.next(0))
        except BaseException:
            self._forget(box)
            raise
        if refused is not None:
            self._forget(box)
            return refused
        idle = self._limits.idle_seconds
        return SseAnswer(
            200, (EVENTS,), box=box, idle_seconds=idle, on_close=lambda: self._forget(box)
        )

    def listen(self) -> SseAnswer | None:
        """What is said to nobody in particular; None when somebody listens already."""
        if self._listener is not None:
            return None
        box = self._listener = Mailbox(self._limits.event_bytes)
        while self._held:
            box.put(self._held.popleft())
        idle = self._limits.idle_seconds
        return SseAnswer(
            200, (EVENTS,), box=box, idle_seconds=idle, on_close=lambda: self._forget(box)
        )

    def close(self) -> None:
        """End the stream; to the server that is the session's end."""
        self._end(Interrupted("the session was closed"))
        if self._reading is not None:
            self._reading.cancel()

    async def ended(self) -> None:
        """Return once nothing of the session runs any more."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _send(
        self,
        headers: list[Header],
        body: bytes,
        deadline: float,
        before_write: BeforeWrite | None,
    ) -> SseAnswer | None:
        """POST; return what the server said if it did not take it."""
        if self._posts is None or self.closed:
            raise NotSent("the session's event stream has ended")
        kept = [header for header in headers if header[0] not in _NOT_SENT_ON]
        head = self._posts.head("POST", kept, len(body))

        def last_act() -> None:
            # The answer could not arrive any more.
            if self.closed:
                raise NotSent("the session's event stream has ended")
            if before_write is not None:
                before_write()

        said = await self._posts.client.request(
            head,
            body,
            deadline=deadline,
            max_body=self._limits.event_bytes,
            before_write=last_act,
        )
        if 200 <= said.status < 300:
            return None
        if said.status in (404, 410):
            self.close()
        return SseAnswer(said.status, said.headers, said.body)

    async def _read(self, stream: Exchange) -> None:
        scanner = EventScanner(self._limits.event_bytes)
        fault = Interrupted("the server ended its event stream")
        try:
            async for chunk in stream:
                for event in scanner.feed(chunk):
                    if event.oversize:
                        raise TooLarge("an event is over the limit")
                    if any(secret in event.raw for secret in self._secrets):
                        raise Interrupted("an event tells the gateway's credential")
                    self._hear(name_of(event.raw), event.data)
        except Interrupted as broken:
            fault = broken
        finally:
            stream.close()
            self._end(fault)

    def _end(self, fault: Interrupted) -> None:
        if self.closed:
            return
        self.closed = True
        if self._named is not None and not self._named.done():
            self._named.set_exception(NotSent(f"its event stream broke: {fault.why}"))
        for box in self._open.values():
            box.end(fault)
        if self._listener is not None:
            self._listener.end()

    def _hear(self, name: bytes, data: bytes) -> None:
        assert self._named is not None
        if name == b"endpoint":
            if not self._named.done():
                self._named.set_result(data)
            return
        if not data or name not in (b"", b"message"):
            return
        try:
            message = read_json(data)
        except Unreadable:
            message = None
        if not isinstance(message, dict):
            _log.warning("a server says what cannot be read", server=self.server.id)
        elif "method" in message:
            self._pass_on(message, data)
        elif (box := self._open.pop(_key(message.get("id")), None)) is not None:
            box.put(data)
            box.end()

    def _pass_on(self, message: Mapping[str, Json], data: bytes) -> None:
        """Progress goes where it belongs; the rest to the newest request, or to who listens.

        The transport does not say which request a server's question is about.
        """
        params = message.get("params")
        token = params.get("progressToken") if isinstance(params, dict) else None
        box = self._progress.get(_key(token)) if token is not None else None
        if box is None and message["method"] == "notifications/progress":
            return
        box = box or next(reversed(self._open.values()), None) or self._listener
        if box is None:
            self._held.append(data)
        else:
            box.put(data)

    def _forget(self, box: Mailbox) -> None:
        self.used_at = monotonic()
        self._open = {key: other for key, other in self._open.items() if other is not box}
        self._progress = {key: other for key, other in self._progress.items() if other is not box}
        if self._listener is box:
            self._listener = None


def endpoint_target(url: str, named: bytes) -> str:
    """Path and query to post to. Raises `NotSent` for another origin than the stream's."""
    try:
        parts = urlsplit(urljoin(url, named.decode("ascii")))
        origin = (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme))
    except ValueError:
        raise NotSent("its endpoint is no URL") from None
    own = urlsplit(url)
    ours = (own.scheme, (own.hostname or ""), own.port or _PORTS.get(own.scheme))
    if origin != ours or "@" in parts.netloc:
        raise NotSent("its endpoint is on another origin than its event stream, and is not used")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _check_stream(stream: Exchange) -> None:
    encoding = value_of(stream.headers, b"content-encoding").lower()
    if (
        stream.status != 200
        or stream.content_type != "text/event-stream"
        or encoding not in (b"", b"identity")
    ):
        stream.close()
        raise NotSent(
            f"a GET of its URL is answered by HTTP {stream.status} and no plain event stream, as "
            "the transport sse asks"
        )


def _key(value: Json) -> _Key:
    return (type(value).__name__, value if isinstance(value, str | int) else "")


def _token(message: Mapping[str, Json]) -> _Key | None:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return None if token is None else _key(token)

"""One request to a program, answered as a streamable-HTTP server would: JSON, or events."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

import orjson

from gateway.http1.client import Http1Error, Interrupted, TooLarge
from gateway.mcp.headers import Header
from gateway.values import Json

JSON: Final = (b"content-type", b"application/json")
EVENTS: Final = (b"content-type", b"text/event-stream")


class StdioExchange:
    """A `gateway.mcp.routes.Exchange`. Its head is decided by what comes first, and when."""

    def __init__(
        self,
        on_close: Callable[[], None] = lambda: None,
        *,
        most_bytes: int = 8 * 1024 * 1024,
        idle_seconds: float | None = None,
    ) -> None:
        self.status = 200
        self.headers: tuple[Header, ...] = ()
        self._on_close = on_close
        self._most_bytes = most_bytes
        self._idle_seconds = idle_seconds
        self._queue: deque[bytes] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._complete = False
        self._fault: Http1Error | None = None
        self._closed = False

    @property
    def content_type(self) -> str:
        for name, value in self.headers:
            if name == b"content-type":
                return value.decode()
        return ""

    @property
    def pending(self) -> bool:
        """Whether anything may still come."""
        return not (self._complete or self._closed or self._fault)

    def put(self, message: bytes, *, last: bool = False) -> None:
        """Hand on a message, which must be one line; the last answers the request."""
        if not self.pending:
            return
        self._held += len(message)
        if self._held > self._most_bytes and not last:
            self.fail(Interrupted("the caller does not read its stream"))
            return
        self._queue.append(message)
        self._complete = last
        self._news.set()

    def fail(self, fault: Http1Error) -> None:
        if self.pending:
            self._fault = fault
            self._news.set()

    async def begin(self, seconds: float, *extra: Header) -> None:
        """Decide the head: JSON for an answer that comes alone and soon, otherwise events.

        Raises the fault that came instead.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        if self._fault is not None and not isinstance(self._fault, TooLarge):
            raise self._fault
        whole = self._fault is not None or (self._complete and len(self._queue) == 1)
        self.headers = (JSON if whole else EVENTS, *extra)

    def first(self) -> bytes:
        """The message that came first, which stays to be read; empty if there is none."""
        return self._queue[0] if self._queue else b""

    async def read(self, max_body: int, deadline: float | None = None) -> bytes:
        """The body of an answer that came whole. Raises `TooLarge`."""
        try:
            if self._fault is not None:
                raise self._fault
            body = b"".join(self._queue)
            if len(body) > max_body:
                raise TooLarge("the answer is too large")
            return body
        finally:
            self.close()

    def __aiter__(self) -> "StdioExchange":
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._fault is not None or self._closed:
                raise self._fault or Interrupted("it was closed")
            if self._complete:
                raise StopAsyncIteration
            self._news.clear()
            await self._wait()
        message = self._queue.popleft()
        self._held -= len(message)
        return b"event: message\ndata: " + message + b"\n\n"

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.set()
            self._on_close()

    async def _wait(self) -> None:
        due = None if self._idle_seconds is None else monotonic() + self._idle_seconds
        try:
            async with asyncio.timeout(None if due is None else due - monotonic()):
                await self._news.wait()
        except TimeoutError:
            self.close()
            raise Interrupted("nothing came for too long") from None
        except asyncio.CancelledError:
            self.close()
            raise


def answered(status: int, message: Json = None, *extra: Header) -> StdioExchange:
    """An answer of the gateway's own; without a message its body is empty."""
    exchange = StdioExchange()
    exchange.status = status
    exchange.headers = extra if message is None else (JSON, *extra)
    exchange.put(b"" if message is None else orjson.dumps(message), last=True)
    return exchange


def error(rpc_id: str | int | None, code: int, text: str) -> Json:
    return {"jsonrpc": "2.0", "id": rpc_id, "error": {"code": code, "message": text}}

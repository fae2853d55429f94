"""What a server of the HTTP+SSE transport answers, in the shape of an exchange of its own."""

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.http1.client import Header, Interrupted, TooLarge

JSON: Header = (b"content-type", b"application/json")
EVENTS: Header = (b"content-type", b"text/event-stream")


class Mailbox:
    """Messages that came for one reader, in order, and why there will be no more."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes that may lie here unread."""
        self._limit = limit
        self._messages: deque[bytes] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._over = False
        self._fault: Interrupted | None = None

    @property
    def only(self) -> bool:
        """Whether the last message of all is here, and nothing before it."""
        return self._over and self._fault is None and len(self._messages) == 1

    def put(self, message: bytes) -> None:
        if self._over:
            return
        self._messages.append(message)
        self._size += len(message)
        if self._size > self._limit:
            # Waiting for this reader would keep the session's others waiting too.
            self.end(TooLarge("more was said than was read"))
        self._news.set()

    def end(self, fault: Interrupted | None = None) -> None:
        """No more comes; with a fault, because something broke."""
        if not self._over:
            self._over, self._fault = True, fault
        self._news.set()

    def abandon(self) -> None:
        """Nobody reads any longer; who waits in `next` is told so."""
        self._messages.clear()
        self._over, self._fault = True, Interrupted("given up by the caller")
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Whether within this time a message came, or the end. Raises what broke it."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        if not self._messages and self._fault is not None:
            raise self._fault
        return True

    async def next(self, seconds: float) -> bytes:
        """Raises `StopAsyncIteration` at the end, `Interrupted` after ``seconds`` of silence."""
        if not await self.wait(seconds):
            raise Interrupted("no message in time")
        if not self._messages:
            raise StopAsyncIteration
        message = self._messages.popleft()
        self._size -= len(message)
        if not self._messages and not self._over:
            self._news.clear()
        return message


class SseAnswer:
    """Read as a `gateway.http1.client.Exchange` is: whole, or event by event."""

    def __init__(
        self,
        status: int,
        headers: tuple[Header, ...] = (),
        body: bytes = b"",
        *,
        box: Mailbox | None = None,
        idle_seconds: float = 0.0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._box = box
        self._idle_seconds = idle_seconds
        self._on_close = on_close

    @property
    def content_type(self) -> str:
        return "" if self._box is None else "text/event-stream"

    async def read(self, max_body: int) -> bytes:
        if len(self._body) > max_body:
            raise TooLarge(f"the answer has more than {max_body} bytes")
        return self._body

    def __aiter__(self) -> "SseAnswer":
        return self

    async def __anext__(self) -> bytes:
        if self._box is None:
            raise StopAsyncIteration
        return as_event(await self._box.next(self._idle_seconds))

    def close(self) -> None:
        if self._box is not None:
            self._box.abandon()
        if self._on_close is not None:
            self._on_close()


def as_event(message: bytes) -> bytes:
    lines = b"".join(b"data: %s\n" % line for line in message.split(b"\n"))
    return b"event: message\n" + lines + b"\n"

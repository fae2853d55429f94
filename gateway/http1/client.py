"""The HTTP/1.1 client of the hot path: a pool of connections to one address, nothing ever resent.

It does less than a general client: no redirects, cookies, proxies, decompression or retries. What
it promises is to say which of two things happened when there is no answer: `NotSent` (no byte
left) or `Interrupted` (some byte did).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from math import inf
from time import monotonic

from gateway.frozen import frozen
from gateway.http1.connection import Connection, Until
from gateway.http1.dial import Endpoint, Resolve, TcpAddress, UnixAddress, dial
from gateway.http1.protocol import (
    Header,
    Http1Error,
    Inbox,
    Interrupted,
    InvalidHead,
    NotSent,
    TooLarge,
    build_head,
)

__all__ = [
    "BeforeWrite",
    "Client",
    "Endpoint",
    "Exchange",
    "Header",
    "Http1Error",
    "Interrupted",
    "InvalidHead",
    "NotSent",
    "Resolve",
    "Response",
    "TcpAddress",
    "TooLarge",
    "UnixAddress",
    "build_head",
]

BeforeWrite = Callable[[], None]
"""Called as the last act before the first byte is written; if it raises, nothing is."""


@frozen
class Response:
    """A whole answer. Header names in lower case; the body as sent (see Content-Encoding)."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


class Exchange:
    """An answer whose head has come: `read` it whole, or iterate over it as it comes.

    `close` it unless it was read to its end; to the server that is a cancellation.
    """

    def __init__(
        self,
        client: "Client",
        connection: Connection,
        inbox: Inbox,
        deadline: float,
        idle_seconds: float | None,
    ) -> None:
        self._client = client
        self._connection = connection
        self._inbox = inbox
        self._deadline = deadline
        self._idle_seconds = idle_seconds
        self.status = inbox.status
        self.headers: tuple[Header, ...] = tuple(inbox.headers)

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty if there is none."""
        for name, value in self.headers:
            if name == b"content-type":
                return value.split(b";")[0].strip().decode("latin-1").lower()
        return ""

    async def read(self, max_body: int, deadline: float | None = None) -> bytes:
        """Return the body. ``deadline`` is `time.monotonic()`; None keeps that of `Client.open`.

        Raises `Interrupted`, also when the body has more than ``max_body`` bytes (`TooLarge`).
        """
        inbox = self._inbox
        try:
            inbox.bound(max_body)
            if not inbox.over():
                due = self._deadline if deadline is None else deadline
                await self._connection.wait(Until.END, due)
        finally:
            self.close()
        if inbox.fault is not None:
            raise inbox.fault
        return inbox.take()

    def __aiter__(self) -> "Exchange":
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes as they came. There is no time-out but `idle_seconds`."""
        inbox = self._inbox
        while not inbox.pieces:
            if inbox.fault is not None:
                raise inbox.fault
            if inbox.complete:
                raise StopAsyncIteration
            self._client.uncount(self._connection)
            idle = self._idle_seconds
            try:
                await self._connection.wait(
                    Until.BYTES, inf if idle is None else monotonic() + idle
                )
            except asyncio.CancelledError:
                self.close()
                raise
        self._connection.lull(inbox)
        return inbox.take()

    def close(self) -> None:
        """Close the connection, unless the answer has been received to its end."""
        self._connection.abandon(self._inbox)


class Client:
    """A pool of keep-alive connections to one address, for one credential.

    At most ``max_connections`` at a time; who comes later waits in line. A connection whose
    answer is being streamed is not counted, so that long streams starve nobody: bound them where
    it is known whose they are. Times are seconds; deadlines are `time.monotonic()` values.
    """

    def __init__(
        self,
        address: UnixAddress | TcpAddress,
        *,
        resolve: Resolve | None = None,
        max_connections: int = 64,
        idle_seconds: float = 3.0,
        connect_seconds: float = 5.0,
    ) -> None:
        """Without ``resolve`` the host must be an IP address: nothing here asks DNS unguarded."""
        if isinstance(address, TcpAddress) and resolve is None:
            ip_address(address.host)
        self.address = address
        self.idle_seconds = idle_seconds
        self._resolve = resolve
        self._max_connections = max_connections
        self._connect_seconds = connect_seconds
        self._count = 0
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Connection | NotSent | None]] = deque()
        self._closed = False

    async def request(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        max_body: int,
        before_write: BeforeWrite | None = None,
    ) -> Response:
        """Send a request once and return its whole answer.

        ``head`` comes from `build_head`. Raises `NotSent` or `Interrupted`, and whatever
        ``before_write`` raises. Cancelled, it closes the connection.
        """
        inbox = Inbox(max_body)
        connection = self._idle_one() or await self._acquire(deadline)
        answered = connection.start(head, body, inbox, Until.END, deadline, before_write)
        try:
            if connection.unsent:
                await connection.send_rest(body, inbox)
            await answered
        except asyncio.CancelledError:
            connection.abandon(inbox)
            raise
        if inbox.fault is not None:
            raise inbox.fault
        return Response(inbox.status, tuple(inbox.headers), inbox.take())

    async def open(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        idle_seconds: float | None = None,
        before_write: BeforeWrite | None = None,
    ) -> Exchange:
        """Send a request once and return when its answer's head is there, by ``deadline``.

        Raises as `request` does. ``idle_seconds`` bounds the silence within a streamed body.
        """
        inbox = Inbox(inf)
        connection = self._idle_one() or await self._acquire(deadline)
        begun = connection.start(head, body, inbox, Until.HEAD, deadline, before_write)
        try:
            if connection.unsent:
                await connection.send_rest(body, inbox)
            await begun
        except asyncio.CancelledError:
            connection.abandon(inbox)
            raise
        if not inbox.status and inbox.fault is not None:
            raise inbox.fault
        return Exchange(self, connection, inbox, deadline, idle_seconds)

    def close(self) -> None:
        """Close every connection; who waits for one, or for an answer, gets an error."""
        self._closed = True
        for connection in list(self._all):
            connection.fail(Interrupted("the client was closed"))
        while self._waiters:
            _hand(self._waiters.popleft(), NotSent("the client was closed"))

    # The pool

    def give_back(self, connection: Connection) -> None:
        """Take a clean connection: for who waits, or to keep."""
        if not connection.counted and self._count < self._max_connections:
            self._count += 1
            connection.counted = True
        if self._closed or not connection.counted:
            connection.end()
        elif not self._hand_over(connection):
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has ended, and let the next in line open another."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self.uncount(connection)

    def uncount(self, connection: Connection) -> None:
        """Take a connection out of the limit; who waits may open another."""
        if connection.counted:
            connection.counted = False
            self._free_slot()

    def _free_slot(self) -> None:
        if not self._hand_over(None):
            self._count -= 1

    def _hand_over(self, turn: Connection | None) -> bool:
        """Give a connection, or the right to open one, to the first who still waits."""
        while self._waiters:
            if _hand(self._waiters.popleft(), turn):
                return True
        return False

    def _idle_one(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.end()
        return None

    async def _acquire(self, deadline: float) -> Connection:
        if self._closed:
            raise NotSent("the client is closed")
        if self._count < self._max_connections:
            self._count += 1
        else:
            connection = await self._wait_in_line(deadline)
            if connection is not None:
                if connection.usable():
                    return connection
                # Its place under the limit is now ours.
                connection.counted = False
                connection.end()
        return await self._connect(deadline)

    async def _wait_in_line(self, deadline: float) -> Connection | None:
        """Return a connection, or None: the right to open one."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | NotSent | None] = loop.create_future()
        self._waiters.append(waiter)
        late = NotSent("no connection was free in time")
        timer = loop.call_later(max(0.0, deadline - monotonic()), _hand, waiter, late)
        try:
            turn = await waiter
        except asyncio.CancelledError:
            # Handed over and cancelled in the same turn of the loop: pass it on.
            if not waiter.cancelled():
                self._return_turn(waiter.result())
            raise
        finally:
            timer.cancel()
        if isinstance(turn, NotSent):
            raise turn
        return turn

    def _return_turn(self, turn: Connection | NotSent | None) -> None:
        if isinstance(turn, Connection):
            self.give_back(turn)
        elif turn is None:
            self._free_slot()

    async def _connect(self, deadline: float) -> Connection:
        """Open a connection on a place under the limit that is already taken."""
        joined = False
        try:
            seconds = min(deadline - monotonic(), self._connect_seconds)
            async with asyncio.timeout(seconds):
                connection = await dial(self.address, self._resolve, monotonic() + seconds)
            if self._closed:
                connection.end()
                raise NotSent("the client was closed")
            connection.join(self)
            self._all.add(connection)
            joined = True
            return connection
        except TimeoutError:
            raise NotSent("connecting took too long") from None
        except OSError as error:
            raise NotSent(f"cannot connect: {error}") from error
        finally:
            if not joined:
                self._free_slot()


def _hand(
    waiter: asyncio.Future[Connection | NotSent | None], turn: Connection | NotSent | None
) -> bool:
    if waiter.done():
        return False
    waiter.set_result(turn)
    return True

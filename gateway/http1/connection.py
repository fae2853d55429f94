"""One socket of the hot path's HTTP/1.1 client: a request written once, its answer awaited.

`gateway.http1.client` keeps the pool and is what others import.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from enum import Enum
from math import inf
from ssl import SSLError
from time import monotonic
from typing import Protocol, cast

from gateway.http1.protocol import AnswerReader, Http1Error, Inbox, Interrupted, NotSent

_SLICE = 64 * 1024
_HIGH_WATER = 64 * 1024
# uvloop's timers have a resolution of 1 ms and may ring that much early.
_TIMER_SLACK = 0.002


class Until(Enum):
    """What a reader waits for; the end of the answer always wakes it."""

    HEAD = 1
    BYTES = 2
    END = 3


class Pool(Protocol):
    """Where a connection goes when its exchange is over."""

    idle_seconds: float

    def give_back(self, connection: "Connection") -> None:
        """Take a connection that is clean and open."""

    def forget(self, connection: "Connection") -> None:
        """The connection has ended; said once."""


class Connection(asyncio.Protocol):
    """One exchange at a time. Any doubt about where an answer ends closes the socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._pool: Pool | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = AnswerReader()
        self._inbox: Inbox | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._until = Until.END
        self._drained: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._due = inf
        self.unsent = False
        """Whether `send_rest` has yet to write the body."""
        self.flow = False
        """Whether reading pauses while nobody takes the bytes."""
        self.counted = True
        """Whether the pool's limit counts it; a stream's connection is not counted."""

    def join(self, pool: Pool) -> None:
        """Belong to ``pool``, which from now on hears of this connection's end."""
        self._pool = pool

    # The client's side

    def usable(self) -> bool:
        """Return whether a request may be written: open, not idle too long, nothing unread.

        The loop may not have seen a server's FIN yet. Asking the kernel costs a microsecond and
        spares a call of which nobody could say whether it ran. (`recv` with MSG_PEEK says the same
        by an exception, at six times the cost.)
        """
        transport = self._transport
        if self._ended or transport is None or transport.is_closing() or monotonic() >= self._due:
            return False
        return not self._poll.poll(0)

    def start(
        self,
        head: bytes,
        body: bytes,
        inbox: Inbox,
        until: Until,
        deadline: float,
        before_write: Callable[[], None] | None,
    ) -> asyncio.Future[None]:
        """Write the request and return what wakes at ``until``; look at ``inbox`` then.

        Past ``deadline`` (`time.monotonic()`), or when ``before_write`` raises, nothing is
        written and the connection is back in its pool. Of a body that `unsent` tells of, nothing
        is written yet either: call `send_rest`.
        """
        transport = self._transport
        assert transport is not None
        try:
            if monotonic() >= deadline:
                raise NotSent("the deadline passed before the request was written")
            self.flow = until is Until.HEAD
            self._reader.expect(inbox, head_only=head.startswith(b"HEAD "))
            waiter = self._loop.create_future()
            if before_write is not None:
                before_write()
        except BaseException:
            self._rest()
            raise
        self._inbox, self._waiter, self._until = inbox, waiter, until
        self.unsent = len(body) > _SLICE
        self._set_due(deadline)
        try:
            transport.write(head if self.unsent or not body else head + body)
        except (OSError, RuntimeError) as error:
            self.fail(Interrupted(f"writing failed: {error}"))
        return waiter

    async def send_rest(self, body: bytes, inbox: Inbox) -> None:
        """Write a large body as fast as the server takes it; stop when the answer is over."""
        assert self._transport is not None
        view = memoryview(body)
        for start in range(0, len(view), _SLICE):
            while self._write_paused and not inbox.over():
                self._drained = self._loop.create_future()
                await self._drained
            if inbox.over():
                return
            self._transport.write(view[start : start + _SLICE])
        self.unsent = False

    def wait(self, until: Until, due: float) -> asyncio.Future[None]:
        """Return what wakes at ``until``; the exchange fails at ``due`` (infinite: never)."""
        self._waiter, self._until = self._loop.create_future(), until
        self._set_due(due)
        self.flow = until is not Until.END
        self._resume()
        return self._waiter

    def lull(self, inbox: Inbox) -> None:
        """Nobody waits for the bytes of ``inbox`` now, so nothing is late."""
        if self._inbox is inbox:
            self._set_due(inf)
            self._resume()

    def abandon(self, inbox: Inbox) -> None:
        """End the exchange that fills ``inbox``, if it is still under way, by closing."""
        if self._inbox is inbox:
            self.fail(Interrupted("given up by the caller"))

    def fail(self, fault: Http1Error) -> None:
        """End the exchange under way with ``fault``, and the connection with it."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None and not inbox.over():
            inbox.fault = fault
        self.end()
        self._wake()

    def end(self) -> None:
        """Close the socket at once: what the server sees is its request cancelled."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        if self._pool is not None:
            self._pool.forget(self)

    # The loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        inbox = self._inbox
        if inbox is None:
            # Bytes nobody asked for would be taken for the next request's answer.
            self.end()
            return
        fault = self._reader.feed(data)
        if inbox.complete:
            self._finish()
        elif fault is not None:
            self.fail(fault)
        elif self._until is Until.HEAD:
            if inbox.status:
                self._wake()
        elif self._until is Until.BYTES and inbox.pieces:
            self._wake()
        if self.flow and inbox.buffered > _HIGH_WATER and self._inbox is inbox:
            self._pause()

    def eof_received(self) -> bool:
        inbox = self._inbox
        if inbox is not None and inbox.status and self._reader.until_close and self._ended_well():
            inbox.complete = True
            self._finish()
        else:
            self.fail(Interrupted("closed by the server before the answer was whole"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(Interrupted(f"the connection was lost: {exc or 'closed'}"))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Within

    def _finish(self) -> None:
        """The answer is whole; another may follow on this socket only if both sides are done."""
        assert self._transport is not None
        self._inbox = None
        self._resume()
        self._wake()
        clean = self._reader.keep_alive and not self.unsent and not self._transport.is_closing()
        if clean and self._transport.get_write_buffer_size() == 0:
            self._rest()
        else:
            self.end()

    def _ended_well(self) -> bool:
        """Return whether the server ended the stream: over TLS, anyone on the way can send a FIN.

        asyncio reports a missing close_notify (RFC 8446, section 6.1) as a plain end of file.
        """
        assert self._transport is not None
        tls = self._transport.get_extra_info("ssl_object")
        try:
            return tls is None or tls.read(1) == b""
        except SSLError:
            return False

    def _rest(self) -> None:
        if self._pool is not None:
            self._set_due(monotonic() + self._pool.idle_seconds)
            self._pool.give_back(self)

    def _wake(self) -> None:
        for sleeper in (self._waiter, self._drained if self._inbox is None else None):
            if sleeper is not None and not sleeper.done():
                sleeper.set_result(None)

    def _pause(self) -> None:
        if not self._read_paused and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._read_paused and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()

    def _set_due(self, due: float) -> None:
        """Ring at ``due``. A timer that rings earlier is left alone: it sets itself anew.

        So a busy connection makes a timer once per time-out, not once per request.
        """
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._due > monotonic() + _TIMER_SLACK:
            self._set_due(self._due)
        else:
            self.fail(Interrupted("no whole answer in time"))

"""Bodies on their way: bytes, and an upstream's events."""

from collections.abc import AsyncIterator, Awaitable
from typing import Literal, Protocol

Ended = Literal["", "complete", "broken", "cut", "oversize", "withheld", "closed"]
"""`cut` is an emergency stop's doing; `oversize` an event's that is over the limit,
`withheld` of one that tells the gateway's credential."""


class ByteStream(Protocol):
    """A body on its way; `aclose` ends it early and must be called by whoever iterates it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def __anext__(self) -> Awaitable[bytes]: ...

    async def aclose(self) -> None: ...


class EventStream(ByteStream, Protocol):
    """An upstream's `text/event-stream`, one whole event (to its blank line) an item."""

    @property
    def response(self) -> bytes:
        """The JSON-RPC response to the request that opened the stream, once it has come by."""

    @property
    def data(self) -> bytes:
        """The last item's `data` lines joined, empty for comments."""

    @property
    def ended(self) -> Ended:
        """Why there is no more; empty while it runs."""

"""A stream of events of which not all passes: what listings, questions and responses share."""

from abc import ABC, abstractmethod
from typing import Self

from gateway.flows import Ended, EventStream
from gateway.mcp.sse import data_of, error_event
from gateway.refusals import Refused


class SiftedEvents(ABC):
    """A `gateway.flows.EventStream` over another one, each event of which is looked at."""

    def __init__(self, events: EventStream, rpc_id: str | int | None, trace_id: str = "") -> None:
        """``rpc_id``: the request that is told when the stream must end."""
        self._events = events
        self._rpc_id = rpc_id
        self._trace_id = trace_id
        self._data = b""
        self._over = False

    @property
    def response(self) -> bytes:
        """As the server sent it: what the record commits to."""
        return self._events.response

    @property
    def data(self) -> bytes:
        return self._data

    @property
    def ended(self) -> Ended:
        return self._events.ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._over:
            raw = await self._events.__anext__()
            self._data = self._events.data
            passed = await self._sift(raw)
            if passed:
                return passed
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await self._events.aclose()

    @abstractmethod
    async def _sift(self, raw: bytes) -> bytes:
        """What passes of an event, perhaps nothing; ``_data`` is its data, to be kept true."""

    async def _stop(self, reason: str) -> bytes:
        """The last words of a stream of which nothing more may pass, if somebody waits for any."""
        self._over = True
        await self._events.aclose()
        self._data = b""
        if self._rpc_id is None:
            return b""
        refused = Refused(reason)
        data = told(refused, self._trace_id)
        words = error_event(self._rpc_id, refused.code, refused.message, data)
        self._data = data_of(words)
        return words


def told(refused: Refused, trace_id: str = "") -> dict[str, object]:
    """An error's `data`."""
    data: dict[str, object] = {"reason_code": refused.reason, "retryable": refused.retryable}
    return {**data, "trace_id": trace_id} if trace_id else data

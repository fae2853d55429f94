"""An upstream's stream of events on its way to the caller, and how it ends."""

from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from gateway.flows import Ended
from gateway.http1.client import Interrupted
from gateway.mcp.sse import Event, EventScanner, data_of, error_event, response_in
from gateway.refusals import REASONS
from gateway.values import Era


class Source(Protocol):
    """The exchange below; `close` wakes a waiting read, which then raises `Interrupted`."""

    async def __anext__(self) -> bytes: ...

    def close(self) -> None: ...


class RelayedEvents:
    """A `gateway.values.EventStream` over one exchange.

    Each item is a whole event as it came; so whatever the gateway itself adds, because the stream
    broke or was cut, stands between two events.
    """

    def __init__(
        self,
        source: Source,
        scanner: EventScanner,
        *,
        rpc_id: str | int | None,
        era: Era,
        trace_id: str,
        rename: Callable[[Event], Event],
        secrets: tuple[bytes, ...] = (),
        on_end: Callable[[], None],
    ) -> None:
        """``secrets`` are the gateway's own: an event that tells one ends the stream."""
        self._source = source
        self._secrets = secrets
        self._scanner = scanner
        self._open_id = rpc_id
        self._era = era
        self._trace_id = trace_id
        self._rename = rename
        self._on_end = on_end
        self._queue: deque[Event] = deque()
        self._data = b""
        self._resumable = False
        self._last_words = b""
        self._response = b""
        self._ended: Ended = ""

    @property
    def response(self) -> bytes:
        return self._response

    @property
    def data(self) -> bytes:
        return self._data

    @property
    def ended(self) -> Ended:
        return self._ended

    @property
    def open_id(self) -> str | int | None:
        """The request that still waits for its response on this stream."""
        return self._open_id

    def __aiter__(self) -> "RelayedEvents":
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._ended:
                return self._take_last_words()
            await self._read()
        event = self._queue.popleft()
        if event.oversize or self._tells(event.raw):
            self._refuse_the_rest("oversize" if event.oversize else "withheld")
            return self._take_last_words()
        return self._pass(event)

    async def aclose(self) -> None:
        self._end("closed")

    def cut(self) -> None:
        """End it at once, by an emergency stop: nothing more of the upstream passes."""
        if not self._ended:
            self._queue.clear()
            self._say_why("emergency_stop")
            self._end("cut")

    async def _read(self) -> None:
        try:
            chunk = await self._source.__anext__()
        except StopAsyncIteration:
            # An event that is still unfinished is none (WHATWG HTML, section 9.2.6), and what some
            # reader would take for one after all must not pass unseen.
            self._end("complete")
        except Interrupted:
            # Also how a cut, which closes the exchange under this read, is noticed.
            self._break()
        else:
            if not self._ended:
                self._queue.extend(map(self._rename, self._scanner.feed(chunk)))

    def _pass(self, event: Event) -> bytes:
        self._data = event.data
        self._resumable = self._resumable or event.raw.startswith(b"id") or b"\nid" in event.raw
        if self._open_id is not None and event.data and response_in(event.data, self._open_id):
            self._response = event.data
            self._open_id = None
        return event.raw

    def _tells(self, raw: bytes) -> bool:
        return any(secret in raw for secret in self._secrets)

    def _refuse_the_rest(self, how: Literal["oversize", "withheld"]) -> None:
        """What is too large to be looked at does not pass, and neither does what comes after."""
        if not self._ended:
            self._queue.clear()
            self._say_why("answer_too_large" if how == "oversize" else "answer_withheld")
            self._end(how)

    def _break(self) -> None:
        if self._ended:
            return
        # A client of the legacy era resumes a stream whose events had ids; all others would wait.
        if self._era is Era.MODERN or not self._resumable:
            self._say_why("upstream_error")
        self._end("broken")

    def _say_why(self, reason: str) -> None:
        if self._open_id is None:
            return
        row = REASONS[reason]
        data: dict[str, object] = {"reason_code": reason, "retryable": row.retryable != "no"}
        if self._trace_id:
            data["trace_id"] = self._trace_id
        self._last_words = error_event(self._open_id, row.code, row.message, data)

    def _take_last_words(self) -> bytes:
        words, self._last_words = self._last_words, b""
        self._data = data_of(words)
        if not words:
            raise StopAsyncIteration
        return words

    def _end(self, how: Ended) -> None:
        if not self._ended:
            self._ended = how
            self._source.close()
            self._on_end()

"""A stream of events: none is lost, torn or misread, however it comes in, and memory is bounded."""

from contextlib import suppress

from gateway.http1.protocol import Interrupted
from gateway.mcp.sse import (
    Event,
    EventScanner,
    data_of,
    fields_only,
    response_in,
    with_data,
    without_data,
)
from gateway.mcp.streams import RelayedEvents
from gateway.values import Era

LIMITS = (4 * 1024 * 1024, 16, 64)
SECRET = b"hush"
BOM = b"\xef\xbb\xbf"


def one(data: bytes) -> None:
    """The first byte chooses the limit, the second how the rest is cut."""
    if len(data) < 3:
        return
    limit, size, stream = LIMITS[data[0] % len(LIMITS)], data[1] + 1, data[2:]
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    events, rest = _scan(pieces, limit)
    passed = b"".join(event.raw for event in events) + rest
    assert passed == stream or passed.replace(BOM, b"") == stream.replace(BOM, b"")
    if not any(event.oversize for event in events) and len(stream) <= limit:
        said = [event.data for event in events if event.data]
        assert said == [one for one in _reference(stream) if one]
        assert [e.data for e in _scan([stream], limit)[0] if e.data] == said
    for event in events:
        _check_rewriting(event)
    with suppress(StopIteration):  # it waits for nothing, so that no loop is needed
        _check_relay(pieces, limit).send(None)
        raise AssertionError("it waits")


def _scan(pieces: list[bytes], limit: int) -> tuple[list[Event], bytes]:
    scanner, events = EventScanner(limit), list[Event]()
    for piece in pieces:
        events += scanner.feed(piece)
        assert len(scanner._held) <= max(limit, 3)
    return events, bytes(scanner._held)


def _reference(stream: bytes) -> list[bytes]:
    """WHATWG HTML, section 9.2.6, line by line, over the whole stream; a mark may begin any event,
    since the one that begins the caller's stream may be any.
    """
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found, data, first = list[bytes](), list[bytes](), True
    for line in text.split(b"\n")[:-1]:
        while first and line.startswith(BOM):
            line = line[3:]
        first = not line
        name, _, value = line.partition(b":")
        if not line:
            found.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return found


def _check_rewriting(event: Event) -> None:
    """What the gateway makes of an event says what it should to whoever reads it."""
    if event.oversize:
        return
    assert _reference(with_data(event.raw, b"{}")) == [b"{}"]
    assert data_of(without_data(event.raw)) == b""
    if b":" in event.raw:
        assert _reference(fields_only(event.raw))[-1] == event.data


class _Pieces:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter([*pieces, b""])
        self.closed = False

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            if not piece:
                raise Interrupted("broke")
            return piece
        raise StopAsyncIteration

    def close(self) -> None:
        self.closed = True


async def _check_relay(pieces: list[bytes], limit: int) -> None:
    """A stream that breaks: a secret never passes, and who waits is answered once."""
    source = _Pieces(pieces)
    relayed = RelayedEvents(
        source,
        EventScanner(limit),
        rpc_id=1,
        era=Era.MODERN,
        trace_id="trc",
        rename=lambda event: event,
        secrets=(SECRET,),
        on_end=lambda: None,
    )
    passed = [raw async for raw in relayed]
    assert source.closed
    assert not any(SECRET in raw for raw in passed)
    answers = [raw for raw in passed if response_in(data_of(raw), 1)]
    assert answers
    assert relayed.open_id in (None, 1)

"""Server-sent events, watched as they pass: where each ends and what it says, as it came.

Format: WHATWG HTML, section 9.2.6. Lines end in LF, CRLF or CR, in any mixture; a blank line ends
an event. Nothing here decodes text, so UTF-8 may be split anywhere.
"""

import re

import jiter
import orjson

from gateway.frozen import frozen

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_KEPT = (_FIELDS - {b"data"}) | {b""}
_MARK = b"\xef\xbb\xbf"
_MARKS = re.compile(rb"(?:\r|\n|\xef\xbb\xbf)*\xef\xbb\xbf")
EVENT_LIMIT = 4 * 1024 * 1024
"""Bytes of one event that are held until it is complete, by default."""


@frozen
class Event:
    """One event, or a piece of one that is over the limit."""

    raw: bytes
    """As it came but for a byte order mark before it, with the blank line that ends it: the
    events' `raw` in a row are the stream."""
    data: bytes
    """The `data` lines joined by LF; empty for comments, priming events and oversize pieces."""
    oversize: bool = False


class EventScanner:
    """Cuts a stream into events, holding back only the last, unfinished one.

    An unfinished event is of no use to a client, so holding it delays nothing, and whatever stops
    between two events (a cut, a keep-alive) never tears one apart. An event that grows over
    `limit` bytes is let through in pieces, marked oversize, so memory stays bounded.
    """

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._held = bytearray()
        self._searched = 0
        self._oversize = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes, in order."""
        held = self._held
        held += chunk
        events: list[Event] = []
        start = 0
        # A CR that ends a chunk may belong to a CRLF: the pattern takes the two as one line end,
        # and the LF that arrives alone then merely opens the next event, where it means nothing.
        while (end := _END.search(held, max(start, self._searched))) is not None:
            events.append(self._event(bytes(held[start : end.end()])))
            start = self._searched = end.end()
        del held[:start]
        # The longest end is CRLF CRLF, so at most its first three bytes have been seen.
        self._searched = max(0, len(held) - 3)
        if len(held) > self._limit:
            events.append(self._piece())
        return events

    def _event(self, raw: bytes) -> Event:
        # A mark counts only where a stream begins, and of what passes here a caller's may begin
        # anywhere: its reader would see a field in what was none to whoever inspected it.
        marks = _MARKS.match(raw)
        if marks is not None:
            raw = marks[0].replace(_MARK, b"") + raw[marks.end() :]
        if self._oversize or len(raw) > self._limit:
            self._oversize = False
            return Event(raw, b"", oversize=True)
        return Event(raw, data_of(raw))

    def _piece(self) -> Event:
        # The last bytes stay, for they may be the beginning of the end.
        piece = bytes(self._held[:-3])
        del self._held[:-3]
        self._searched = 0
        self._oversize = True
        return Event(piece, b"", oversize=True)


def data_of(raw: bytes) -> bytes:
    """The `data` of one event, lines joined by LF (section 9.2.6: one leading space is dropped)."""
    if b"data" not in raw:
        return b""
    lines: list[bytes] = []
    for line in _LINE.split(raw):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value[1:] if value.startswith(b" ") else value)
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def name_of(raw: bytes) -> bytes:
    """The event's name: its last `event` field, empty without one."""
    name = b""
    for line in _LINE.split(raw):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value[1:] if value.startswith(b" ") else value
    return name


def with_data(raw: bytes, data: bytes) -> bytes:
    """The event with other data, which must hold no line end; other fields and comments stay."""
    lines = _LINE.split(raw)
    kept = [line for line in lines if line and line.partition(b":")[0] in _KEPT]
    return b"\n".join((*kept, b"data: " + data, b"", b""))


def fields_only(raw: bytes) -> bytes:
    """The event without what its comments say; one of comments alone stays one (a keep-alive)."""
    if b":" not in raw:
        return raw
    lines = _LINE.split(raw)
    kept = [line for line in lines if line and line.partition(b":")[0] in _FIELDS]
    return b"\n".join((*(kept or [b":"]), b"", b""))


def without_data(raw: bytes) -> bytes:
    """What is left of an event whose data may not pass: its id, if it has one."""
    lines = _LINE.split(raw)
    kept = [line for line in lines if line.partition(b":")[0] == b"id"]
    return b"\n".join((*kept, b"", b"")) if kept else b""


def response_in(data: bytes, rpc_id: str | int) -> bool:
    """Whether an event's data is the JSON-RPC response to `rpc_id`, of exactly that type.

    A message with `method` is a request or a notification, whatever else it says. Data that no
    JSON parser reads is no response: a client cannot take it for one either.
    """
    # Most events are progress; their bytes show it without a parse.
    if b'"result"' not in data and b'"error"' not in data and b"\\u" not in data:
        return False
    try:
        message = jiter.from_json(data, float_mode="lossless-float")
    except ValueError:
        return False
    if not isinstance(message, dict) or "method" in message:
        return False
    found = message.get("id")
    return (
        type(found) is type(rpc_id) and found == rpc_id and bool({"result", "error"} & set(message))
    )


def error_event(rpc_id: str | int, code: int, message: str, data: dict[str, object]) -> bytes:
    """An event that answers `rpc_id` with a JSON-RPC error."""
    error = {"code": code, "message": message, "data": data}
    text = orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error})
    return b"event: message\ndata: " + text + b"\n\n"

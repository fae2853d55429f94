"""An answer of HTTP/1.1: what is read of it, `h11` reads too, however it is cut; or it is a fault.

Ours may refuse what `h11` takes, and never the other way round: what a stricter reader would not
take for an answer, or would end elsewhere, is how answers are split and smuggled.
"""

from dataclasses import dataclass

import h11

from gateway.http1.protocol import MAX_HEAD, AnswerReader, Http1Error, Inbox

MAX_BODY = 4096
IN_TRAILERS = (
    *("Only Transfer-Encoding", "multiple Transfer-Encoding", "Transfer-Encoding"),
    *("bad Content-Length", "conflicting Content-Length", "illegal header line"),
)
METHODS = (b"POST", b"GET", b"HEAD")


@dataclass(frozen=True)
class Read:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool
    until_close: bool
    keep_alive: bool


def one(data: bytes) -> None:
    """The first byte chooses the method, the second how the rest is cut."""
    if len(data) < 3:
        return
    method, size, stream = METHODS[data[0] % len(METHODS)], data[1] + 1, data[2:]
    whole = _ours(method, [stream])
    cut = _ours(method, [stream[at : at + size] for at in range(0, len(stream), size)])
    if isinstance(whole, Read) and isinstance(cut, Read):
        assert (whole.status, whole.headers, whole.body, whole.complete) == (
            *(cut.status, cut.headers, cut.body, cut.complete),
        )
    for read in (whole, cut):
        if isinstance(read, Read) and (read.complete or read.until_close):
            _check(method, stream, read)


def _ours(method: bytes, pieces: list[bytes]) -> Read | Http1Error:
    inbox, reader = Inbox(MAX_BODY), AnswerReader()
    reader.expect(inbox, head_only=method == b"HEAD")
    body = b""
    for piece in pieces:
        assert not inbox.complete or piece
        fault = reader.feed(piece)
        body += inbox.take()
        assert len(body) <= MAX_BODY + len(piece)
        if fault is not None:
            assert isinstance(fault, Http1Error)
            if not inbox.complete:
                return fault
        if inbox.complete:
            # Whoever holds the connection closes it when more comes after this.
            rest = b"".join(pieces[pieces.index(piece) + 1 :])
            return _read(inbox, reader, body, reader.keep_alive and not rest)
    assert sum(len(name) + len(value) for name, value in inbox.headers) <= MAX_HEAD
    return _read(inbox, reader, body, reader.keep_alive)


def _read(inbox: Inbox, reader: AnswerReader, body: bytes, keep_alive: bool) -> Read:
    headers = tuple(inbox.headers)
    return Read(inbox.status, headers, body, inbox.complete, reader.until_close, keep_alive)


def _kept(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what frames the body, which `h11` writes anew."""
    return [one for one in headers if one[0] not in (b"content-length", b"transfer-encoding")]


def _check(method: bytes, stream: bytes, read: Read) -> None:
    theirs = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(stream) + 1)
    theirs.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    theirs.send(h11.EndOfMessage())
    theirs.receive_data(stream)
    if read.until_close:
        theirs.receive_data(b"")
    body, response = b"", None
    while True:
        try:
            event = theirs.next_event()
        except h11.RemoteProtocolError as fault:
            # Of a reason phrase and of trailers nothing is kept, so nothing is held to them either.
            unread = "illegal status line" if response is None else IN_TRAILERS
            if not str(fault).startswith(unread):
                raise
            return
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            raise AssertionError(f"h11 sees no end: {read}")
    assert response is not None
    assert response.status_code == read.status
    assert body == read.body
    assert _kept(list(response.headers)) == _kept(list(read.headers))
    if read.keep_alive and not read.until_close:
        # Bytes left over would be read as the next call's answer.
        assert theirs.trailing_data[0] == b""

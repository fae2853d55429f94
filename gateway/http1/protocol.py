"""HTTP/1.1 messages of the hot path: request heads written, answers parsed; no sockets, no clocks.

The parser is llhttp (`httptools`) with every leniency off; what llhttp lets through and RFC 9112
does not is refused here.
"""

import re
from collections.abc import Iterable
from math import inf

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD = 32 * 1024
"""Bytes of one answer's status line and headers, and of its trailers."""
MAX_HEADERS = 128
MAX_DIGITS = 20
"""Of a Content-Length: zeros before it could go on for long, and readers differ about them."""
MAX_INFORMATIONAL = 8
"""How many 1xx answers may come before the real one."""

Header = tuple[bytes, bytes]
"""Name and value; in answers the name is in lower case, the value without outer white space."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_OURS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade"})


class Http1Error(Exception):
    """What went wrong with one exchange; ``why`` says it in a few words.

    ::

        Http1Error
         ├─ NotSent          surely no byte of the request was written
         │   └─ InvalidHead  the request cannot be written as HTTP/1.1
         └─ Interrupted      at least one byte was written, and there is no whole, valid answer
             └─ TooLarge     the answer's body is larger than the caller takes
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class NotSent(Http1Error):
    """No byte of the request left: connect failed, no connection free, deadline before writing."""


class InvalidHead(NotSent):
    """A method, target or header that cannot be written: CR, LF, NUL, not a token."""


class Interrupted(Http1Error):
    """At least one byte left; whether the server acted on it is not known. Never send it again."""


class TooLarge(Interrupted):
    """The answer's body exceeds the caller's bound; the connection was closed."""


def build_head(
    method: str, target: str | bytes, headers: Iterable[Header], body_length: int | None
) -> bytes:
    """Return a whole request head (RFC 9112, sections 3 and 5), ending in the empty line.

    ``headers`` must name ``Host`` exactly once and nothing that frames the message: the length
    comes from ``body_length``, in bytes; None sends no Content-Length (for a GET).

    Raises `InvalidHead`.
    """
    verb = method.encode("ascii", "replace")
    path = target.encode("ascii", "replace") if isinstance(target, str) else target
    if not _TOKEN.fullmatch(verb) or verb == b"CONNECT":
        raise InvalidHead("the method is not one that can be sent")
    # A "?" made by the replacement above would be a valid target, and another one.
    if not _TARGET.fullmatch(path) or (isinstance(target, str) and not target.isascii()):
        raise InvalidHead("the request target is no absolute path in printable ASCII")
    parts = [verb, b" ", path, b" HTTP/1.1\r\n"]
    hosts = 0
    for name, value in headers:
        hosts += _is_host(name, value)
        parts += (name, b": ", value, b"\r\n")
    if hosts != 1:
        raise InvalidHead("the headers must name Host exactly once")
    if body_length is not None:
        parts.append(b"content-length: %d\r\n" % body_length)
    parts.append(b"\r\n")
    return b"".join(parts)


def _is_host(name: bytes, value: bytes) -> bool:
    """Return whether the header is Host; raise if it cannot be sent."""
    if not _TOKEN.fullmatch(name):
        raise InvalidHead("a header's name is not a token")
    lower = name.lower()
    if not _VALUE.fullmatch(value):
        raise InvalidHead(f"the value of header {lower.decode()} holds a forbidden character")
    if lower in _OURS:
        raise InvalidHead(f"header {lower.decode()} belongs to the connection, not to the caller")
    return lower == b"host"


class Inbox:
    """One answer as it arrives; `complete` or a `fault` is its end."""

    __slots__ = (
        "buffered",
        "complete",
        "fault",
        "headers",
        "length",
        "max_body",
        "pieces",
        "status",
    )

    def __init__(self, max_body: float) -> None:
        self.status = 0
        """0 until the final head is whole."""
        self.headers: list[Header] = []
        self.length: int | None = None
        """Content-Length, if there is one."""
        self.pieces: list[bytes] = []
        self.buffered = 0
        """Bytes in `pieces`."""
        self.max_body = max_body
        self.complete = False
        self.fault: Http1Error | None = None

    def over(self) -> bool:
        return self.complete or self.fault is not None

    def bound(self, max_body: float) -> None:
        """Hold the body to ``max_body`` bytes from now on. Raises `TooLarge`."""
        self.max_body = max_body
        if self.buffered > max_body or (self.length is not None and self.length > max_body):
            raise TooLarge(f"the answer has more than {max_body:.0f} bytes")

    def take(self) -> bytes:
        """Return what has arrived of the body and was not taken yet."""
        pieces = self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.pieces = []
        self.buffered = 0
        return body


class AnswerReader:
    """Reads a connection's answers, one `Inbox` each, strictly.

    `keep_alive` says after an answer whether another may follow: false on any doubt. A body that
    ends with the connection is known by `until_close`; its end is the caller's to see.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.expect(Inbox(inf), head_only=False)

    def expect(self, inbox: Inbox, *, head_only: bool) -> None:
        """Put the next answer into ``inbox``; ``head_only`` after a HEAD request."""
        self._inbox = inbox
        self._head_only = head_only
        self._fed = 0
        self._informational = 0
        self._trailers = 0
        self._chunked = False
        self._last = self._tail = b""
        self._why = ""
        self.until_close = False
        self.keep_alive = True

    def feed(self, data: bytes) -> Http1Error | None:
        """Take what arrived. A fault after the answer's end only spoils `keep_alive`."""
        inbox = self._inbox
        # llhttp would skip line ends before the answer, and read RTSP too.
        if self._fed == 0 and inbox.status == 0 and data[0] != 0x48:
            return Interrupted("malformed answer: it does not begin with HTTP/")
        in_head = inbox.status == 0
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except TooLarge as error:
            return error
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keep_alive = False
            if inbox.complete:
                return None
            if isinstance(error.__context__, TooLarge):
                return error.__context__
            return Interrupted(f"malformed answer: {self._why or error}")
        if inbox.complete:
            if data[-1] in b"\r\n" and self._line_ends_follow(data, in_head):
                self.keep_alive = False
            return None
        # Reset by each piece of a body: only heads, trailers and chunk lines count.
        if self._fed > MAX_HEAD:
            return Interrupted("malformed answer: its head or trailers are too large")
        self._tail = (self._tail + data[-5:])[-5:]
        return None

    def _line_ends_follow(self, data: bytes, in_head: bool) -> bool:
        """Whether llhttp skipped some after the end: they are the server's, and of no answer."""
        inbox = self._inbox
        end = self._tail + data[-5:]
        if inbox.length and inbox.status not in (204, 304):
            if not in_head:
                return len(data) > len(self._last)
            end = (self._tail + data)[-inbox.length - 5 : -inbox.length]
        return end[-5:-4] in (b"\r", b"\n") or not end.endswith(b"\r\n\r\n")

    def _refuse(self, why: str) -> None:
        self._why = why
        raise HttpParserError(why)

    # Called by llhttp

    def on_message_begin(self) -> None:
        if self._inbox.complete:
            self._refuse("bytes after its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._inbox.status:
            # A trailer: dropped, never merged into the headers (RFC 9110, section 6.5.1).
            self._trailers += 1
            if self._trailers > MAX_HEADERS:
                self._refuse("too many trailers")
            return
        name = name.lower()
        value = value.strip(b" \t")
        if name == b"content-length":
            if len(value) > MAX_DIGITS:
                self._refuse("a Content-Length of too many digits")
            self._inbox.length = int(value)
        elif name == b"transfer-encoding":
            if self._chunked or value.lower() != b"chunked":
                self._refuse("a Transfer-Encoding other than chunked")
            self._chunked = True
        self._inbox.headers.append((name, value))

    def on_headers_complete(self) -> None:
        inbox, parser = self._inbox, self._parser
        headers = inbox.headers
        status = parser.get_status_code()
        version = parser.get_http_version()
        if len(headers) > MAX_HEADERS or (self._fed > MAX_HEAD and _size(headers) > MAX_HEAD):
            self._refuse("its head is too large")
        if 100 <= status < 200:
            self._skip_informational(status)
            return
        if version not in ("1.1", "1.0") or not 200 <= status < 600:
            self._refuse(f"HTTP/{version} with status {status}")
        self.keep_alive = version == "1.1" and parser.should_keep_alive()
        self._frame(status, version)
        inbox.status = status

    def _skip_informational(self, status: int) -> None:
        self._informational += 1
        if status == 101 or self._informational > MAX_INFORMATIONAL:
            self._refuse("switching protocols" if status == 101 else "too many 1xx answers")
        self._inbox.headers.clear()
        self._inbox.length = None
        self._chunked = False

    def _frame(self, status: int, version: str) -> None:
        """Decide where the body ends (RFC 9112, section 6.3)."""
        inbox = self._inbox
        if self._chunked and version == "1.0":
            self._refuse("Transfer-Encoding in HTTP/1.0")
        if self._head_only:
            # llhttp knows nothing of the request: it would read the next answer as this one's body.
            inbox.complete, self.keep_alive = True, False
        elif status in (204, 304):
            if self._chunked or (status == 204 and inbox.length):
                self.keep_alive = False
        elif inbox.length is not None:
            inbox.bound(inbox.max_body)
        elif not self._chunked:
            self.until_close = True

    def on_body(self, body: bytes) -> None:
        inbox = self._inbox
        if inbox.complete:
            return
        self._fed = 0
        self._last = body
        inbox.pieces.append(body)
        inbox.buffered += len(body)
        if inbox.buffered > inbox.max_body:
            inbox.bound(inbox.max_body)

    def on_message_complete(self) -> None:
        if self._inbox.status:
            self._inbox.complete = True


def _size(headers: list[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)

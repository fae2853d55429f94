"""What is refused before anything is read into a request: hosts, origins, floods, slow heads."""

import asyncio
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import Any, cast

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway.ids import new_id

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PROXY_PATH = "/api/v1/mcp/proxy/"
WHOLE = "gateway.whole"
"""Among the extensions of a scope: `Whole`, of a POST that `EdgeProtocol` read."""
_NO_BODY = frozenset({204, 304})
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header's value may hold (RFC 9110, section 5.5)."""
_WATCHED = frozenset({b"host", b"origin", b"authorization", b"content-length"})
_REMEMBERED = 1024


class Edge:
    """ASGI around the whole application: `Host` and `Origin` checked on every route.

    ``hosts`` are names and addresses in lower case, without port; ``origins`` are whole origins.
    A browser's page may use its own origin; any other must be on the list, which is what stops
    DNS rebinding (2026-07-28, basic/transports, "Security").
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origin.encode() for origin in origins)
        self._good_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fault = self._fault(scope["headers"])
            if fault is not None:
                await _refuse(scope, send, *fault)
                return
        elif scope["type"] != "lifespan":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _fault(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, str, str] | None:
        host = origin = None
        seen: set[bytes] = set()
        for name, value in headers:
            if name in _WATCHED:
                if name in seen:
                    text = name.decode()
                    return 400, "bad_request", f"The header {text} appears more than once."
                seen.add(name)
                if name == b"host":
                    host = value
                elif name == b"origin":
                    origin = value
        if host is None:
            return 400, "bad_request", "The header Host is missing."
        if host not in self._good_hosts and not self._is_ours(host):
            return 421, "wrong_host", "This host is not served here; see GATEWAY_ALLOWED_HOSTS."
        if origin is not None and not self._may_call(origin, host):
            return 403, "wrong_origin", "This origin may not call; see GATEWAY_ALLOWED_ORIGINS."
        return None

    def _is_ours(self, host: bytes) -> bool:
        name = host.decode("latin-1").lower()
        bare, colon, port = name.rpartition(":")
        if colon and not name.endswith("]"):
            if not port.isascii() or not port.isdigit():
                return False
            name = bare
        if name.strip("[]") not in self._hosts:
            return False
        if len(self._good_hosts) < _REMEMBERED:
            self._good_hosts.add(host)
        return True

    def _may_call(self, origin: bytes, host: bytes) -> bool:
        scheme, _, rest = origin.partition(b"://")
        own = scheme in (b"http", b"https") and rest.lower() == host.lower()
        return own or origin in self._origins


async def _refuse(scope: Scope, send: Send, status: int, code: str, message: str) -> None:
    error: dict[str, Any]
    if scope["path"].startswith(PROXY_PATH):
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": message}}
    else:
        request_id = new_id("req")
        error = {"code": code, "message": message, "request_id": request_id, "details": []}
        error = {"error": error}
    body = orjson.dumps(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        # The request's body has not been read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def client_ip(scope: Scope, trusted: Sequence[Network]) -> str:
    """The caller's address: the peer, or what trusted proxies say of it.

    `X-Forwarded-For` is read from the right for as long as the hop that wrote it is trusted; what
    stands further left anyone may have written. Empty when there is no peer (a Unix socket).
    """
    peer: str = scope["client"][0] if scope.get("client") else ""
    if not trusted or not _is_in(peer, trusted):
        return peer
    hops = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    address = peer
    for hop in reversed(hops.decode("latin-1").split(",")):
        found = _address(hop.strip())
        if found is None:
            break
        address = found
        if not _is_in(address, trusted):
            break
    return address


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


def _is_in(text: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


class TokenBuckets:
    """So many calls at once, so many a second, for each key; the least recent are forgotten.

    A forgotten bucket starts full again, so ``capacity`` should exceed the keys in use.
    """

    def __init__(
        self,
        *,
        per_second: float,
        burst: float,
        capacity: int = 10_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._rate = per_second
        self._burst = burst
        self._capacity = capacity
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one token: 0.0 when there was one, else the seconds until there is."""
        # A bucket is known by when it will be full (GCRA): one number, no refilling.
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + 1.0 / self._rate
        late = full_at - now - self._burst / self._rate
        # Half a microtoken of rounding must not refuse the last of a burst.
        if late > 1e-6:
            return late
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)
        return 0.0


def _plain(status: bytes, text: bytes) -> bytes:
    return (
        b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%s" % (status, len(text), text)
    )


_TOO_LARGE = _plain(
    b"431 Request Header Fields Too Large", b"The request's headers are too large.\n"
)
_TOO_SLOW = _plain(b"408 Request Timeout", b"The request's headers took too long to arrive.\n")


_CONTINUE = b"HTTP/1.1 100 "


class _HeadTooLarge(Exception):
    """Raised through llhttp, which then reads no further."""


class HeldHead:
    """A transport for one answer, whose head waits for its body where the head tells the length.

    uvicorn writes them apart: two packets, and a client that is woken for half an answer.
    """

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif not self._begun and not data.startswith(_CONTINUE):
            self._begun = True
            if b"\r\ncontent-length: " in data:
                self._head = data
                return
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Whole:
    """A request and its answer past ASGI's messages, where each is whole, as with most calls.

    What uvicorn does for pieces and chunks, and these need not, is a tenth of a call.
    """

    __slots__ = ("_cycle", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport

    def body(self) -> bytes | None:
        """The request's body, once; None unless all of it is there: then `receive` it."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def gone(self) -> bool:
        """Whether the client has hung up, or has its answer."""
        return self._cycle.disconnected or self._cycle.response_complete

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write it in one piece; False when nothing was written and `send` must do it.

        ``headers`` say neither the body's length nor anything of the connection; else it is False.
        """
        cycle = self._cycle
        if status in _NO_BODY or cycle.response_started or cycle.flow.write_paused or self.gone():
            return False
        lines = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name in _FRAMING or _CONTROL.search(value):
                return False
            lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        cycle.response_started = cycle.response_complete = True
        cycle.expected_content_length = 0
        self._transport.write(b"".join(lines))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()
        return True


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the bounds on a request's head that it lacks.

    Bytes are counted as they come, so that one endless header is noticed too; the time runs from
    a connection's start, later from a head's first byte.
    """

    head_limit = 32 * 1024
    """Bytes; a pipelined head may exceed it by one read."""
    head_seconds = 5.0
    linger_seconds = 0.5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ending = False
        self._in_head = True
        self._begun = False
        self._head_bytes = 0
        self._heads = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()
        if self._ending:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The gateway ends. Who holds this connection for the next call may be sending it now:
        it is answered still, and its answer ends the connection.
        """
        self._ending = True
        if self._answering():
            super().shutdown()
        else:
            self.loop.call_later(self.linger_seconds, super().shutdown)

    def is_last(self) -> None:
        """The gateway ends already, as this connection is made."""
        self._ending = True

    def data_received(self, data: bytes) -> None:
        heads, in_head = self._heads, self._in_head
        if in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            self._disarm()
        elif self._heads == heads and self._head_bytes > self.head_limit:
            self._close_with(_TOO_LARGE)
        else:
            # A request may be whole in one read; what ran was the time of its head.
            if self._heads != heads:
                self._disarm()
            # Line ends between requests count as the beginning of one.
            if self._begun or (in_head and self._heads == heads):
                self._arm()

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        # llhttp leaves the blanks after a value, which are no part of it (RFC 9110, section 5.5).
        value = value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        # The count includes what came of the body in the same read.
        if self._head_bytes > self.head_limit and self._head_size() > self.head_limit:
            raise _HeadTooLarge
        self._in_head = self._begun = False
        self._heads += 1
        before = self.cycle
        super().on_headers_complete()
        if self._ending and self.cycle is not before:
            self.cycle.keep_alive = False
        # Calls are what it is for; and a HEAD's answer is a head that says a length, and no more.
        if self.cycle is not before and self.scope["method"] == "POST":
            extensions: dict[str, Any] = {WHOLE: Whole(self.cycle, self.transport)}
            self.scope["extensions"] = extensions
            self.cycle.transport = cast(asyncio.Transport, HeldHead(self.transport))

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._in_head and self._head_bytes > self.head_limit:
            self._close_with(_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._answering():
            # The connection is in use anyway; the next request may take until it is not.
            self._arm()
        else:
            self._close_with(_TOO_SLOW)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_with(self, answer: bytes) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        # In the middle of an earlier answer there is no place for another.
        if not self._answering():
            self.transport.write(answer)
        self.transport.close()

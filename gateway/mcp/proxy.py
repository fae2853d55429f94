"""The proxy's endpoint: HTTP in and out of the pipeline, streams watched for who leaves.

Plain ASGI, because every tool call passes here: no request object, no middleware.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import orjson
from starlette.types import Message, Receive, Scope, Send

from gateway.edge import WHOLE, Network, Whole, client_ip
from gateway.flows import ByteStream
from gateway.frozen import frozen
from gateway.mcp.headers import doubled
from gateway.values import Answer, Request

_METHODS = frozenset({"POST", "GET", "DELETE"})
_CLOSE = (b"connection", b"close")
_JSON = (b"content-type", b"application/json")
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")
_NO_BODY = frozenset({204, 304})


class Handler(Protocol):
    """The pipeline, seen from the door."""

    async def handle(self, request: Request) -> Answer: ...


@frozen
class BodyLimits:
    """How large a body may be, and how long it may take: longer, the faster it comes."""

    max_bytes: int = 4 * 1024 * 1024
    seconds: float = 10.0
    bytes_per_second: int = 32 * 1024
    """Each second's worth of bytes buys another second."""


@frozen
class _Fault(Exception):
    status: int
    message: str


class _Left(Exception):
    """The client hung up before its request was whole."""


class Proxy:
    """An ASGI application for one route with a `server_id`; ``handler`` answers."""

    def __init__(
        self,
        handler: Handler,
        *,
        trusted_proxies: Sequence[Network] = (),
        limits: BodyLimits | None = None,
        silence_seconds: float = 15.0,
    ) -> None:
        """A stream that is silent for ``silence_seconds`` gets a comment, so that nobody on its
        way takes it for dead.
        """
        self._handler = handler
        self._trusted = tuple(trusted_proxies)
        self._limits = limits or BodyLimits()
        self._silence = silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole: Whole | None = (scope.get("extensions") or {}).get(WHOLE)
        try:
            request = await self._request(scope, receive, whole)
        except _Left:
            return
        except _Fault as fault:
            await _send_whole(_refusal(fault), send)
            return
        answer = await self._handler.handle(request)
        if answer.stream is None:
            if whole is None or not whole.answer(answer.status, answer.headers, answer.body):
                await _send_whole(answer, send)
        else:
            await _send_stream(answer, answer.stream, receive, send, self._silence)

    async def _request(self, scope: Scope, receive: Receive, whole: Whole | None) -> Request:
        method: str = scope["method"]
        headers = tuple(scope["headers"])
        if method not in _METHODS:
            raise _Fault(405, f"The method {method} is not for this address.")
        if method != "POST" and (name := doubled(headers)) is not None:
            raise _Fault(400, f"The header {name.decode('latin-1')} appears more than once.")
        body = None if whole is None else whole.body()
        if body is None:
            body = await self._body(headers, receive)
        elif len(body) > self._limits.max_bytes:
            raise _too_large(self._limits)
        return Request(
            method=method,
            server_id=scope["path_params"]["server_id"],
            headers=headers,
            body=body,
            client_ip=client_ip(scope, self._trusted),
            gone=_asking(receive) if whole is None else whole.gone,
        )

    async def _body(self, headers: tuple[tuple[bytes, bytes], ...], receive: Receive) -> bytes:
        limits = self._limits
        for name, value in headers:
            if name == b"content-length" and int(value) > limits.max_bytes:
                raise _too_large(limits)
        # A small body came with its head and needs no clock.
        message = _at_once(receive)
        if message is not None and not message.get("more_body"):
            body = _part(message)
            if len(body) > limits.max_bytes:
                raise _too_large(limits)
            return body
        try:
            return await self._slow_body(message, receive)
        except TimeoutError:
            raise _Fault(408, "The body took too long to arrive; send it faster.") from None

    async def _slow_body(self, message: Message | None, receive: Receive) -> bytes:
        limits = self._limits
        due = asyncio.get_running_loop().time() + limits.seconds
        parts: list[bytes] = []
        size = 0
        async with asyncio.timeout_at(due) as patience:
            while True:
                if message is None:
                    message = await receive()
                parts.append(_part(message))
                size += len(parts[-1])
                if size > limits.max_bytes:
                    raise _too_large(limits)
                if not message.get("more_body"):
                    return b"".join(parts)
                patience.reschedule(due + size / limits.bytes_per_second)
                message = None


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise _Left
    body: bytes = message.get("body", b"")
    return body


def _too_large(limits: BodyLimits) -> _Fault:
    return _Fault(413, f"The body is larger than {limits.max_bytes} bytes.")


def _at_once(receive: Receive) -> Message | None:
    """What `receive` can tell without waiting: one step of it; if it suspends, it is let go."""
    step = receive()
    assert isinstance(step, Coroutine)
    try:
        step.send(None)
    except StopIteration as told:
        message: Message = told.value
        return message
    step.close()
    return None


def _asking(receive: Receive) -> Callable[[], bool]:
    """Whether the client has hung up: once its body is in, there is nothing else to receive."""

    def gone() -> bool:
        message = _at_once(receive)
        return message is not None and message["type"] == "http.disconnect"

    return gone


async def _send_whole(answer: Answer, send: Send) -> None:
    headers: list[tuple[bytes, bytes]] = list(answer.headers)
    if answer.status not in _NO_BODY:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _send_stream(
    answer: Answer, stream: ByteStream, receive: Receive, send: Send, silence: float
) -> None:
    """Send chunks as they come, each once the client took the one before.

    Whatever ends it — the stream, the client, a shutdown — the stream is closed on return, and so
    is the upstream: in the modern era that is how a client cancels.
    """
    pulse = _Pulse()
    pump = asyncio.create_task(_pump(answer, stream, send, pulse))
    beat = asyncio.create_task(_keep_alive(send, pulse, silence))
    watch = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((pump, watch), return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = pump.done()
        pump.cancel()
        watch.cancel()
        beat.cancel()
        await asyncio.wait((pump, watch, beat))
        await stream.aclose()
    if finished:
        pump.result()


@dataclass(slots=True)
class _Pulse:
    """When something was last sent on a stream, and whether a comment may stand behind it."""

    at: float = 0.0
    between_events: bool = False


async def _pump(answer: Answer, stream: ByteStream, send: Send, pulse: _Pulse) -> None:
    head = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(head)
    pulse.at, pulse.between_events = monotonic(), True
    async for chunk in stream:
        # While this waits for the client, nothing else is to be sent.
        pulse.between_events = False
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        pulse.at, pulse.between_events = monotonic(), chunk.endswith(_EVENT_ENDS)
    pulse.between_events = False
    await send({"type": "http.response.body", "body": b""})


async def _keep_alive(send: Send, pulse: _Pulse, silence: float) -> None:
    """Comments are ignored by every reader of events (WHATWG HTML, section 9.2.6)."""
    while True:
        await asyncio.sleep(silence / 3)
        if pulse.between_events and monotonic() - pulse.at >= silence:
            pulse.at = monotonic()
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(fault: _Fault) -> Answer:
    error = {"code": -32600, "message": fault.message}
    body = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    headers = [_JSON]
    if fault.status == 405:
        headers.append((b"allow", b"POST, GET, DELETE"))
    else:
        # The rest of the body is not wanted.
        headers.append(_CLOSE)
    return Answer(fault.status, tuple(headers), body)

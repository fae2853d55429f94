"""The proxy's endpoint: HTTP in and out of the pipeline, streams watched for who leaves.

Plain ASGI, because every tool call passes here: no request object, no middleware.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
from starlette.types import Message, Receive, Scope, Send

from gateway.edge import Network, client_ip
from gateway.flows import ByteStream
from gateway.mcp.headers import doubled
from gateway.values import Answer, Request

_METHODS = frozenset({"POST", "GET", "DELETE"})
_CLOSE = (b"connection", b"close")
_JSON = (b"content-type", b"application/json")
_NO_BODY = frozenset({204, 304})


class Handler(Protocol):
    """The pipeline, seen from the door."""

    async def handle(self, request: Request) -> Answer: ...


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, and how long it may take: longer, the faster it comes."""

    max_bytes: int = 4 * 1024 * 1024
    seconds: float = 10.0
    bytes_per_second: int = 32 * 1024
    """Each second's worth of bytes buys another second."""


@dataclass(frozen=True, slots=True)
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
    ) -> None:
        self._handler = handler
        self._trusted = tuple(trusted_proxies)
        self._limits = limits or BodyLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await self._request(scope, receive)
        except _Left:
            return
        except _Fault as fault:
            await _send_whole(_refusal(fault), send)
            return
        answer = await self._handler.handle(request)
        if answer.stream is None:
            await _send_whole(answer, send)
        else:
            await _send_stream(answer, answer.stream, receive, send)

    async def _request(self, scope: Scope, receive: Receive) -> Request:
        method: str = scope["method"]
        headers = tuple(scope["headers"])
        if method not in _METHODS:
            raise _Fault(405, f"The method {method} is not for this address.")
        if method != "POST" and (name := doubled(headers)) is not None:
            raise _Fault(400, f"The header {name.decode('latin-1')} appears more than once.")
        body = await self._body(headers, receive)
        return Request(
            method=method,
            server_id=scope["path_params"]["server_id"],
            headers=headers,
            body=body,
            client_ip=client_ip(scope, self._trusted),
            gone=_asking(receive),
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


async def _send_stream(answer: Answer, stream: ByteStream, receive: Receive, send: Send) -> None:
    """Send chunks as they come, each once the client took the one before.

    Whatever ends it — the stream, the client, a shutdown — the stream is closed on return, and so
    is the upstream: in the modern era that is how a client cancels.
    """
    pump = asyncio.create_task(_pump(answer, stream, send))
    watch = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((pump, watch), return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = pump.done()
        pump.cancel()
        watch.cancel()
        await asyncio.wait((pump, watch))
        await stream.aclose()
    if finished:
        pump.result()


async def _pump(answer: Answer, stream: ByteStream, send: Send) -> None:
    head = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(head)
    async for chunk in stream:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


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

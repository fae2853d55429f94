"""Addresses of the hot path's HTTP/1.1 client, and how a connection to one is opened."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ssl import SSLContext
from time import monotonic

from gateway.frozen import frozen
from gateway.http1.connection import Connection

# Bounds only handshakes that nobody waits for any more; the others have the caller's deadline.
_HANDSHAKE_SECONDS = 10.0

Endpoint = tuple[int, str, int]
"""Address family, IP address as text, port."""
Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]
"""Host and port to the endpoints that may be connected to; raises `NotSent` if there is none."""


@frozen
class UnixAddress:
    path: str


@frozen
class TcpAddress:
    """`server_name` is for SNI and the certificate; None takes `host`. No `ssl`: plain HTTP."""

    host: str
    port: int
    server_name: str | None = None
    ssl: SSLContext | None = None


async def dial(
    address: UnixAddress | TcpAddress, resolve: Resolve | None, deadline: float
) -> Connection:
    """Connect to the first endpoint that answers, each with its share of the time.

    Raises `OSError`, and whatever ``resolve`` raises; nothing has been written then.
    """
    if isinstance(address, UnixAddress):
        return await _dial_one(socket.AF_UNIX, address.path, None, "")
    if resolve is None:
        own: int = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        endpoints: Sequence[Endpoint] = [(own, address.host, address.port)]
    else:
        endpoints = await resolve(address.host, address.port)
    name = address.server_name or address.host
    fault: OSError = OSError("the name has no address")
    for left, (family, ip, port) in zip(range(len(endpoints), 0, -1), endpoints, strict=True):
        try:
            async with asyncio.timeout((deadline - monotonic()) / left):
                return await _dial_one(family, (ip, port), address.ssl, name)
        except OSError as error:
            fault = error
    raise fault


async def _dial_one(
    family: int, target: str | tuple[str, int], context: SSLContext | None, name: str
) -> Connection:
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # asyncio loses the socket when this is cancelled at the wrong moment, so it is left to end.
    wrapping = asyncio.ensure_future(_wrap(loop, sock, context, name))
    try:
        return await asyncio.shield(wrapping)
    except asyncio.CancelledError:
        wrapping.add_done_callback(_discard)
        raise


async def _wrap(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, context: SSLContext | None, name: str
) -> Connection:
    if sock.family == socket.AF_UNIX:
        _, connection = await loop.create_unix_connection(lambda: Connection(loop, sock), sock=sock)
    elif context is None:
        _, connection = await loop.create_connection(lambda: Connection(loop, sock), sock=sock)
    else:
        _, connection = await loop.create_connection(
            lambda: Connection(loop, sock),
            sock=sock,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
    return connection


def _discard(wrapping: "asyncio.Task[Connection]") -> None:
    """End a connection that nobody waits for any more."""
    if not wrapping.cancelled() and wrapping.exception() is None:
        wrapping.result().end()

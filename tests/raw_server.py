"""A server that says exactly the bytes a test wants, on a real socket, and a client to it."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from time import monotonic
from typing import cast

from gateway.http1.client import Client, Response, TcpAddress, build_head


class Peer:
    """The server's side of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: "RawServer"
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.server = server

    async def request(self) -> bytes:
        """Return one whole request, body and all; also kept in `RawServer.requests`."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        _, found, length = head.lower().partition(b"content-length: ")
        body = await self.reader.readexactly(int(length.split(b"\r\n")[0])) if found else b""
        self.server.requests.append(head + body)
        self.server.arrived.set()
        return head + body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def at_once(self, act: Callable[[socket.socket], object]) -> None:
        """Do something to the bare socket without giving the loop a turn."""
        fileno = cast(socket.socket, self.writer.get_extra_info("socket")).fileno()
        with socket.socket(fileno=os.dup(fileno)) as sock:
            act(sock)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.at_once(lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger))
        self.writer.transport.abort()


Handler = Callable[[Peer], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; a=b\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class RawServer:
    """What the server saw: `connections` accepted, whole `requests` read."""

    def __init__(self, handler: Handler) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.arrived = asyncio.Event()
        """Set once a whole request was read."""
        self.port = 0
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(Peer(reader, writer, self)))
        self._tasks.add(task)

    async def _serve(self, peer: Peer) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._handler(peer)
        finally:
            peer.writer.close()
            with suppress(OSError):
                await peer.writer.wait_closed()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


@asynccontextmanager
async def raw_server(
    handler: Handler, *, path: str | None = None, ssl: SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve on a Unix socket, or on a free port of 127.0.0.1."""
    server = RawServer(handler)
    if path is not None:
        listener: asyncio.Server = await asyncio.start_unix_server(server.accept, path)
    else:
        listener = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=ssl)
        server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.stop()
        # Handshakes that the client broke off are known to the loop only.
        await turns(20)
        await listener.wait_closed()


def head(length: int | None = 1, method: str = "POST", target: str = "/mcp") -> bytes:
    return build_head(method, target, [(b"host", b"upstream")], length)


async def ask(
    client: Client,
    body: bytes = b"x",
    *,
    seconds: float = 5,
    max_body: int = 1 << 24,
    before_write: Callable[[], None] | None = None,
) -> Response:
    return await client.request(
        head(len(body)),
        body,
        deadline=monotonic() + seconds,
        max_body=max_body,
        before_write=before_write,
    )


async def always_ok(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


def saying(*answers: bytes) -> Handler:
    """A handler that gives one answer to each request of a connection, then closes it."""

    async def handle(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.send(answer)

    return handle


def to(server: RawServer, max_connections: int = 4, idle_seconds: float = 60) -> Client:
    return Client(
        TcpAddress("127.0.0.1", server.port),
        max_connections=max_connections,
        idle_seconds=idle_seconds,
    )


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)

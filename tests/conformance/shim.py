"""A door in front of a server: adds the key that the suite cannot send, and, in tests of the
comparison itself, breaks what a careless proxy would break.

It forwards bytes. A request's head is taken apart only as far as its lines; nothing is unified.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_STAYS = re.compile(rb"(?i)\r\nconnection:[^\r]*")
Lines = list[bytes]
"""A request's head: its first line, then one line for each header."""


@dataclass
class Mutation:
    """What a broken proxy does; as it stands, nothing."""

    drop: str = "^$"
    """Names of request headers that get lost: a pattern."""
    host: bytes | None = None
    refuse: bytes = b"-"
    """The method that is answered with 405."""
    in_body: tuple[bytes, bytes] | None = None
    """A pattern in the bodies of requests, and what is put for it."""
    in_answer: tuple[bytes, bytes] | None = None
    """The same for what comes back, in each piece of it."""
    holds_answers: bool = False
    """Streams are passed on only when they have ended."""
    one_at_a_time: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class Shim:
    """`target` is the URL of the endpoint that stands behind ``/mcp``."""

    target: str
    key: str | None
    mutation: Mutation

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._exchange(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines = head[:-4].split(b"\r\n")
        length = next((int(v) for n, v in map(_split, lines[1:]) if n == "content-length"), 0)
        body = await reader.readexactly(length)
        if lines[0].startswith(self.mutation.refuse):
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        if self.mutation.in_body:
            body = re.sub(*self.mutation.in_body, body)
        if self.mutation.one_at_a_time and lines[0].startswith(b"POST"):
            async with self.mutation.lock:
                await self._forward(self._rewritten(lines, len(body)) + body, reader, writer)
        else:
            await self._forward(self._rewritten(lines, len(body)) + body, reader, writer)

    def _rewritten(self, lines: Lines, length: int) -> bytes:
        method, _, version = lines[0].split(b" ")
        path = (urlsplit(self.target).path or "/").encode()
        kept = [b" ".join((method, path, version)), b"Connection: close"]
        for line in lines[1:]:
            name, _ = _split(line)
            if name in ("connection", "content-length") or re.search(self.mutation.drop, name):
                continue
            if name == "host" and self.mutation.host is not None:
                line = b"Host: " + self.mutation.host
            kept.append(line)
        if method == b"POST":
            kept.append(b"Content-Length: %d" % length)
        if self.key is not None:
            kept.append(b"Authorization: Bearer " + self.key.encode())
        return b"\r\n".join(kept) + b"\r\n\r\n"

    async def _forward(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection for each request, so that its end is the end of the answer."""
        parts = urlsplit(self.target)
        answers, requests = await asyncio.open_connection(parts.hostname, parts.port)
        leaving = asyncio.create_task(_gone(reader))
        try:
            requests.write(request)
            held = b""
            first = True
            while piece := await _or_gone(answers, leaving):
                if first:
                    # Some servers promise to stay, although they were asked not to.
                    piece = _STAYS.sub(b"\r\nConnection: close", piece, count=1)
                    first = False
                if self.mutation.in_answer:
                    piece = re.sub(*self.mutation.in_answer, piece)
                if self.mutation.holds_answers:
                    held += piece
                    continue
                writer.write(piece)
                await writer.drain()
            writer.write(held)
            await writer.drain()
        finally:
            leaving.cancel()
            requests.close()
            writer.close()
        raise ConnectionResetError  # the answer said `Connection: close`


async def _gone(reader: asyncio.StreamReader) -> None:
    """Returns when the client hangs up: it sends one request on each connection."""
    with contextlib.suppress(ConnectionError):
        await reader.read()


async def _or_gone(answers: asyncio.StreamReader, leaving: "asyncio.Task[None]") -> bytes:
    reading = asyncio.create_task(answers.read(1 << 16))
    await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
    if reading.done():
        return reading.result()
    reading.cancel()
    return b""


def _split(line: bytes) -> tuple[str, bytes]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1").lower(), value.strip()


@asynccontextmanager
async def shim(
    target: str, key: str | None = None, mutation: Mutation | None = None
) -> AsyncIterator[str]:
    """Give the URL that the suite is pointed at; its host must be ``localhost``."""
    door = Shim(target, key, mutation or Mutation())
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    try:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()

"""An MCP server that does to a call what the call's own argument says, and remembers every call.

The argument ``object`` begins with the name of a behaviour, as in ``half-17``. As a process of its
own, ``python -m tests.faults.upstream PORT FILE``, it writes each call to a file before it answers.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
TEN_GIGABYTES = 10 * 1024**3
MEGABYTE = b"x" * 1024**2

Message = dict[str, Any]
Behaviour = Callable[["Upstream", Message, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    seen: list[str] = field(default_factory=list)
    """The argument of every call whose request came in whole."""
    elsewhere: list[bytes] = field(default_factory=list)
    """What was posted to any other path, and failed."""
    port: int = 0
    file: int | None = None
    sent: int = 0
    """Bytes of endless answers that somebody took."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Until then `hang` does."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def start(self) -> None:
        """Listen, on the port that it had before if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """As a process that is killed: nobody listens, and every connection is reset."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(_length(head))
                if not head.startswith(b"POST /mcp "):
                    self.elsewhere.append(body)
                    writer.write(b"HTTP/1.1 500 Not here\r\nContent-Length: 0\r\n\r\n")
                    continue
                message = orjson.loads(body)
                name = str(message["params"]["arguments"]["object"])
                self.seen.append(name)
                if self.file is not None:
                    os.write(self.file, name.encode() + b"\n")
                await BEHAVIOURS[name.partition("-")[0]](self, message, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def _length(head: bytes) -> int:
    return next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )


def answer_to(message: Message) -> bytes:
    """A result that repeats what was asked."""
    told = orjson.dumps(message["params"]["arguments"]).decode()
    result = {"content": [{"type": "text", "text": told}]}
    return orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})


async def ok(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    body = answer_to(message)
    writer.write(PLAIN % len(body) + body)


async def fails(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    text = str(message["params"]["arguments"])
    error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32000, "message": text}}
    body = orjson.dumps(error)
    writer.write(PLAIN % len(body) + body)


async def refuses(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    body = answer_to(message)
    writer.write(
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=x\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )


async def hang(upstream: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    await upstream.release.wait()
    await ok(upstream, message, writer)


async def garbage(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 no HTTP at all \xff\xfe" + answer_to(message) + b"\r\n\r\n")


async def text(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    body = b"<html>" + answer_to(message)
    writer.write(PLAIN % len(body) + body)


async def huge(upstream: Upstream, _: Message, writer: asyncio.StreamWriter) -> None:
    """Ten gigabytes, and says so."""
    writer.write(PLAIN % TEN_GIGABYTES)
    await _endless(upstream, writer, MEGABYTE)


async def chunks(upstream: Upstream, _: Message, writer: asyncio.StreamWriter) -> None:
    """Ten gigabytes, and does not say so."""
    writer.write(CHUNKED % b"application/json")
    await _endless(upstream, writer, b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE))


async def event(upstream: Upstream, _: Message, writer: asyncio.StreamWriter) -> None:
    """An event of ten gigabytes."""
    writer.write(CHUNKED % b"text/event-stream" + b"6\r\ndata: \r\n")
    await _endless(upstream, writer, b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE))


async def _endless(upstream: Upstream, writer: asyncio.StreamWriter, piece: bytes) -> None:
    for _piece in range(TEN_GIGABYTES // len(MEGABYTE)):
        writer.write(piece)
        await writer.drain()
        upstream.sent += len(piece)


async def half(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    body = answer_to(message)
    writer.write(PLAIN % len(body) + body[: len(body) // 2])
    writer.close()


async def stream(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    """A stream that ends before it has answered."""
    progress = b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
    writer.write(CHUNKED % b"text/event-stream" + b"%x\r\n%b\r\n" % (len(progress), progress))
    await writer.drain()
    writer.close()


async def drip(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, for ever."""
    writer.write(PLAIN % len(MEGABYTE))
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def reset(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    sock = cast(socket.socket, writer.get_extra_info("socket"))
    linger = struct.pack("ii", 1, 0)
    with socket.socket(fileno=os.dup(sock.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def split(_: Upstream, message: Message, writer: asyncio.StreamWriter) -> None:
    """Two answers to one question: the second is for whoever asks next."""
    body = answer_to(message)
    forged = PLAIN % 20 + b'{"forged": "answer"}'
    writer.write(PLAIN % len(body) + body + forged)


async def flood(upstream: Upstream, _: Message, writer: asyncio.StreamWriter) -> None:
    """Interim answers without an end."""
    with suppress(ConnectionError):
        for _times in range(100_000):
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()


BEHAVIOURS: dict[str, Behaviour] = {
    one.__name__: one
    for one in (
        *(ok, fails, refuses, hang, garbage, text, huge, chunks, event, half, stream),
        *(drip, reset, split, flood),
    )
}


@asynccontextmanager
async def an_upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        upstream.release.set()
        await upstream.die()


async def _main(port: int, file: str) -> None:
    upstream = Upstream(port=port, file=os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    await upstream.start()
    print(upstream.port, flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2]))

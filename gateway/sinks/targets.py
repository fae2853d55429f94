"""Where records can go: standard output, a file, a syslog server (RFC 5424), an HTTPS collector.

A line is the record's own canonical bytes, so whoever has it can hash it: its leaf is
SHA-256(0x00 ‖ line).
"""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from ssl import create_default_context
from typing import Protocol
from urllib.parse import urlsplit

import anyio.to_thread

from gateway.egress.guard import EgressPolicy, EgressRefused, Network, resolve
from gateway.egress.outgoing import Outgoing
from gateway.frozen import frozen
from gateway.http1.client import Http1Error

_CONNECT_SECONDS = 10.0
_SEND_SECONDS = 30.0
_FACILITY = 13
"""Log audit (RFC 5424, table 1)."""
_WARNING, _INFORMATIONAL = 4, 6
_SYSLOG_PORTS = {"syslog+tcp": 601, "syslog+tls": 6514}


class SinkFault(Exception):
    """The target did not take the lines; they are offered again."""


class SinkMisnamed(Exception):
    """What was set is no target; the message says what may be."""


@frozen
class Line:
    """One record."""

    idx: int
    ts: str
    kind: str
    refused: bool
    body: bytes


class Target(Protocol):
    """Takes lines in their order; an exception means that they come again."""

    async def send(self, lines: Sequence[Line]) -> None:
        """Returns once the target has them. Raises `SinkFault`."""

    def close(self) -> None: ...


def target(text: str, private_allowed: tuple[Network, ...], token: str | None) -> Target:
    """The target that a setting names. Raises `SinkMisnamed`."""
    parts = urlsplit(text)
    try:
        match parts.scheme:
            case "" if text == "stdout":
                return StandardOutput()
            case "file" if parts.path and not parts.netloc:
                return File(Path(parts.path))
            case "syslog+tcp" | "syslog+tls" if parts.hostname:
                port = parts.port or _SYSLOG_PORTS[parts.scheme]
                tls = parts.scheme == "syslog+tls"
                return Syslog(parts.hostname, port, private_allowed, tls=tls)
            case "https" | "http":
                return Collector(text, private_allowed, token)
    except (EgressRefused, ValueError) as fault:
        raise SinkMisnamed(f"{text}: {fault}") from None
    raise SinkMisnamed(
        f"{text!r} is no sink; write stdout, file:///path, syslog+tls://host:port, "
        "syslog+tcp://host:port or https://host/path"
    )


class StandardOutput:
    async def send(self, lines: Sequence[Line]) -> None:
        await anyio.to_thread.run_sync(self._write, b"".join(one.body + b"\n" for one in lines))

    def _write(self, text: bytes) -> None:
        try:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        except (OSError, ValueError) as error:
            raise SinkFault(f"standard output cannot be written: {error}") from None

    def close(self) -> None:
        pass


class File:
    """Opened for each batch, so that a rotated file is followed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, lines: Sequence[Line]) -> None:
        await anyio.to_thread.run_sync(self._write, b"".join(one.body + b"\n" for one in lines))

    def _write(self, text: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self._path, flags, 0o600), "ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SinkFault(f"{self._path} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        pass


class Syslog:
    """RFC 5424 messages, framed by octet counting over TCP (RFC 6587) or TLS (RFC 5425).

    The protocol has no acknowledgement: what a server that dies had in its hands may be lost.
    """

    def __init__(
        self, host: str, port: int, private_allowed: tuple[Network, ...], *, tls: bool
    ) -> None:
        self._host = host
        self._port = port
        self._policy = EgressPolicy(bool(private_allowed), private_allowed, private_only=not tls)
        self._tls = create_default_context() if tls else None
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def send(self, lines: Sequence[Line]) -> None:
        text = b"".join(framed(one) for one in lines)
        try:
            writer = await self._connected()
            writer.write(text)
            async with asyncio.timeout(_SEND_SECONDS):
                await writer.drain()
        except (OSError, TimeoutError, Http1Error) as error:
            self.close()
            raise SinkFault(f"{self._host}:{self._port}: {error or 'too slow'}") from None

    async def _connected(self) -> asyncio.StreamWriter:
        if self._reader is not None and self._reader.at_eof():
            self.close()  # the server has hung up: what is written now would be lost
        if self._writer is None:
            [(family, address, port), *_] = await resolve(self._host, self._port, self._policy)
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(
                    address,
                    port,
                    family=family,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._reader = None


def framed(line: Line) -> bytes:
    """``<length> <message>``: the record as the message of an RFC 5424 entry in UTF-8."""
    priority = _FACILITY * 8 + (_WARNING if line.refused else _INFORMATIONAL)
    host = socket.gethostname().encode("ascii", "ignore")[:255] or b"-"
    kind = line.kind.encode()[:32]
    head = b"<%d>1 %s %s policy-gateway %d %s - " % (
        *(priority, line.ts.encode(), host, os.getpid(), kind),
    )
    message = head + line.body
    return b"%d %s" % (len(message), message)


class Collector:
    """NDJSON by POST; any 2xx says that the collector has the batch."""

    def __init__(self, url: str, private_allowed: tuple[Network, ...], token: str | None) -> None:
        authorization = b"Bearer " + token.encode() if token else None
        headers = () if authorization is None else ((b"authorization", authorization),)
        self._url = urlsplit(url).hostname
        self._outgoing = Outgoing(url, private_allowed=private_allowed, headers=headers)

    async def send(self, lines: Sequence[Line]) -> None:
        body = b"".join(one.body + b"\n" for one in lines)
        try:
            answer = await self._outgoing.post(body, "application/x-ndjson")
        except Http1Error as fault:
            raise SinkFault(f"{self._url}: {fault}") from None
        if not 200 <= answer.status < 300:
            raise SinkFault(f"{self._url} answered with HTTP status {answer.status}")

    def close(self) -> None:
        self._outgoing.close()

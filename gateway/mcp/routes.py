"""The way to each server: its pool of connections, and what every request to it begins with."""

import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import field
from typing import Protocol

from gateway.egress.guard import EgressPolicy, Network, check_url, client_for
from gateway.frozen import frozen
from gateway.http1.client import BeforeWrite, NotSent, Response, build_head
from gateway.mcp.headers import Header
from gateway.values import Server, ServerId

_REMEMBERED = 256
_SHORTEST_SECRET = 8


class Exchange(Protocol):
    """An answer whose head has come; see `gateway.http1.client.Exchange`."""

    status: int
    headers: tuple[Header, ...]

    @property
    def content_type(self) -> str: ...

    async def read(self, max_body: int, deadline: float | None = None) -> bytes: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    def close(self) -> None: ...


class Door(Protocol):
    """What sends a request; see `gateway.http1.client.Client`."""

    def open(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        idle_seconds: float | None = None,
        before_write: BeforeWrite | None = None,
    ) -> Awaitable[Exchange]: ...

    async def request(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        deadline: float,
        max_body: int,
        before_write: BeforeWrite | None = None,
    ) -> Response: ...

    def close(self) -> None: ...


@frozen
class Route:
    """Where a server is. `fixed`: Host, the server's own credential, no compression."""

    client: Door
    target: str
    fixed: tuple[Header, ...]
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """What of `fixed` no answer may tell."""
    _heads: dict[tuple[str, tuple[Header, ...]], bytes] = field(default_factory=dict)

    def head(self, method: str, headers: Iterable[Header], body_length: int | None) -> bytes:
        """A request's head. A header that the server's credential uses cannot be set beside it.

        Raises `gateway.http1.client.InvalidHead`.
        """
        fixed = {name.lower() for name, _ in self.fixed}
        asked = (method, tuple([header for header in headers if header[0] not in fixed]))
        # Calls of one client differ in little but their body: checking each header again costs
        # more than anything else that is done to send one.
        start = self._heads.get(asked)
        if start is None:
            start = build_head(method, self.target, (*self.fixed, *asked[1]), None)[:-2]
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[asked] = start
        if body_length is None:
            return start + b"\r\n"
        return b"%scontent-length: %d\r\n\r\n" % (start, body_length)


class Routes:
    """One `Route` per server, made anew when its URL, credential or permission changed."""

    def __init__(
        self,
        *,
        private_allowed: tuple[Network, ...],
        listeners: frozenset[tuple[str, int]],
        connections: int,
        connect_seconds: float,
        tls: ssl.SSLContext | None,
        programs: Callable[[Server], Route] | None = None,
    ) -> None:
        """``programs`` leads to servers of transport `stdio`."""
        self._private_allowed = private_allowed
        self._listeners = listeners
        self._connections = connections
        self._connect_seconds = connect_seconds
        self._tls = tls
        self._programs = programs
        self._known: dict[ServerId, tuple[Server, Route]] = {}

    def to(self, server: Server) -> Route:
        """Raises `gateway.egress.guard.EgressRefused` for a URL that may not be used."""
        known = self._known.get(server.id)
        if known is not None:
            if known[0] is server or _same(known[0], server):
                return known[1]
            self.drop(server.id)
        route = self._open(server)
        self._known[server.id] = (server, route)
        return route

    def drop(self, server_id: ServerId) -> None:
        """Close what leads to a server, with whatever runs on it."""
        known = self._known.pop(server_id, None)
        if known is not None:
            known[1].client.close()

    def close(self) -> None:
        for server_id in list(self._known):
            self.drop(server_id)

    def _open(self, server: Server) -> Route:
        if server.transport == "stdio":
            if self._programs is None:
                raise NotSent("there are no stdio servers here; set GATEWAY_STDIO_SERVERS")
            return self._programs(server)
        private, listeners = server.allow_private_network, self._listeners
        origin = check_url(
            server.url,
            allow_private=private,
            private_allowed=self._private_allowed,
            listeners=listeners,
        )
        client = client_for(
            origin,
            EgressPolicy(private, self._private_allowed, listeners),
            ssl=trust(server, self._whom()) if origin.scheme == "https" else None,
            max_connections=self._connections,
            connect_seconds=self._connect_seconds,
        )
        ours = ((b"host", origin.host_header), (b"accept-encoding", b"identity"))
        credential = server.auth_headers
        return Route(client, origin.target, (*ours, *credential), secrets_in(credential))

    def _whom(self) -> ssl.SSLContext:
        # Not before it is needed: it reads the certificates of all authorities.
        self._tls = self._tls or ssl.create_default_context()
        return self._tls


def secrets_in(credential: Iterable[Header]) -> tuple[bytes, ...]:
    """The secrets in headers such as ``Authorization: Bearer …``; short ones stand everywhere."""
    found: set[bytes] = set()
    for _, value in credential:
        secret = value.rpartition(b" ")[2]
        found.add(secret)
        if value.lower().startswith(b"basic "):
            found.add(base64.b64decode(secret).partition(b":")[2])
    return tuple(secret for secret in found if len(secret) >= _SHORTEST_SECRET)


def trust(server: Server, otherwise: ssl.SSLContext) -> ssl.SSLContext:
    """Whom to believe: the server's own authorities and no others, if it has any."""
    return ssl.create_default_context(cadata=server.tls_ca) if server.tls_ca else otherwise


def _same(old: Server, new: Server) -> bool:
    return (
        old.revision == new.revision
        and old.url == new.url
        and old.transport == new.transport
        and old.auth_headers == new.auth_headers
        and old.allow_private_network == new.allow_private_network
        and old.tls_ca == new.tls_ca
    )

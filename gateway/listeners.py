"""The two sockets: one for agents and administrators, one for management."""

import asyncio
import hmac
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from gateway.edge import EdgeProtocol

GRACE_SECONDS = 10
"""How long running requests may take to end once the gateway is told to."""
IDLE_SECONDS = 95
"""A connection that waits for its next request is kept longer than clients keep theirs (httpx 5 s,
nginx 60, Go 90): whoever ends it first, a request on its way then must not meet the end."""
_BACKLOG = 2048
_MEETING_SECONDS = 1.0
"""How long the end waits for the handshakes of those who came last."""


class PortTaken(Exception):
    """Something else listens there already."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A socket that does not `listen` yet; port 0 takes a free one. Raises `PortTaken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _taken(host, port, setting, error) from None
    sock.setblocking(False)
    return sock


def listen(sock: socket.socket, setting: str) -> None:
    """From here on connections are taken, if only into the queue. Raises `PortTaken`."""
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        raise _taken(*address_of(sock), setting, error) from None


def _taken(host: str, port: int, setting: str, error: OSError) -> PortTaken:
    return PortTaken(
        f"cannot listen on {host} port {port}: {error.strerror}; "
        f"end what uses it, or set {setting} to another port"
    )


class Listener(uvicorn.Server):
    """uvicorn on a socket that is bound already; signals are for whoever runs it."""

    def __init__(
        self, app: ASGIApp, sock: socket.socket, cert: Path | None = None, key: Path | None = None
    ) -> None:
        self.socket = sock
        super().__init__(
            uvicorn.Config(
                app,
                http=EdgeProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                # What a client says of itself is judged in `gateway.edge`.
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
                ssl_certfile=cert,
                ssl_keyfile=key,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_told(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self.socket])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but whoever has connected is answered, too.

        Connections that the system has made and nobody has taken are reset when the socket closes,
        and a request that was sent on one may have been made for all that its sender knows.
        """
        waiting = list(self._taken())
        for server in self.servers:
            server.close()
        if meeting := [asyncio.ensure_future(self._meet(one)) for one in waiting]:
            await asyncio.wait(meeting, timeout=_MEETING_SECONDS)
        await super().shutdown(sockets)

    def _taken(self) -> Iterator[socket.socket]:
        with suppress(OSError):  # when there is no other
            for _ in range(_BACKLOG):
                yield self.socket.accept()[0]

    async def _meet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        with suppress(OSError):  # its client is gone, or speaks no TLS
            await loop.connect_accepted_socket(self._last_protocol, connection, ssl=tls)

    def _last_protocol(self) -> EdgeProtocol:
        protocol = EdgeProtocol(self.config, self.server_state, self.lifespan.state)
        protocol.is_last()
        return protocol


def address_of(sock: socket.socket) -> tuple[str, int]:
    """Host and port that a socket is bound to."""
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def management_token(data_dir: Path) -> str:
    """The management listener's bearer token, made once: `management.token`, mode 600."""
    path = data_dir / "management.token"
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    token = secrets.token_urlsafe(32)
    aside = path.with_suffix(".new")
    aside.touch(mode=0o600)
    aside.write_text(token)
    aside.rename(path)
    return token


def shows_token(authorization: str, token: bytes) -> bool:
    """Whether a header ``Authorization`` bears the token (RFC 6750, section 2.1)."""
    scheme, _, text = authorization.partition(" ")
    given = text.strip().encode()
    # An empty token would be everybody's.
    return scheme.lower() == "bearer" and given != b"" and hmac.compare_digest(given, token)


def url_of(sock: socket.socket, *, secure: bool) -> str:
    """Where this machine reaches the socket: on loopback, if it is bound to every address."""
    host, port = address_of(sock)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"

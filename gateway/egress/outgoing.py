"""One guarded HTTP POST to an address that an operator named: a chain's node, a time-stamp
authority, a log collector. Every connection goes through `gateway.egress.guard`.
"""

from collections.abc import Sequence
from ssl import SSLContext, create_default_context
from time import monotonic

from gateway.egress.guard import EgressPolicy, Network, check_url, client_for
from gateway.http1.client import Client, Header, Response, build_head

MAX_ANSWER = 4 * 1024 * 1024
SECONDS = 10.0


class Outgoing:
    """A URL to post to. Raises `gateway.egress.guard.EgressRefused` when the URL is not allowed.

    A private address is allowed within ``private_allowed`` (`GATEWAY_PRIVATE_UPSTREAMS`), plain
    HTTP likewise. Belongs to one event loop, once it was used.
    """

    def __init__(
        self,
        url: str,
        *,
        private_allowed: tuple[Network, ...],
        headers: Sequence[Header] = (),
        tls: SSLContext | None = None,
        seconds: float = SECONDS,
    ) -> None:
        private = bool(private_allowed)
        self._origin = check_url(url, allow_private=private, private_allowed=private_allowed)
        self._policy = EgressPolicy(private, private_allowed)
        self._headers = ((b"host", self._origin.host_header), *headers)
        self._tls = tls
        self._seconds = seconds
        self._client: Client | None = None

    async def post(self, body: bytes, content_type: str) -> Response:
        """Post once. Raises `gateway.http1.protocol.Http1Error`; `NotSent`: no byte left."""
        if self._client is None:
            secure = self._origin.scheme == "https"
            tls = (self._tls or create_default_context()) if secure else None
            self._client = client_for(self._origin, self._policy, ssl=tls, max_connections=4)
        head = build_head(
            "POST",
            self._origin.target,
            (
                *self._headers,
                (b"content-type", content_type.encode()),
                (b"accept-encoding", b"identity"),
            ),
            len(body),
        )
        return await self._client.request(
            head, body, deadline=monotonic() + self._seconds, max_body=MAX_ANSWER
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

"""The ways out: HTTP through the guard of everything that leaves, and the mail server."""

import asyncio
import base64
import hashlib
import hmac
import smtplib
import ssl
import time
from collections.abc import Callable
from email.message import EmailMessage
from functools import cached_property
from urllib.parse import unquote, urlsplit

from gateway.egress.guard import EgressPolicy, Network, check_url, client_for
from gateway.frozen import frozen
from gateway.http1.client import Http1Error
from gateway.http1.protocol import build_head
from gateway.settings import is_loopback

SECONDS = 10.0
"""For one attempt, from the look-up of the name to the end of the answer."""
_MAX_ANSWER = 64 * 1024


class Undelivered(Exception):
    """The receiver did not take it; the text says why, in words of ours. It may do so later."""


class Gone(Undelivered):
    """The receiver wants no more of it (410)."""


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``webhook-signature`` of Standard Webhooks, with the symmetric scheme ``v1``.

    ``secret`` is ``whsec_`` and base64. https://www.standardwebhooks.com
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


class Web:
    """POSTs JSON. Redirects are not followed, proxies of the environment not used."""

    def __init__(
        self,
        *,
        private_allowed: tuple[Network, ...],
        listeners: frozenset[tuple[str, int]],
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._private_allowed = private_allowed
        self._listeners = listeners
        self._given_tls = tls
        self._now = now

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or ssl.create_default_context()

    async def post(
        self, url: str, body: bytes, *, private: bool, message_id: str, secret: str | None
    ) -> None:
        """Send once; signed where there is a secret. Raises `Undelivered`."""
        try:
            async with asyncio.timeout(SECONDS):
                status = await self._post(url, body, private, message_id, secret)
        except TimeoutError:
            raise Undelivered(f"no answer within {SECONDS:.0f} s") from None
        except Http1Error as fault:
            raise Undelivered(fault.why) from None
        if status == 410:
            raise Gone("the receiver answered 410: it is gone")
        if not 200 <= status < 300:
            raise Undelivered(f"the receiver answered {status}")

    async def _post(
        self, url: str, body: bytes, private: bool, message_id: str, secret: str | None
    ) -> int:
        origin = check_url(
            url,
            allow_private=private,
            private_allowed=self._private_allowed,
            listeners=self._listeners,
        )
        headers = [(b"host", origin.host_header), (b"content-type", b"application/json")]
        if secret is not None:
            # Made for each attempt: a receiver refuses old time stamps, and a replay with them.
            timestamp = int(self._now())
            headers += [
                (b"webhook-id", message_id.encode()),
                (b"webhook-timestamp", b"%d" % timestamp),
                (b"webhook-signature", signature(secret, message_id, timestamp, body).encode()),
            ]
        client = client_for(
            origin,
            EgressPolicy(private, self._private_allowed, self._listeners),
            ssl=self._tls if origin.scheme == "https" else None,
            max_connections=1,
        )
        try:
            head = build_head("POST", origin.target, headers, len(body))
            deadline = time.monotonic() + SECONDS
            answer = await client.request(head, body, deadline=deadline, max_body=_MAX_ANSWER)
        finally:
            client.close()
        return answer.status


@frozen
class Mail:
    """The deployment's mail server: ``smtps://user:password@host`` or ``smtp://…``."""

    url: str
    sender: str

    async def send(self, message: EmailMessage) -> None:
        """Hand the message over. Raises `Undelivered`."""
        try:
            await asyncio.to_thread(self._send, message)
        except (OSError, smtplib.SMTPException) as fault:
            raise Undelivered(f"the mail server did not take it: {type(fault).__name__}") from None

    def _send(self, message: EmailMessage) -> None:
        parts = urlsplit(self.url)
        host, secure = parts.hostname or "", parts.scheme == "smtps"
        port = parts.port or (465 if secure else 587)
        with (
            smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=ssl.create_default_context())
            if secure
            else smtplib.SMTP(host, port, timeout=SECONDS)
        ) as server:
            if not secure and not _is_local(host):
                # Never in clear over a network, whatever the server offers.
                server.starttls(context=ssl.create_default_context())
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)


def _is_local(host: str) -> bool:
    try:
        return is_loopback(host)
    except ValueError:
        return False

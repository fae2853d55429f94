"""The access tokens that the gateway gets for itself, to reach servers that ask for OAuth.

One token a server, in memory; renewed while the old one still holds, once for all who wait. A
token is never taken from a caller and never shown to one.
"""

import asyncio
import base64
import re
import ssl
from dataclasses import field, replace
from time import monotonic
from typing import Final
from urllib.parse import quote_plus, urlencode

import jiter
import structlog

from gateway.egress.guard import EgressPolicy, EgressRefused, Network, check_url, client_for
from gateway.frozen import frozen
from gateway.http1.client import Http1Error, NotSent, build_head
from gateway.mcp.headers import Header
from gateway.mcp.routes import trust
from gateway.oauth import OAuthClient
from gateway.registry import consents
from gateway.registry.consents import Granted
from gateway.registry.core import Actor, Registry
from gateway.registry.faults import Unready
from gateway.values import Json, Server, ServerId

_log = structlog.get_logger(__name__)

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""
_CODE: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,64}")
_LARGEST_ANSWER: Final = 64 * 1024
_ASSUMED_SECONDS: Final = 600
"""For a token whose server does not say how long it holds."""
_LONGEST_SECONDS: Final = 30 * 86_400


class NoToken(NotSent):
    """There is no token; the text says why, and nothing that the other side wrote but its code."""

    def __init__(self, why: str, *, code: str = "") -> None:
        super().__init__(why)
        self.code = code
        """The error of RFC 6749, section 5.2, if that is why."""


@frozen
class _Held:
    server: Server
    header: Header = field(repr=False)
    since: float
    renew_at: float
    ends_at: float

    def serves(self, server: Server) -> bool:
        return self.server.revision == server.revision and self.server.oauth == server.oauth


class Tokens:
    """``private_allowed`` and ``listeners`` as `gateway.egress.guard` has them."""

    def __init__(
        self,
        registry: Registry,
        *,
        private_allowed: tuple[Network, ...] = (),
        listeners: frozenset[tuple[str, int]] = frozenset(),
        seconds: float = 10.0,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``seconds`` bound one request; a failure is told again for ``patience`` seconds."""
        self._registry = registry
        self._private_allowed = private_allowed
        self._listeners = listeners
        self._seconds = seconds
        self._patience = patience
        self._tls = tls
        self._held: dict[ServerId, _Held] = {}
        self._failed: dict[ServerId, tuple[Server, float, NoToken]] = {}
        self._asking: dict[ServerId, tuple[Server, asyncio.Task[_Held]]] = {}

    async def header(self, server: Server) -> tuple[Header, ...]:
        """`Authorization` with a token that holds for some seconds at least. Raises `NoToken`."""
        now = monotonic()
        held = self._held.get(server.id)
        if held is not None and held.serves(server) and now < held.ends_at:
            if now >= held.renew_at and not self._has_failed(server, now):
                self._renewing(server).add_done_callback(_seen)
            return (held.header,)
        if (failed := self._has_failed(server, now)) is not None:
            raise NoToken(failed.why, code=failed.code)
        try:
            # Shielded: who hangs up must not take the token from the others, nor a new refresh
            # token on its way to the disk.
            held = await asyncio.shield(self._renewing(server))
        except NoToken as fault:
            raise NoToken(fault.why, code=fault.code) from None
        return (held.header,)

    def refused(self, server: Server) -> None:
        """The server did not take its token: a later request gets another.

        Not the next one at once: a server that takes none would have one fetched for every call.
        """
        held = self._held.get(server.id)
        if held is not None and monotonic() >= held.since + self._patience:
            self._held[server.id] = replace(held, ends_at=0.0)

    async def close(self) -> None:
        """Let what is being asked for come to its end, since a refresh token may be in it."""
        await asyncio.gather(*(task for _, task in self._asking.values()), return_exceptions=True)

    async def redeem(self, server: Server, code: str, verifier: str, redirect: str) -> Granted:
        """Turn an authorization code into tokens (RFC 6749, 4.1.3; RFC 7636, 4.5).

        Raises `gateway.registry.faults.Unready`.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect}
        try:
            return await self._ask(server, {**form, "code_verifier": verifier})
        except NoToken as fault:
            _log.warning("a consent came to nothing", server=server.id, why=fault.why)
            raise Unready(f"The consent came to nothing: {fault.why}.") from None

    def _has_failed(self, server: Server, now: float) -> NoToken | None:
        known = self._failed.get(server.id)
        if known is None or now >= known[1] or known[0].revision != server.revision:
            return None
        return known[2]

    def _renewing(self, server: Server) -> "asyncio.Task[_Held]":
        known = self._asking.get(server.id)
        if known is not None and known[0].revision == server.revision:
            return known[1]
        task = asyncio.create_task(self._renew(server))
        self._asking[server.id] = (server, task)
        return task

    async def _renew(self, server: Server) -> _Held:
        try:
            held = await self._new(server)
        except NoToken as fault:
            _log.warning("no access token", server=server.id, why=fault.why)
            self._failed[server.id] = (server, monotonic() + self._patience, fault)
            raise
        finally:
            known = self._asking.get(server.id)
            if known is not None and known[0] is server:
                del self._asking[server.id]
        self._failed.pop(server.id, None)
        self._held[server.id] = held
        return held

    async def _new(self, server: Server) -> _Held:
        assert server.oauth is not None
        asked = monotonic()
        if server.oauth.grant == "client_credentials":
            granted = await self._ask(server, {"grant_type": "client_credentials"})
            return _held(server, granted.access_token, asked, granted.seconds)
        kept = await self._kept(server)
        if kept is None:
            raise NoToken("no administrator has consented, or the consent has ended")
        had = self._held.get(server.id)
        known = had is not None and had.header == _bearer(kept.access_token)
        if kept.seconds > 0 and not known:
            # A restart, or a consent that was given a moment ago.
            return _held(server, kept.access_token, asked, kept.seconds)
        if kept.refresh_token is None:
            raise NoToken("the consent has ended; an administrator must consent again")
        return await self._refresh(server, kept.refresh_token)

    async def _kept(self, server: Server) -> consents.Kept | None:
        registry = self._registry
        now = registry.clock.now()
        return await registry.read(lambda c: consents.kept(c, registry.keyring, server, now))

    async def _refresh(self, server: Server, refresh_token: str) -> _Held:
        """RFC 6749, section 6. The old refresh token may be spent by it, so the new one is stored
        before the access token is used."""
        asked = monotonic()
        by = Actor.gateway(server.project_id)
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        try:
            granted = await self._ask(server, form)
        except NoToken as fault:
            if fault.code == "invalid_grant":
                await self._registry.change(by, lambda change: consents.lose(change, server))
            raise
        await self._registry.change(by, lambda change: consents.renew(change, server, granted))
        return _held(server, granted.access_token, asked, granted.seconds)

    async def _ask(self, server: Server, form: dict[str, str]) -> Granted:
        oauth = server.oauth
        assert oauth is not None
        if oauth.scope and form["grant_type"] != "authorization_code":
            form["scope"] = oauth.scope
        if oauth.resource:
            form["resource"] = oauth.resource
        headers, own = _client_auth(oauth)
        status, body = await self._post(server, oauth.token_url, headers, {**form, **own})
        return _granted(status, body)

    async def _post(
        self, server: Server, url: str, headers: list[Header], form: dict[str, str]
    ) -> tuple[int, bytes]:
        private = server.allow_private_network
        try:
            origin = check_url(
                url,
                allow_private=private,
                private_allowed=self._private_allowed,
                listeners=self._listeners,
            )
        except EgressRefused as fault:
            raise NoToken(f"the authorization server may not be asked: {fault.why}") from None
        self._tls = self._tls or ssl.create_default_context()
        client = client_for(
            origin,
            EgressPolicy(private, self._private_allowed, self._listeners),
            ssl=trust(server, self._tls),
        )
        body = urlencode(form).encode()
        fixed = [
            (b"host", origin.host_header),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ]
        head = build_head("POST", origin.target, [*fixed, *headers], len(body))
        try:
            answer = await client.request(
                head, body, deadline=monotonic() + self._seconds, max_body=_LARGEST_ANSWER
            )
        except Http1Error as fault:
            raise NoToken(f"the authorization server did not answer: {fault.why}") from None
        finally:
            client.close()
        return answer.status, answer.body


def _client_auth(oauth: OAuthClient) -> tuple[list[Header], dict[str, str]]:
    """Who asks (RFC 6749, section 2.3.1): headers, and fields of the form."""
    if oauth.client_secret is None:
        return [], {"client_id": oauth.client_id}
    if oauth.client_auth == "post":
        return [], {"client_id": oauth.client_id, "client_secret": oauth.client_secret}
    pair = f"{quote_plus(oauth.client_id)}:{quote_plus(oauth.client_secret)}".encode()
    return [(b"authorization", b"Basic " + base64.b64encode(pair))], {}


def _granted(status: int, body: bytes) -> Granted:
    try:
        answer: Json = jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NoToken(f"the authorization server answered {status} without a JSON object")
    if status != 200:
        code = answer.get("error")
        named = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
        said = f": {named}" if named else ""
        raise NoToken(f"the authorization server refused ({status}{said})", code=named)
    token, kind = answer.get("access_token"), answer.get("token_type")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise NoToken("the authorization server's answer holds no usable access token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NoToken("the authorization server's token is no bearer token")
    refresh, scope = answer.get("refresh_token"), answer.get("scope")
    return Granted(
        access_token=token,
        seconds=_lifetime(answer.get("expires_in")),
        refresh_token=refresh if isinstance(refresh, str) and refresh else None,
        scope=scope if isinstance(scope, str) else None,
    )


def _lifetime(said: Json) -> float:
    if isinstance(said, str) and said.isdecimal() and len(said) < 12:
        said = int(said)  # some servers quote it
    if isinstance(said, bool) or not isinstance(said, int | float) or said <= 0:
        return _ASSUMED_SECONDS
    return float(min(said, _LONGEST_SECONDS))


def _held(server: Server, token: str, since: float, seconds: float) -> _Held:
    """Renewed after four fifths of its time, and not used in its last moments."""
    margin = min(5.0, seconds / 10)
    renew_at, ends_at = since + seconds * 0.8, since + seconds - margin
    return _Held(server, _bearer(token), since, renew_at, ends_at)


def _bearer(token: str) -> Header:
    return (b"authorization", b"Bearer " + token.encode())


def _seen(task: "asyncio.Task[_Held]") -> None:
    if not task.cancelled():
        task.exception()  # it is logged, and the old token still serves

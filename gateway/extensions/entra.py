"""Bearer tokens of Microsoft Entra ID: one tenant's, for us, from the one application.

https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

import jwt
from jwt import PyJWKSet
from jwt.exceptions import PyJWTError

from gateway.egress.guard import EgressPolicy, Network, check_url, client_for
from gateway.frozen import frozen
from gateway.http1.client import Http1Error
from gateway.http1.protocol import build_head
from gateway.registry.platforms import Entra

ALGORITHMS = ["RS256"]
"""What Entra ID signs with; never what a token says of itself."""
LEEWAY_SECONDS = 60
FRESH_SECONDS = 6 * 3600.0
RETRY_SECONDS = 30.0
"""How soon the keys are asked for again because of a token whose key is unknown."""
FETCH_SECONDS = 5.0
_MAX_KEYS = 256 * 1024
_MOST_KNOWN = 1024


class BadToken(Exception):
    """The token is none that is believed here; the text says why, without repeating it."""


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now."""


@dataclass(slots=True)
class _Keys:
    found: dict[str, jwt.PyJWK] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")


@frozen
class _Known:
    """A token that was good: it is until it expires, or its issuer's keys are fetched anew."""

    entra: Entra
    kid: str
    key: jwt.PyJWK
    until: float
    """Seconds since 1970; afterwards it is looked at whole again."""


class EntraTokens:
    """``fetch(url)`` gets a key set; it may raise `OSError`, `Http1Error` or `ValueError`."""

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, _Keys] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._known: dict[bytes, _Known] = {}

    async def verify(self, token: str, entra: Entra) -> None:
        """Return if the token is good. Raises `BadToken`, `KeysUnavailable`."""
        # The platform sends one token for an hour, and its signature costs a quarter of a
        # millisecond each time.
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        good = known is not None and known.entra == entra and time.time() < known.until
        if good and known is not None and await self._key(entra.jwks_url, known.kid) is known.key:
            return
        found = await self._verified(token, entra)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = found

    async def _verified(self, token: str, entra: Entra) -> _Known:
        try:
            header = jwt.get_unverified_header(token)
        except PyJWTError:
            raise BadToken("The token is no JWT.") from None
        kid = header.get("kid")
        if header.get("alg") not in ALGORITHMS or not isinstance(kid, str):
            raise BadToken("The token is not signed with RS256 and a named key.")
        key = await self._key(entra.jwks_url, kid)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=entra.audience,
                issuer=list(entra.issuers),
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "nbf", "iss", "aud"]},
            )
        except PyJWTError as fault:
            raise BadToken(f"The token is not valid here: {type(fault).__name__}.") from None
        if str(claims.get("tid", "")).lower() != entra.tenant_id:
            raise BadToken("The token is another tenant's.")
        if str(claims.get("azp") or claims.get("appid") or "").lower() != entra.app_id:
            raise BadToken("The token is another application's.")
        return _Known(entra, kid, key, float(claims["exp"]))

    async def _key(self, url: str, kid: str) -> jwt.PyJWK:
        keys = self._keys.setdefault(url, _Keys())
        now = self._clock()
        stale = now - keys.fetched_at > FRESH_SECONDS or kid not in keys.found
        if stale and now - keys.tried_at > RETRY_SECONDS:
            await self._renew(url, keys)
        elif url in self._fetching and kid not in keys.found:
            await asyncio.shield(self._fetching[url])
        if kid in keys.found:  # keys that could not be renewed are still the issuer's
            return keys.found[kid]
        if keys.fetched_at == float("-inf"):
            raise KeysUnavailable("The issuer's keys cannot be had.")
        raise BadToken("The token's key is none of the issuer's.")

    async def _renew(self, url: str, keys: _Keys) -> None:
        # A caller whose time is up goes; the keys come all the same, for the next one.
        task = self._fetching.get(url)
        if task is None:
            task = asyncio.create_task(self._fetched(url, keys))
            self._fetching[url] = task
            task.add_done_callback(lambda _: self._fetching.pop(url, None))
        await asyncio.shield(task)

    async def _fetched(self, url: str, keys: _Keys) -> None:
        try:
            found = PyJWKSet.from_json((await self._fetch(url)).decode())
        except (OSError, Http1Error, ValueError, PyJWTError):
            keys.tried_at = self._clock() if keys.found else float("-inf")
            return
        keys.found = {key.key_id: key for key in found.keys if key.key_id}
        keys.fetched_at = keys.tried_at = self._clock()


class KeySets:
    """Fetches key sets, and what leads to them, through the guard of everything that leaves."""

    def __init__(
        self, private_allowed: tuple[Network, ...], listeners: frozenset[tuple[str, int]]
    ) -> None:
        self._policy = EgressPolicy(True, private_allowed, listeners)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def __call__(self, url: str) -> bytes:
        """Raises `ValueError` for any other answer than 200."""
        policy = self._policy
        origin = check_url(
            url,
            allow_private=True,
            private_allowed=policy.private_allowed,
            listeners=policy.listeners,
        )
        secure = origin.scheme == "https"
        client = client_for(origin, policy, ssl=self._tls if secure else None, max_connections=1)
        try:
            head = build_head("GET", origin.target, [(b"host", origin.host_header)], 0)
            deadline = time.monotonic() + FETCH_SECONDS
            answer = await client.request(head, deadline=deadline, max_body=_MAX_KEYS)
        finally:
            client.close()
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}")
        return answer.body

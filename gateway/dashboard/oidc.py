"""An OpenID Connect provider, asked with the authorization code flow and PKCE.

https://openid.net/specs/openid-connect-core-1_0.html, RFC 7636, RFC 9700.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import field
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import anyio
import jiter
import jwt
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

from gateway.egress.guard import Network
from gateway.egress.outgoing import Outgoing
from gateway.extensions.entra import LEEWAY_SECONDS, KeySets
from gateway.frozen import frozen
from gateway.http1.client import Http1Error
from gateway.registry.externals import External
from gateway.settings.oidc import ROLES, OidcSettings
from gateway.values import Json, Role

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
"""Signatures alone: with an HMAC whoever has the client's secret could make people."""
FRESH_SECONDS = 600.0
_FORM = "application/x-www-form-urlencoded"


class NotIdentified(Exception):
    """The provider did not say who it is, or not in a way that is believed; the text says why."""


@frozen
class Metadata:
    """What is used of the discovery document (OpenID Connect Discovery, section 3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    basic: bool
    """The client's secret goes into `Authorization`, else into the form."""
    names_itself: bool
    """Its answers always bear `iss` (RFC 9207)."""


@frozen
class Asked:
    """One sign-in under way; its answer is taken once."""

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    metadata: Metadata


class Provider:
    """The provider of ``settings``, whose issuer is set."""

    def __init__(
        self, settings: OidcSettings, redirect_uri: str, private_allowed: tuple[Network, ...]
    ) -> None:
        assert settings.oidc_issuer is not None
        assert settings.oidc_client_id is not None
        self._issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._private_allowed = private_allowed
        self._get = KeySets(private_allowed, frozenset())
        self._known: tuple[float, Metadata] | None = None

    async def ask(self) -> tuple[Asked, str]:
        """Begin a sign-in: what to keep of it, and where to send the browser. Raises
        `NotIdentified`."""
        metadata = await self._metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._settings.oidc_scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        glue = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        to = metadata.authorization_endpoint + glue + urlencode(query)
        return Asked(state, nonce, verifier, metadata), to

    async def identify(self, asked: Asked, answer: Mapping[str, str]) -> External:
        """Who came back with ``answer``, the query of the redirect. Raises `NotIdentified`."""
        named = answer.get("iss")
        if named != self._issuer and (named is not None or asked.metadata.names_itself):
            raise NotIdentified("The answer is another provider's.")
        if "code" not in answer:
            raise NotIdentified("The identity provider did not let you in.")
        token = await self._redeem(asked, answer["code"])
        claims = await self._claims(asked, token)
        name = claims.get("preferred_username") or claims.get("email") or claims["sub"]
        return External(self._issuer, claims["sub"], str(name), self._role(claims))

    async def _metadata(self) -> Metadata:
        now = time.monotonic()
        if self._known is None or now - self._known[0] > FRESH_SECONDS:
            url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
            self._known = now, self._read(_object(await self._fetch(url)))
        return self._known[1]

    def _read(self, document: Mapping[str, Json]) -> Metadata:
        if document.get("issuer") != self._issuer:
            raise NotIdentified("GATEWAY_OIDC_ISSUER is not what the provider calls itself.")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        authorization, token, keys = endpoints = [str(document.get(name)) for name in names]
        schemes = ("https",) if self._issuer.startswith("https:") else ("https", "http")
        if any(urlsplit(endpoint).scheme not in schemes for endpoint in endpoints):
            raise NotIdentified("The provider's endpoints are none that can be used.")
        methods = document.get("token_endpoint_auth_methods_supported")
        return Metadata(
            authorization,
            token,
            keys,
            basic=not isinstance(methods, list) or "client_secret_basic" in methods,
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
        )

    async def _fetch(self, url: str) -> bytes:
        try:
            return await self._get(url)
        except (Http1Error, OSError, ValueError) as fault:
            raise NotIdentified(f"The identity provider does not answer: {fault}.") from None

    async def _redeem(self, asked: Asked, code: str) -> str:
        """The ID token for a code (RFC 6749, 4.1.3; RFC 7636, 4.5)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": asked.verifier,
        }
        headers = [(b"accept", b"application/json")]
        secret = await self._secret()
        if secret is not None and asked.metadata.basic:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}".encode()
            headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
        else:
            form["client_id"] = self._client_id
            if secret is not None:
                form["client_secret"] = secret
        try:
            endpoint = Outgoing(
                asked.metadata.token_endpoint,
                private_allowed=self._private_allowed,
                headers=headers,
            )
            try:
                answer = await endpoint.post(urlencode(form).encode(), _FORM)
            finally:
                endpoint.close()
        except Http1Error as fault:
            raise NotIdentified(f"The identity provider does not answer: {fault}.") from None
        token = _object(answer.body).get("id_token") if answer.status == 200 else None
        if not isinstance(token, str):
            raise NotIdentified("The identity provider gave no ID token for the code.")
        return token

    async def _secret(self) -> str | None:
        file = self._settings.oidc_client_secret_file
        if file is None:
            return None
        try:
            return (await anyio.Path(file).read_text()).strip()
        except (OSError, ValueError):
            raise NotIdentified("GATEWAY_OIDC_CLIENT_SECRET_FILE cannot be read.") from None

    async def _claims(self, asked: Asked, token: str) -> dict[str, Any]:
        """The token's claims, checked (OpenID Connect Core, section 3.1.3.7)."""
        try:
            claims = jwt.decode(
                token,
                await self._key(asked, token),
                algorithms=ALGORITHMS,
                audience=self._client_id,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "sub", "aud", "exp", "iat", "nonce"]},
            )
        except PyJWTError as fault:
            raise NotIdentified(f"The ID token is not valid: {type(fault).__name__}.") from None
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise NotIdentified("The ID token is another client's.")
        if not hmac.compare_digest(str(claims["nonce"]).encode(), asked.nonce.encode()):
            raise NotIdentified("The ID token is another sign-in's.")
        return dict(claims)

    async def _key(self, asked: Asked, token: str) -> PyJWK:
        # Each time anew: sign-ins are rare, and a key that was taken back must not be believed.
        raw = await self._fetch(asked.metadata.jwks_uri)
        try:
            keys = PyJWKSet.from_json(raw.decode()).keys
        except (ValueError, PyJWTError):
            raise NotIdentified("The identity provider's keys cannot be read.") from None
        signing = [key for key in keys if key.public_key_use in (None, "sig")]
        kid = jwt.get_unverified_header(token).get("kid")
        fitting = [key for key in signing if kid is None or key.key_id == kid]
        if len(fitting) != 1:
            raise NotIdentified("The ID token's key is none of the provider's.")
        return fitting[0]

    def _role(self, claims: Mapping[str, Any]) -> Role:
        said = claims.get(self._settings.oidc_groups_claim)
        groups = said if isinstance(said, list) else [said]
        given = {role for group, role in self._settings.oidc_roles if group in groups}
        for role in ROLES:
            if role in given:
                return role
        raise NotIdentified("None of your groups has a role here; ask an administrator.")


def _object(raw: bytes) -> Mapping[str, Json]:
    try:
        found: Json = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NotIdentified("The identity provider does not answer with a JSON object.")
    return found

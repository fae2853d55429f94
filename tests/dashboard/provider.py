"""An OpenID Connect provider on a port of its own: discovery, keys, codes, ID tokens."""

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving import serving

CLIENT, SECRET = "gateway", "s3cret/%+"
CALLBACK = "https://gateway.example.com/dashboard/sign-in/oidc/back"


@cache
def a_key(_name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Provider:
    """``changes`` replace claims of the next tokens; a claim of None is left out."""

    issuer: str = ""
    named: str | None = None
    """What discovery says the issuer is."""
    kid: str = "one"
    signer: str = "one"
    algorithm: str = "RS256"
    changes: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """What was asked, by the code that answers it."""
    redeemed: list[dict[str, str]] = field(default_factory=list)

    def visit(self, url: str) -> str:
        """Sign in as a browser that follows ``url``; the query that it is sent back with."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert url.startswith(f"{self.issuer}/authorize?")
        assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
        assert (asked["redirect_uri"], asked["code_challenge_method"]) == (CALLBACK, "S256")
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        return f"code={code}&state={asked['state']}"

    async def discovery(self, _request: Request) -> Response:
        document = {
            "issuer": self.named or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return JSONResponse(document)

    async def keys(self, _request: Request) -> Response:
        public = RSAAlgorithm.to_jwk(a_key("one").public_key(), as_dict=True)
        return JSONResponse({"keys": [{**public, "kid": "one", "use": "sig"}]})

    async def token(self, request: Request) -> Response:
        form = {name: each[0] for name, each in parse_qs((await request.body()).decode()).items()}
        self.redeemed.append(form)
        asked = self.codes.pop(form["code"], None)
        secret = base64.b64encode(b"gateway:s3cret%2F%25%2B").decode()
        if asked is None or request.headers["authorization"] != f"Basic {secret}":
            return JSONResponse({"error": "invalid_grant"}, 400)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert challenge == asked["code_challenge"]
        assert form["redirect_uri"] == asked["redirect_uri"]
        id_token = self.signed(asked["nonce"])
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": id_token})

    def signed(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "248289",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "preferred_username": "grace",
            "groups": ["staff", "oncall"],
        } | self.changes
        claims = {name: value for name, value in claims.items() if value is not None}
        key: Any = SECRET * 8 if self.algorithm == "HS256" else a_key(self.signer)
        return jwt.encode(claims, key, self.algorithm, headers={"kid": self.kid})


@asynccontextmanager
async def a_provider() -> AsyncIterator[Provider]:
    it = Provider()
    app = Starlette(
        routes=[
            Route("/realm/.well-known/openid-configuration", it.discovery),
            Route("/realm/keys", it.keys),
            Route("/realm/token", it.token, methods=["POST"]),
        ]
    )
    async with serving(app) as port:
        it.issuer = f"http://127.0.0.1:{port}/realm"
        yield it

"""An OAuth 2.1 authorization server on the test's own loop: PKCE, rotation, RFC 8707."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.serving import serving

CLIENT, SECRET = "gateway/client", "s3cret of the client"


@dataclass
class AuthorizationServer:
    """What it was asked, and how it behaves."""

    port: int = 0
    seconds: int = 3600
    """`expires_in` of the tokens."""
    forms: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    """The Authorization headers, beside the forms."""
    consents: bool = True
    withdrawn: bool = False
    answer: Response | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the token endpoint was asked."""
    gate: asyncio.Event | None = None
    """When there is one, the token endpoint waits for it."""
    _codes: dict[str, tuple[str, str]] = field(default_factory=dict)
    _refresh: str = ""
    _last: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def number(self) -> int:
        self._last += 1
        return self._last

    async def authorize(self, request: Request) -> Response:
        query = request.query_params
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        if not self.consents:
            back = {"error": "access_denied", "state": query["state"]}
        else:
            code = f"code-{self.number()}"
            self._codes[code] = (query["code_challenge"], query["redirect_uri"])
            back = {"code": code, "state": query["state"], "iss": self.url}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(back)}", 302)

    async def token(self, request: Request) -> Response:
        lists = parse_qs((await request.body()).decode(), strict_parsing=True)
        assert all(len(values) == 1 for values in lists.values())
        form = {name: values[0] for name, values in lists.items()}
        self.forms.append(form)
        self.asked.set()
        self.authorizations.append(request.headers.get("authorization", ""))
        if self.gate is not None:
            await self.gate.wait()
        if self.answer is not None:
            return self.answer
        match form["grant_type"]:
            case "authorization_code":
                if not self._right_code(form):
                    return JSONResponse({"error": "invalid_grant"}, 400)
            case "refresh_token":
                if self.withdrawn or form["refresh_token"] != self._refresh:
                    return JSONResponse({"error": "invalid_grant"}, 400)
        return self._granted(refreshable=form["grant_type"] != "client_credentials")

    def _right_code(self, form: dict[str, str]) -> bool:
        challenge, redirect = self._codes.pop(form["code"], ("", ""))
        hashed = hashlib.sha256(form["code_verifier"].encode()).digest()
        shown = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
        return challenge == shown and redirect == form["redirect_uri"]

    def _granted(self, *, refreshable: bool) -> Response:
        number = self.number()
        answer: dict[str, object] = {
            "access_token": f"access-{number}",
            "token_type": "bearer",
            "expires_in": self.seconds,
            "scope": "mcp:tools",
        }
        if refreshable:
            self._refresh = answer["refresh_token"] = f"refresh-{number}"
        return JSONResponse(answer)


@asynccontextmanager
async def authorization_server() -> AsyncIterator[AuthorizationServer]:
    server = AuthorizationServer()
    app = Starlette(
        routes=[
            Route("/authorize", server.authorize),
            Route("/token", server.token, methods=["POST"]),
        ]
    )
    async with serving(app) as port:
        server.port = port
        yield server

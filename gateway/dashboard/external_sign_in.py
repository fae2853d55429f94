"""Signing in at the organisation's identity provider: there, and back."""

import hmac
import time
from math import ceil

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.oidc import Asked, NotIdentified, Provider
from gateway.dashboard.pages import see
from gateway.dashboard.sign_in import next_page, sign_in_page
from gateway.dashboard.visitor import SIGN_IN, cookie_name, cookie_of, put_cookie
from gateway.edge import client_ip
from gateway.frozen import frozen
from gateway.registry import externals
from gateway.registry.core import Actor
from gateway.registry.faults import Conflict, Forbidden

PATH = f"{SIGN_IN}/oidc"
ASKED_SECONDS = 600
MOST_ASKED = 1000
"""Sign-ins under way at once; the oldest are forgotten."""
_COOKIE = "asked"
_log = structlog.get_logger(__name__)


@frozen
class _Pending:
    asked: Asked
    after: str
    until: float


class ExternalSignIn:
    """What is under way is kept in memory: after a restart people begin anew."""

    def __init__(self, context: DashboardContext, provider: Provider) -> None:
        self._context = context
        self._provider = provider
        self._pending: dict[str, _Pending] = {}

    async def leave(self, request: Request) -> Response:
        """Send the browser to the provider."""
        after = next_page(request.query_params.get("next", ""))
        wait = self._context.take(client_ip(request.scope, self._context.trusted_proxies))
        if wait > 0:
            message = f"Too many attempts from this address; wait {ceil(wait)} seconds."
            return sign_in_page(self._context, after, message, 429)
        try:
            asked, to = await self._provider.ask()
        except NotIdentified as fault:
            _log.warning("nobody can sign in at the identity provider", why=str(fault))
            return sign_in_page(self._context, after, str(fault), 503)
        while len(self._pending) >= MOST_ASKED:
            del self._pending[next(iter(self._pending))]
        until = time.monotonic() + ASKED_SECONDS
        self._pending[asked.state] = _Pending(asked, after, until)
        response = RedirectResponse(to, 303)
        # Only the browser that was sent away may come back: a link with somebody else's code
        # would sign its victim in as them. Lax, since it comes back from another site.
        response.set_cookie(
            cookie_name(self._context, _COOKIE),
            asked.state,
            max_age=ASKED_SECONDS,
            path="/",
            secure=self._context.secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def come_back(self, request: Request) -> Response:
        """Take the provider's answer; on success a new session, whatever cookie came along."""
        answer = dict(request.query_params)
        cookie = cookie_of(request, cookie_name(self._context, _COOKIE)) or ""
        pending = None
        if hmac.compare_digest(cookie.encode(), answer.get("state", "").encode()):
            pending = self._pending.pop(cookie, None)
        if pending is None or pending.until <= time.monotonic():
            message = "This sign-in is not under way any more; begin anew."
            return self._refused(next_page(""), message)
        try:
            external = await self._provider.identify(pending.asked, answer)
            token = await self._session(external)
        except (NotIdentified, Conflict, Forbidden) as fault:
            _log.warning("somebody did not sign in at the identity provider", why=str(fault))
            return self._refused(pending.after, str(fault))
        response = see(pending.after)
        put_cookie(self._context, response, token)
        self._forget(response)
        return response

    async def _session(self, external: externals.External) -> str:
        identity, registry = self._context.identity, self._context.registry
        assert identity is not None
        slug = identity.oidc_project
        project_id = await registry.read(lambda c: externals.project_for(c, slug))
        by = Actor.gateway(project_id)
        return await registry.change(by, lambda change: externals.sign_in(change, external))

    def _refused(self, after: str, message: str) -> Response:
        response = sign_in_page(self._context, after, message, 403)
        self._forget(response)
        return response

    def _forget(self, response: Response) -> None:
        name = cookie_name(self._context, _COOKIE)
        response.delete_cookie(
            name, path="/", secure=self._context.secure, httponly=True, samesite="lax"
        )


def external_routes(context: DashboardContext) -> list[Route]:
    """None without a provider."""
    if context.identity is None or context.identity.oidc_issuer is None:
        return []
    redirect_uri = f"{context.api.public_url}{PATH}/back"
    provider = Provider(context.identity, redirect_uri, context.private_allowed)
    pages = ExternalSignIn(context, provider)
    return [Route(PATH, pages.leave), Route(f"{PATH}/back", pages.come_back)]

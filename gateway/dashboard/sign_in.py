"""Signing in and out."""

import re
from math import ceil

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.pages import page, see
from gateway.dashboard.visitor import (
    SIGN_IN,
    drop_cookie,
    form_of,
    put_cookie,
    session_of,
)
from gateway.edge import client_ip
from gateway.registry import sessions, users
from gateway.registry.core import Actor
from gateway.registry.sessions import Session
from gateway.registry.users import MIN_PASSWORD, SignInRefused

_HOME = "/dashboard"
_OWN_PATH = re.compile(r"/dashboard(/[A-Za-z0-9_-]+)*")
_MAX_FIELD = 256


class SignIn:
    """The pages of it; each method answers one route."""

    def __init__(self, context: DashboardContext) -> None:
        self._context = context

    async def show(self, request: Request) -> Response:
        return self._form(next_page(request.query_params.get("next", "")))

    async def enter(self, request: Request) -> Response:
        """Check the password; on success a new session, whatever cookie came along."""
        fields = await form_of(request, None)
        after = next_page(fields.get("next", ""))
        wait = self._context.take(client_ip(request.scope, self._context.trusted_proxies))
        if wait > 0:
            message = f"Too many attempts from this address; wait {ceil(wait)} seconds."
            return self._form(after, message, 429)
        name, password = fields.get("name", ""), fields.get("password", "")
        project = fields.get("project", "").strip() or None
        if max(len(name), len(password), len(project or "")) > _MAX_FIELD:
            return self._form(after, str(SignInRefused()), 403)
        registry = self._context.registry
        try:
            user = await users.authenticate(registry, name, password, project)
        except SignInRefused as refused:
            return self._form(after, str(refused), 403)
        by = Actor.of_user(user)
        token = await registry.change(by, lambda change: sessions.open(change, user))
        response = see(after)
        put_cookie(self._context, response, token)
        return response

    async def leave(self, request: Request) -> Response:
        session = await session_of(self._context, request)
        await form_of(request, session)
        by = Actor.of_user(session.user)
        await self._context.registry.change(by, lambda change: sessions.close(change, session))
        response = see(SIGN_IN)
        drop_cookie(self._context, response)
        return response

    async def password_form(self, request: Request) -> Response:
        session = await self._with_password(request)
        return page("password.html", csrf=session.csrf, message="")

    async def change_password(self, request: Request) -> Response:
        session = await self._with_password(request)
        fields = await form_of(request, session)
        old, new = fields.get("old", ""), fields.get("new", "")
        if not MIN_PASSWORD <= len(new) <= _MAX_FIELD:
            message = f"A password has {MIN_PASSWORD} characters at least."
            return page("password.html", 400, csrf=session.csrf, message=message)
        try:
            await users.change_password(self._context.registry, session.user, old, new)
        except SignInRefused as refused:
            return page("password.html", 403, csrf=session.csrf, message=str(refused))
        response = see(SIGN_IN)
        drop_cookie(self._context, response)
        return response

    async def _with_password(self, request: Request) -> Session:
        session = await session_of(self._context, request)
        if not session.user.has_password:
            raise HTTPException(404, "You sign in at an identity provider; it has your password.")
        return session

    def _form(self, after: str, message: str = "", status: int = 200) -> Response:
        return sign_in_page(self._context, after, message, status)


def sign_in_page(context: DashboardContext, after: str, message: str, status: int) -> Response:
    external = context.identity is not None and context.identity.oidc_issuer is not None
    return page("sign_in.html", status, after=after, message=message, external=external)


def next_page(path: str) -> str:
    """Where to go after signing in: a page of this dashboard, never another site."""
    if path and not _OWN_PATH.fullmatch(path):
        raise HTTPException(400, "`next` must be a page of this dashboard.")
    return path or _HOME

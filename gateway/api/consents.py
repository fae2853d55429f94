"""`/mcp/servers/{id}/consent`: an administrator lets the gateway use a server in their name, once.

The API answers where to consent; the browser comes back to the callback, which no key protects:
what it brings counts once, for ten minutes, for the server and person that it was made for. What
it brought must then be approved, by activating the server.
"""

import re
from typing import Any

import structlog
from sqlalchemy import Connection, Row
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.api.call import ApiCall
from gateway.api.context import ApiContext
from gateway.api.models import Output
from gateway.registry import consents
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Fault, Forbidden
from gateway.values import ProjectId, Server, ServerId

CALLBACK = "/mcp/oauth/callback"
_CODE = re.compile(r"[\x20-\x7e]{1,4096}")
_log = structlog.get_logger(__name__)


class ConsentOut(Output):
    """How a consent stands; its tokens are never shown."""

    server_id: str
    state: str
    """`PENDING`, `GRANTED`, or `LOST` when the authorization server honours it no longer."""
    asked_by: str
    asked_until: str
    granted_at: str | None
    expires_at: str | None
    """When the access token ends; the gateway renews it before."""
    scope: str | None


class AskedOut(ConsentOut):
    """Open `authorization_url` in a browser, before `asked_until`."""

    authorization_url: str


async def ask(call: ApiCall) -> AskedOut:
    redirect = call.context.public_url + "/api/v1" + CALLBACK

    def make(change: Change) -> AskedOut:
        url, row = consents.ask(change, call.path["id"], redirect)
        return AskedOut(**_shown(row).model_dump(), authorization_url=url)

    return await call.change(make)


async def get(call: ApiCall) -> ConsentOut:
    def read(connection: Connection) -> ConsentOut:
        return _shown(consents.get(connection, call.project_id, call.path["id"]))

    return await call.read(read)


def callback(context: ApiContext) -> Any:
    """The endpoint to which an authorization server sends the browser back."""

    async def answer(request: Request) -> Response:
        try:
            server = await _grant(context, request)
        except Fault as fault:
            return _page(400, str(fault))
        return _page(200, f"Done. {server.name} now waits for an administrator to activate it.")

    return answer


async def _grant(context: ApiContext, request: Request) -> Server:
    query = request.query_params
    state, code = _single(request, "state"), _single(request, "code")
    registry = context.registry
    project = await registry.read(lambda connection: consents.project_of(connection, state))
    if project is None:
        raise Forbidden("This consent was not asked for here, or too long ago; ask for it again.")
    by = Actor.gateway(ProjectId(project))
    claimed = await registry.change(by, lambda change: consents.claim(change, state))
    server = registry.directory.view(by.project_id).servers[ServerId(claimed.server_id)]
    oauth = server.oauth
    if not _CODE.fullmatch(code):
        _log.warning("a consent was not given", server=server.id)
        raise Forbidden("The authorization server gave no consent; ask for it again.")
    if oauth is None or (oauth.issuer is not None and query.get("iss") != oauth.issuer):
        raise Forbidden("Another authorization server answered than the one that was asked.")
    redirect = context.public_url + "/api/v1" + CALLBACK
    granted = await context.redeem(server, code, claimed.verifier, redirect)
    await registry.change(by, lambda change: consents.grant(change, server, granted))
    return server


def _single(request: Request, name: str) -> str:
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 else ""


def _page(status: int, text: str) -> Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return PlainTextResponse(text + "\n", status, headers)


def _shown(row: Row[Any]) -> ConsentOut:
    return ConsentOut.model_validate(row)

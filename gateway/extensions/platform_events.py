"""Where platforms send what has happened, in their own shapes, and shake hands before.

Always answered 202 once it is known who sends: a platform that is told of a fault sends the same
again, or ends the subscription.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.api.call import ApiCall
from gateway.api.context import ApiContext
from gateway.api.endpoint import Door, Route, body_of, strict_json
from gateway.api.errors import ApiError, unauthenticated
from gateway.extensions import mappers
from gateway.extensions.door import MAX_BODY, admitted, reply
from gateway.extensions.events import MOST_EVENTS
from gateway.extensions.mappers import EventDocument
from gateway.extensions.webhook import item
from gateway.mcp.strictness import BadMessage, check_values
from gateway.values import Json, Key

_MAX_TOKEN = 2048

Mapper = Callable[[Json], Iterator[EventDocument]]


class Taken(BaseModel):
    taken: int
    errors: int
    items: list[dict[str, Any]] = Field(description="Each as `/webhooks/ingest` answers it")


def door(mapper: Mapper) -> Door:
    """A door for documents that this mapper reads, sent with the extension's key or signature."""

    async def take(
        context: ApiContext, route: Route, request: Request, request_id: str
    ) -> Response:
        key, raw = await admitted(context, route, request)
        return await _taken(context, key, strict_json(request, raw), mapper, request_id)

    return take


async def graph(context: ApiContext, route: Route, request: Request, request_id: str) -> Response:
    """Microsoft Graph sends no key of ours but `clientState`, which must be the extension's.

    https://learn.microsoft.com/graph/change-notifications-delivery-webhooks
    """
    token = request.query_params.get("validationToken")
    if token is not None and len(token) <= _MAX_TOKEN:
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return PlainTextResponse(token, headers=headers)
    if "authorization" in request.headers:
        return await door(mappers.graph)(context, route, request, request_id)
    if "content-type" not in request.headers:  # nothing in it can say who sends it
        raise unauthenticated("clientState must be the extension's key.", invalid_token=False)
    document = strict_json(request, await body_of(request, MAX_BODY))
    key = _of_secret(context, request, _client_state(document))
    if key is None:
        raise unauthenticated("clientState must be the extension's key.", invalid_token=True)
    return await _taken(context, key, document, mappers.graph, request_id)


async def purview(context: ApiContext, route: Route, request: Request, request_id: str) -> Response:
    """The Office 365 Management Activity API sends the `authId` of the subscription in a header.

    https://learn.microsoft.com/office/office-365-management-api/office-365-management-activity-api-reference
    """
    auth_id = request.headers.get("webhook-authid")
    if auth_id is None or "authorization" in request.headers:
        return await door(mappers.purview)(context, route, request, request_id)
    key = _of_secret(context, request, auth_id)
    if key is None:
        raise unauthenticated("Webhook-AuthID must be the extension's key.", invalid_token=True)
    document = strict_json(request, await body_of(request, MAX_BODY))
    if isinstance(document, dict) and "validationCode" in document:
        return reply(200, {}, request_id)
    return await _taken(context, key, document, mappers.purview, request_id)


def _client_state(document: Json) -> Json:
    """What all notifications say; None where there are none, or they differ."""
    value = document.get("value") if isinstance(document, dict) else None
    if not isinstance(value, list):
        return None
    # No set: nobody is known yet, and what stands here may be anything.
    states = [one.get("clientState") for one in value if isinstance(one, dict)]
    return states[0] if states and all(one == states[0] for one in states) else None


def _of_secret(context: ApiContext, request: Request, secret: Json) -> Key | None:
    key = context.registry.directory.key_of(secret) if isinstance(secret, str) else None
    return key if key is not None and key.id == request.path_params["id"] else None


async def _taken(
    context: ApiContext, key: Key, document: Json, mapper: Mapper, request_id: str
) -> Response:
    try:
        check_values({"document": document})
    except BadMessage as bad:
        raise ApiError(400, str(bad)) from None
    events = list(mapper(document))
    if len(events) > MOST_EVENTS:
        raise ApiError(400, f"Send {MOST_EVENTS} at once at most.")
    items = await asyncio.gather(*(item(context, key, one, None, request_id) for one in events))
    errors = sum(1 for one in items if "error" in one)
    body = {"taken": len(items) - errors, "errors": errors, "items": items}
    return reply(202, body, request_id)


async def described_graph(_call: ApiCall) -> None:
    """Names the route."""
    raise AssertionError("the door takes this route")


async def described_purview(_call: ApiCall) -> None:
    """Names the route."""
    raise AssertionError("the door takes this route")


async def described_salesforce(_call: ApiCall) -> None:
    """Names the route."""
    raise AssertionError("the door takes this route")


async def described_servicenow(_call: ApiCall) -> None:
    """Names the route."""
    raise AssertionError("the door takes this route")

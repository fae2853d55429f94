"""``POST /webhooks/ingest``: an event, or up to a hundred of them, decided or recorded."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.call import ApiCall
from gateway.api.context import ApiContext
from gateway.api.endpoint import Route, strict_json
from gateway.api.errors import FORESEEN, ApiError, answer, details_of, error_of, faulty
from gateway.extensions.door import admitted, over_rate, reply
from gateway.extensions.events import MOST_EVENTS, EventIn, EventsIn
from gateway.extensions.reports import Activity
from gateway.extensions.told import Told
from gateway.mcp.strictness import check_values
from gateway.values import Json, Key


async def ingest(context: ApiContext, route: Route, request: Request, request_id: str) -> Response:
    """The door. Raises `FORESEEN`."""
    key, raw = await admitted(context, route, request)
    document = strict_json(request, raw)
    if isinstance(document, list):
        if not 0 < len(document) <= MOST_EVENTS:
            raise ApiError(400, f"Send 1 to {MOST_EVENTS} events at once.")
        ids = [_sent_as(request, number) for number in range(len(document))]
        each = zip(document, ids, strict=True)
        items = await asyncio.gather(*(item(context, key, *one, request_id) for one in each))
        return reply(200, items, request_id)
    try:
        event_id, said = await take(context, key, document, _sent_as(request, 0))
    except FORESEEN as fault:
        return answer(fault, request_id)
    headers = {"Retry-After": "1"} if said.status == 503 else {}
    return reply(said.status, said.body(event_id), request_id, **headers)


def _sent_as(request: Request, number: int) -> str | None:
    """The id of an event that has none of its own in a message that is signed: who sends the
    message again, or takes it down on its way and plays it back, sends the same event.
    """
    if "webhook-signature" not in request.headers:
        return None
    message = hashlib.sha256(request.headers.get("webhook-id", "").encode()).hexdigest()
    return f"webhook-id/{message}/{number}"


async def take(
    context: ApiContext, key: Key, document: Json, sent_as: str | None = None
) -> tuple[str, Told]:
    """One event: its id, and what is said to it. Raises `FORESEEN`; counts either way."""
    plane = context.control_plane
    sender = plane.senders.sender(key)
    try:
        wait = plane.take(sender)
        if wait > 0:
            raise over_rate(wait)
        event = _read(document)
        if event.event_id is None:
            event = event.model_copy(update={"event_id": sent_as})
        said = await plane.event(key, document, event)
    except FORESEEN as fault:
        if sender.extension is not None:
            plane.reports.note(Activity(key.id, error=error_of(fault).message))
        raise
    if sender.extension is not None:
        plane.reports.note(Activity(key.id, events=1))
    return event.event_id or "", said


async def item(
    context: ApiContext, key: Key, document: Json, sent_as: str | None, request_id: str
) -> Mapping[str, Any]:
    try:
        event_id, said = await take(context, key, document, sent_as)
    except FORESEEN as fault:
        error = error_of(fault)
        return {
            "event_id": document.get("event_id") if isinstance(document, dict) else None,
            "status": error.status,
            "error": error.body(request_id),
        }
    return {"status": said.status, **said.body(event_id)}


def _read(document: Json) -> EventIn:
    if not isinstance(document, dict):
        raise ApiError(400, "An event is a JSON object.")
    check_values(document)
    try:
        return EventIn.model_validate(document)
    except ValidationError as fault:
        raise faulty(details_of(fault)) from None


async def described(_call: ApiCall, _body: EventsIn) -> None:
    """Names the route in the API's description; `ingest` takes it."""
    raise AssertionError("the door takes this route")

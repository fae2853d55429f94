"""From an HTTP request to a handler: who asks, whether they may, and what they say, in this order.

Nothing of the body is read before the key is known and its role may use the route.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Any, TypeVar

import anyio
import jiter
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.api.call import ApiCall, Idempotency, Instead, dump
from gateway.api.context import ApiContext
from gateway.api.errors import (
    FORESEEN,
    ApiError,
    Detail,
    answer,
    details_of,
    faulty,
    unauthenticated,
)
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.mcp.strictness import check_values
from gateway.registry.faults import Missing
from gateway.registry.keys import digest
from gateway.values import Json, Key, Role

Input = TypeVar("Input")

MAX_BODY = 4 * 1024 * 1024
BODY_SECONDS = 10
_MAX_IDEMPOTENCY_KEY = 128

Handler = Callable[..., Awaitable[BaseModel | Response | None]]
"""Takes the `ApiCall`, then the query and the body where the route has them. A `Response` is what
is no JSON."""


Door = Callable[["ApiContext", "Route", Request, str], Awaitable[Response]]
"""Takes the request's id too; raises `FORESEEN`."""


@frozen
class Route:
    """One row of the table: everything that is known of a route, for use and for OpenAPI."""

    method: str
    path: str
    """Below `base`."""
    roles: frozenset[Role]
    handler: Handler
    summary: str
    answer: type[BaseModel] | tuple[str, ...] | None
    """The model of the JSON, or the media types of what is none."""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    status: int = 200
    may_loosen: bool = False
    """Answered 202 with a proposal where a second person must confirm the change."""
    door: Door | None = None
    """What takes the request whole where a platform, and not this API, says how it looks; it is
    bound to `roles` too. The route's `handler` then only names it."""
    base: str = "/api/v1"
    verdicts: tuple[int, ...] = ()
    """Other statuses that `answer` may come with."""
    fault: type[BaseModel] | None = None
    """The JSON of its errors where a platform says how they look."""
    writes: bool = True
    """Whether it changes something, unless it is a GET: what does not is simply asked again."""
    greeting: str = ""
    """The media type of a 200 by which a platform, once, sees that somebody is there."""


class Endpoint:
    """All methods of one path."""

    def __init__(self, context: ApiContext, routes: Sequence[Route]) -> None:
        self._context = context
        self._routes = {route.method: route for route in routes}

    async def __call__(self, request: Request) -> Response:
        request_id = new_id("req")
        route = self._routes["GET" if request.method == "HEAD" else request.method]
        try:
            if route.door is not None:
                return await route.door(self._context, route, request, request_id)
            return await self._answer(route, request, request_id)
        except FORESEEN as fault:
            return answer(fault, request_id)
        except Instead as other:
            return _json(other.status, other.body, request_id)

    async def _answer(self, route: Route, request: Request, request_id: str) -> Response:
        key, key_digest = await self._key(request)
        wait = self._context.take(key.id)
        if wait > 0:
            message = "Too many requests with this key; wait and try again."
            raise ApiError(429, message, headers={"Retry-After": str(ceil(wait))})
        if key.role not in route.roles:
            raise ApiError(403, f"A key with the role {key.role} may not do this.")
        raw = b"" if request.method in ("GET", "HEAD") else await body_of(request, MAX_BODY)
        if raw and route.body is None:
            raise ApiError(400, "This request takes no body.")
        arguments: list[BaseModel] = []
        if route.query is not None:
            arguments.append(_checked(route.query.model_validate, _query(request)))
        elif request.url.query:
            raise ApiError(400, "This request takes no query.")
        document: Mapping[str, Json] = {}
        if route.body is not None:
            document = parsed(request, raw)
            arguments.append(_checked(route.body.model_validate_json, raw))
        call = ApiCall(
            context=self._context,
            key=key,
            key_digest=key_digest,
            path=request.path_params,
            document=document,
            status=route.status,
            idempotency=_idempotency(request, raw),
        )
        try:
            result = await route.handler(call, *arguments)
        except Missing:
            # Nothing was changed. Another gateway may have made it a moment ago.
            if not await self._context.registry.directory.caught_up():
                raise
            result = await route.handler(call, *arguments)
        if isinstance(result, Response):
            result.headers["X-Request-Id"] = request_id
            return result
        return _json(route.status, dump(result), request_id)

    async def _key(self, request: Request) -> tuple[Key, bytes]:
        """As `authenticated`, once more where another gateway may have made the key just now."""
        try:
            return authenticated(self._context, request)
        except ApiError:
            if not await self._context.registry.directory.caught_up():
                raise
            return authenticated(self._context, request)


def authenticated(context: ApiContext, request: Request) -> tuple[Key, bytes]:
    """The living key of a request, and its secret's digest. Raises `ApiError`.

    Cookies and queries are never looked at.
    """
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise unauthenticated("Send one key as `Authorization: Bearer <key>`.", invalid_token=False)
    scheme, _, token = headers[0].partition(" ")
    if scheme.lower() != "bearer":
        raise unauthenticated("The scheme of Authorization must be Bearer.", invalid_token=False)
    registry = context.registry
    secret = token.strip()
    key = registry.directory.key_of(secret)
    now = registry.clock.now()
    if key is None or (key.expires_at is not None and key.expires_at <= now):
        raise unauthenticated("The key is unknown, expired or revoked.", invalid_token=True)
    if key.agent_id is not None:
        agent = registry.directory.view(key.project_id).agents.get(key.agent_id)
        if agent is None or agent.state == "REVOKED":
            raise unauthenticated("The key's agent is revoked.", invalid_token=True)
    return key, digest(secret)


def parsed(request: Request, raw: bytes) -> Mapping[str, Json]:
    """The body, strictly: one object, no key twice, nothing that two readers take differently."""
    document = strict_json(request, raw)
    if not isinstance(document, dict):
        raise ApiError(400, "The body must be one JSON object.")
    check_values(document)
    return document


def strict_json(request: Request, raw: bytes) -> Json:
    """The body as JSON in UTF-8; its values are not looked at yet. Raises `ApiError`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Send JSON with the Content-Type application/json.")
    try:
        document: Json = jiter.from_json(
            raw, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="lossless-float"
        )
    except ValueError as fault:
        raise ApiError(400, f"The body is not strict JSON in UTF-8: {fault}.") from None
    return document


def _checked(validate: Callable[[Input], BaseModel], given: Input) -> BaseModel:
    # Caught here only: an answer that does not fit its model is a defect, not the caller's fault.
    try:
        return validate(given)
    except ValidationError as fault:
        raise faulty(details_of(fault)) from None


async def body_of(request: Request, most: int) -> bytes:
    """The whole body, which has at most so many bytes. Raises `ApiError`."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise _too_large(most)
    chunks = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                chunks += chunk
                if len(chunks) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise ApiError(408, "The body took too long.", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(400, "The body is not whole.") from None
    return bytes(chunks)


def _too_large(most: int) -> ApiError:
    message = f"The body has more than {most} bytes."
    return ApiError(413, message, headers={"Connection": "close"})


def _query(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    doubles = []
    for name, value in request.query_params.multi_items():
        if name in found:
            doubles.append(Detail(name[:128], "is given more than once"))
        found[name] = value
    if doubles:
        raise faulty(doubles)
    return found


def _idempotency(request: Request, raw: bytes) -> Idempotency | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys or request.method in ("GET", "HEAD"):
        return None
    key = keys[0]
    if len(keys) > 1 or not 0 < len(key) <= _MAX_IDEMPOTENCY_KEY or not key.isprintable():
        wrong = f"must be one text of up to {_MAX_IDEMPOTENCY_KEY} printable characters"
        raise faulty([Detail("Idempotency-Key", wrong)])
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return Idempotency.of(key, request.method, asked, raw)


def _json(status: int, body: bytes, request_id: str) -> Response:
    headers: dict[str, Any] = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
    return Response(body, status, headers, "application/json" if body else None)

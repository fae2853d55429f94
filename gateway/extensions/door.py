"""From an HTTP request of a platform to its key: a bearer key, a signature, or both.

Signatures are those of Standard Webhooks (standardwebhooks.com): HMAC-SHA256 with the extension's
own secret over id, time and body.
"""

import base64
import binascii
import hmac
from datetime import UTC, datetime
from math import ceil

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.endpoint import Route, authenticated, body_of
from gateway.api.errors import ApiError, unauthenticated
from gateway.registry.platforms import Extension
from gateway.values import Key, KeyId

MAX_BODY = 1024 * 1024
TOLERANCE_SECONDS = 300
"""How far a signature's time may be from ours."""


async def admitted(context: ApiContext, route: Route, request: Request) -> tuple[Key, bytes]:
    """The key that the request comes from, and its body. Raises `ApiError`."""
    signed = "webhook-signature" in request.headers
    if "authorization" in request.headers or not signed:
        key, _ = authenticated(context, request)
        _check_role(route, key)
        named = request.path_params.get("id")
        if named is not None and named != key.id:
            raise ApiError(404, "No such extension.")
    else:
        key = _named(context, request)
        _check_role(route, key)
    wait = context.take(key.id)
    if wait > 0:
        raise ApiError(429, "Too many requests; wait.", headers={"Retry-After": str(int(wait) + 1)})
    raw = await body_of(request, MAX_BODY)
    extension = context.registry.directory.view(key.project_id).extensions.get(key.id)
    if extension is not None and (signed or extension.require_signature):
        check_signature(request, raw, extension, context.registry.clock.now())
    return key, raw


def check_signature(request: Request, raw: bytes, extension: Extension, now: str) -> None:
    """Raises `ApiError` 401 unless the secret's holder has signed this body, just now."""
    get = request.headers.get
    message_id, sent_at = get("webhook-id", ""), get("webhook-timestamp", "")
    time = int(datetime.fromisoformat(now).astimezone(UTC).timestamp())
    fresh = sent_at.isascii() and sent_at.isdigit() and len(sent_at) < 12
    if not fresh or abs(int(sent_at) - time) > TOLERANCE_SECONDS:
        raise _unsigned("The signature's webhook-timestamp is missing or not of now.")
    signed = f"{message_id}.{sent_at}.".encode() + raw
    wanted = hmac.digest(extension.signing_secret, signed, "sha256")
    for one in get("webhook-signature", "").split():
        version, _, text = one.partition(",")
        try:
            given = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            continue
        if version == "v1" and hmac.compare_digest(given, wanted):
            return
    raise _unsigned("The webhook-signature is missing or does not fit the body.")


def over_rate(wait: float) -> ApiError:
    """429 to an extension that must wait so many seconds for its next event."""
    message = "This extension's rate of events is exceeded; wait and try again."
    return ApiError(429, message, headers={"Retry-After": str(ceil(wait))})


def reply(status: int, body: object, request_id: str, **headers: str) -> Response:
    usual = {"X-Request-Id": request_id, "Cache-Control": "no-store", **headers}
    return Response(orjson.dumps(body), status, usual, "application/json")


def _named(context: ApiContext, request: Request) -> Key:
    """The key of the extension that path or header names; its signature is checked later."""
    named = request.path_params.get("id") or request.headers.get("x-extension-id", "")
    for view in context.registry.directory.projects():
        key = view.keys.get(KeyId(named))
        if key is not None and key.id in view.extensions:
            return key
    raise _unsigned(
        "Send your key as `Authorization: Bearer ext_…`, or sign and name X-Extension-Id."
    )


def _check_role(route: Route, key: Key) -> None:
    if key.role not in route.roles:
        raise ApiError(403, f"A key with the role {key.role} may not do this.")


def _unsigned(message: str) -> ApiError:
    return unauthenticated(message, invalid_token=True)

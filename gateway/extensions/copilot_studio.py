"""Microsoft Copilot Studio's external security webhook: it asks before each tool call, and obeys.

https://learn.microsoft.com/microsoft-copilot-studio/external-security-webhooks-interface-developers

The platform waits a second and then lets the call pass, and it knows only *allow* and *block*. So
whatever fails here blocks, in time; a call that waits for a person is blocked with a reason that
names the approval.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any

import jiter
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.call import ApiCall
from gateway.api.context import ApiContext
from gateway.api.endpoint import Route, authenticated, body_of
from gateway.api.errors import FORESEEN, ApiError, error_of, unauthenticated
from gateway.extensions.asked import Asked
from gateway.extensions.door import MAX_BODY, reply
from gateway.extensions.entra import BadToken, KeysUnavailable
from gateway.extensions.events import REQUESTED, EventIn, as_json
from gateway.extensions.failing_open import fail_open
from gateway.extensions.reports import Activity
from gateway.extensions.told import FAULTS, Told
from gateway.ids import new_id
from gateway.mcp.strictness import BadMessage, check_values
from gateway.refusals import REASONS
from gateway.registry.faults import Fault, Forbidden
from gateway.registry.platforms import Extension
from gateway.telemetry.logs import fault_text
from gateway.values import Json, Key, KeyId

DECIDE_SECONDS = 0.5
GRACE_SECONDS = 0.1
"""For a verdict that is on its way to the disk when its time is up."""
RECORD_SECONDS = 0.1
"""And for the record of a call that is let through undecided: 700 ms in all."""

REASON_CODES = {
    **{-31001: 1001, -31002: 1002, -31003: 1003, -31004: 1004, -31005: 1005},
    **{-31008: 1006, -31010: 1010, -31011: 1011},
}
"""Ours for theirs; 1000 is for arguments that do not fit the tool."""
_CHAT = ("userMessage", "thought", "chatHistory", "previousToolOutputs", "previousToolsOutputs")

_log = structlog.get_logger(__name__)


class Validated(BaseModel):
    isSuccessful: bool
    status: str


class Analysed(BaseModel):
    """Only `blockAction` where the call is allowed."""

    blockAction: bool
    reasonCode: int | None = None
    reason: str | None = None
    diagnostics: str | None = None


class ErrorOut(BaseModel):
    """Microsoft's form of an error."""

    errorCode: int
    message: str
    httpStatus: int
    diagnostics: str


class Analyse(BaseModel):
    """Whatever the platform sends; what is not known is ignored."""

    model_config = ConfigDict(extra="allow")

    plannerContext: dict[str, Any] | None = None
    toolDefinition: dict[str, Any] | None = None
    inputValues: dict[str, Any] | None = None
    conversationMetadata: dict[str, Any] | None = None


async def validate(
    context: ApiContext, route: Route, request: Request, request_id: str
) -> Response:
    """The door of ``…/validate``: whether this extension and its token are good."""
    try:
        key, extension = await _caller(context, route, request)
        _must_decide(extension)
    except (*FORESEEN, KeysUnavailable) as fault:
        return _error(fault, request_id)
    context.control_plane.reports.note(Activity(key.id))
    return reply(200, {"isSuccessful": True, "status": "OK"}, request_id)


async def analyse(context: ApiContext, route: Route, request: Request, request_id: str) -> Response:
    """The door of ``…/analyze-tool-execution``: once it is known who asks, always a verdict."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(DECIDE_SECONDS):
            key, extension = await _caller(context, route, request)
    except (KeysUnavailable, TimeoutError):
        return _verdict(_blocked("internal"), request_id)
    except FORESEEN as fault:
        return _error(fault, request_id)
    said = await _analysed(context, request, key, extension, started)
    failed = said.reason_code in FAULTS
    context.control_plane.reports.note(
        Activity(
            key.id,
            events=0 if failed else 1,
            failed_open=int(said.failed_open),
            error=said.reason if failed else "",
        )
    )
    return _verdict(said, request_id)


async def _analysed(
    context: ApiContext, request: Request, key: Key, extension: Extension, started: float
) -> Told:
    plane = context.control_plane
    late = asyncio.Event()
    try:
        _must_decide(extension)
        sender = plane.senders.sender(key)
        async with asyncio.timeout(max(DECIDE_SECONDS - (time.monotonic() - started), 0.01)):
            document = _document(await body_of(request, MAX_BODY))
            event = _event(document, request.headers.get("x-ms-correlation-id", ""))
            caller = await plane.senders.caller(sender, event)
    except (*FORESEEN, ValidationError, TimeoutError) as fault:
        return _blocked("internal", f"The request cannot be decided: {_why(fault)}")
    asked = Asked(
        sender=sender,
        event=event,
        document=_identity(event),
        event_id=event.event_id or new_id("evt"),
        caller=caller,
        gone=late.is_set,
        kept=as_json(document if extension.keep_chat_history else _without_chat(document)),
    )
    if plane.take(sender) > 0:
        return _blocked("rate_limited")
    said = await _in_time(plane.decide(asked), late, started)
    if said.reason_code in FAULTS and extension.on_failure == "by_risk":
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                return await fail_open(plane, asked, said)
        except (*FORESEEN, TimeoutError) as fault:
            _log.error("not let through, since it cannot be written", why=fault_text(fault))
    return said


async def _in_time(deciding: Any, late: asyncio.Event, started: float) -> Told:
    """The verdict, or that there is none. A late one is never handed over: see `Asked.gone`."""
    task = asyncio.ensure_future(deciding)
    left = DECIDE_SECONDS - (time.monotonic() - started)
    await asyncio.wait({task}, timeout=max(left, 0.01))
    if not task.done():
        late.set()
        await asyncio.wait({task}, timeout=GRACE_SECONDS)
    if not task.done():
        task.add_done_callback(_log_late)
        return _blocked("policy_unavailable", "The call could not be decided in time.")
    try:
        said: Told = task.result()
    except FORESEEN as fault:
        return _blocked("internal", f"The request cannot be decided: {_why(fault)}")
    return said


def _log_late(task: "asyncio.Future[Told]") -> None:
    fault = None if task.cancelled() else task.exception()
    told = None if fault is None else fault_text(fault)
    _log.warning("a verdict came too late for Copilot Studio", fault=told)


async def _caller(context: ApiContext, route: Route, request: Request) -> tuple[Key, Extension]:
    """The extension that the path names, and that the token is for.

    Raises `ApiError`, `KeysUnavailable`.
    """
    found = _named(context, request.path_params["id"])
    if found is None or found[1].entra is None:
        # A shared secret: whoever holds it is believed.
        key, _ = authenticated(context, request)
        if key.role not in route.roles:
            raise ApiError(403, f"A key with the role {key.role} may not do this.")
        if found is None or found[0].id != key.id:
            raise ApiError(404, "No such extension.")
        _take(context, key)
        return found
    headers = request.headers.getlist("authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise unauthenticated("Send one token of Entra ID as a bearer.", invalid_token=False)
    try:
        await context.entra.verify(token.strip(), found[1].entra)
    except BadToken as bad:
        raise unauthenticated(str(bad), invalid_token=True) from None
    _take(context, found[0])
    return found


def _take(context: ApiContext, key: Key) -> None:
    wait = context.take(key.id)
    if wait > 0:
        raise ApiError(429, "Too many requests.", headers={"Retry-After": str(int(wait) + 1)})


def _named(context: ApiContext, extension_id: str) -> tuple[Key, Extension] | None:
    for view in context.registry.directory.projects():
        extension = view.extensions.get(KeyId(extension_id))
        if extension is not None:
            return view.keys[extension.id], extension
    return None


def _must_decide(extension: Extension) -> None:
    if "decide" not in extension.scopes:
        raise Forbidden("This extension has not the scope decide.")


def _document(raw: bytes) -> dict[str, Json]:
    """Strictly, because what is decided must be what the platform's own reader reads."""
    try:
        document: Json = jiter.from_json(
            raw, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="lossless-float"
        )
    except ValueError as fault:
        raise ApiError(400, f"The body is not strict JSON: {fault}.") from None
    if not isinstance(document, dict):
        raise ApiError(400, "The body must be one JSON object.")
    check_values(document)
    return document


def _event(document: Mapping[str, Json], correlation_id: str) -> EventIn:
    """The request as our event. Its parts may be null or missing; a tool must have a name."""
    tool, said = _part(document, "toolDefinition"), _part(document, "conversationMetadata")
    names = [name for name in (tool.get("name"), tool.get("id")) if name]
    arguments = _part(document, "inputValues")
    # One correlation id may span several calls of a plan: what is asked belongs to the id.
    asked = hashlib.sha256(as_json({"names": names, "arguments": arguments})).hexdigest()[:16]
    step = said.get("planStepId") or said.get("messageId") or ""
    event = {
        "event_id": f"{correlation_id}/{step}/{asked}"[:256] if correlation_id else None,
        "event_type": REQUESTED,
        "mode": "decide",
        "platform": "copilot",
        "external_agent_id": _part(said, "agent").get("id"),
        "user": {"id": user} if (user := _part(said, "user").get("id")) else None,
        "session_id": said.get("conversationId"),
        "tool": {
            "name": names[0] if names else None,
            "id": names[-1] if names else None,
            "description": tool.get("description") or "",
            "arguments": arguments,
        },
    }
    return EventIn.model_validate(event)


def _part(document: Mapping[str, Json], name: str) -> dict[str, Json]:
    part = document.get(name)
    if part is not None and not isinstance(part, dict):
        raise ApiError(400, f"{name} must be an object.")
    return part or {}


def _identity(event: EventIn) -> dict[str, Json]:
    """What makes two requests the same one: not the chat, which grows while they wait."""
    return event.model_dump(include={"external_agent_id", "user", "tool"})


def _without_chat(document: Mapping[str, Json]) -> dict[str, Json]:
    """What people and tools said, as its hash: enough to prove it, nothing to read."""
    planner = document.get("plannerContext")
    if not isinstance(planner, dict):
        return dict(document)
    hashed = {
        name: {"sha256": hashlib.sha256(as_json({"_": planner[name]})).hexdigest()}
        for name in _CHAT
        if planner.get(name) is not None
    }
    return {**document, "plannerContext": {**planner, **hashed}}


def _blocked(reason: str, message: str = "") -> Told:
    return Told("", "BLOCKED", reason=message or REASONS[reason].message, reason_code=reason)


def _verdict(said: Told, request_id: str) -> Response:
    if said.passes:
        return reply(200, {"blockAction": False}, request_id)
    code = REASONS[said.reason_code].code if said.reason_code else -31010
    reason = said.reason
    if said.decision == "PENDING_APPROVAL":
        reason = (
            f"Approval {said.approval_id} is pending until {said.expires_at};"
            " ask again once it is granted."
        )
    diagnostics = {"trace_id": said.trace_id, "reason_code": said.reason_code}
    body = {
        "blockAction": True,
        "reasonCode": REASON_CODES.get(code, 1000),
        "reason": reason,
        "diagnostics": orjson.dumps(diagnostics).decode(),
    }
    return reply(200, body, request_id)


def _error(fault: Exception, request_id: str) -> Response:
    error = ApiError(503, str(fault)) if isinstance(fault, KeysUnavailable) else error_of(fault)
    body = {
        "errorCode": error.status * 10,
        "message": error.message,
        "httpStatus": error.status,
        "diagnostics": orjson.dumps({"request_id": request_id}).decode(),
    }
    return reply(error.status, body, request_id, **error.headers)


def _why(fault: Exception) -> str:
    if isinstance(fault, ValidationError):
        return ", ".join(".".join(map(str, one["loc"])) for one in fault.errors()[:5])
    if isinstance(fault, ApiError | Fault | BadMessage):
        return str(fault)
    return type(fault).__name__


async def validated(_call: ApiCall) -> None:
    """Names the route; `validate` takes it."""
    raise AssertionError("the door takes this route")


async def analysed(_call: ApiCall, _body: Analyse) -> None:
    """Names the route; `analyse` takes it."""
    raise AssertionError("the door takes this route")

"""Every error as `{"error": {code, message, request_id, details}}`: no stack, no secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.cold.objects import ColdFault
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.mcp.strictness import BadMessage
from gateway.registry.faults import Conflict, Fault, Forbidden, Invalid, Missing, Unready
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text

_log = structlog.get_logger(__name__)

CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "unprocessable",
    429: "rate_limited",
    500: "internal",
    503: "unavailable",
}
"""The code of each status; `validation` beside `bad_request` says that details name fields."""

CHALLENGE = 'Bearer realm="mcp-gateway"'
_MAX_DETAILS = 100


@frozen
class Detail:
    """A fault of one field: its dotted name, and what is wrong with it."""

    field: str
    message: str


@dataclass(eq=False)
class ApiError(Exception):
    """The answer to a request that goes no further."""

    status: int
    message: str
    details: Sequence[Detail] = ()
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    def body(self, request_id: str) -> dict[str, Any]:
        """The member ``error`` of the answer."""
        return {
            "code": self.code or CODES[self.status],
            "message": self.message,
            "request_id": request_id,
            "details": [
                {"field": detail.field, "message": detail.message}
                for detail in self.details[:_MAX_DETAILS]
            ],
        }


FORESEEN = (ApiError, Fault, BadMessage, ColdFault, WriterStopped, SQLAlchemyError)
"""What `answer` knows how to put; anything else is a defect and a 500."""

_STATUS: dict[type[Fault], int] = {Missing: 404, Conflict: 409, Forbidden: 403, Unready: 503}


def unauthenticated(message: str, *, invalid_token: bool) -> ApiError:
    """401 with its challenge (RFC 6750, section 3)."""
    challenge = f'{CHALLENGE}, error="invalid_token"' if invalid_token else CHALLENGE
    return ApiError(401, message, headers={"WWW-Authenticate": challenge})


def answer(fault: Exception, request_id: str) -> Response:
    """The response to one of `FORESEEN`."""
    error = error_of(fault)
    body = {"error": error.body(request_id)}
    headers = {**error.headers, "X-Request-Id": request_id, "Cache-Control": "no-store"}
    return Response(orjson.dumps(body), error.status, headers, "application/json")


def error_of(fault: Exception) -> ApiError:
    """What is answered to one of `FORESEEN`."""
    if isinstance(fault, ApiError):
        return fault
    if isinstance(fault, Invalid):
        return faulty([Detail(name, message) for name, message in fault.fields.items()])
    if isinstance(fault, Fault):
        status = next(status for kind, status in _STATUS.items() if isinstance(fault, kind))
        return ApiError(status, str(fault))
    if isinstance(fault, BadMessage):
        return ApiError(400, fault.message)
    if isinstance(fault, ColdFault):
        _log.error("cold storage cannot be read", fault=fault_text(fault))
        return ApiError(503, f"{fault}.")
    _log.error("the database does not answer", fault=fault_text(fault))
    return ApiError(503, "The database cannot be written or read now; nothing was changed.")


def faulty(details: Sequence[Detail]) -> ApiError:
    """400 that names every field with a fault."""
    return ApiError(400, "The request has faults; see details.", details, code="validation")


def details_of(fault: ValidationError) -> list[Detail]:
    """What is wrong with an input, without repeating it."""
    # Neither input nor context: a value with a fault may be a secret with a typing error.
    found = fault.errors(include_url=False, include_input=False, include_context=False)
    return [
        Detail(
            ".".join(str(part)[:128] for part in error["loc"]) or "body",
            error["msg"].removeprefix("Value error, "),
        )
        for error in found
    ]


async def on_http_exception(_request: Request, fault: Exception) -> Response:
    """For the application: an unknown path, a method that a path does not have."""
    assert isinstance(fault, HTTPException)
    status = fault.status_code if fault.status_code in CODES else 400
    messages = {404: "No such path.", 405: "This path does not have this method."}
    error = ApiError(status, messages.get(status, fault.detail), headers=fault.headers or {})
    return answer(error, new_id("req"))


async def on_defect(_request: Request, _fault: Exception) -> Response:
    """For the application: what nobody foresaw. The traceback goes to the log only."""
    return answer(ApiError(500, "The gateway failed; the log says why."), new_id("req"))


EXCEPTION_HANDLERS = {HTTPException: on_http_exception, Exception: on_defect}
"""For `Starlette(exception_handlers=…)`."""

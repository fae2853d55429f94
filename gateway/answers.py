"""What the gateway itself says to an MCP client: refusals, faults, bad messages. Pure.

A refused `tools/call` is HTTP 200 with the request's id, because clients end the session on other
statuses. `error.data` tells a program what to do next.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.flows import ByteStream
from gateway.mcp.strictness import BadMessage
from gateway.refusals import REASONS, Refused, Unauthenticated
from gateway.values import Answer, Call, Era

_JSON = (b"content-type", b"application/json")
EVENT_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_PROTOCOLS_OWN = frozenset({-32602, -32020})
_STATUS = {"trace_unavailable": 503, "header_mismatch": 400}
META_KEY = "policy-gateway/refusal"
"""Where a refusal in the form of a tool result says what `error.data` says otherwise."""


def _trace_headers(trace_id: str, leaf: bytes) -> tuple[tuple[bytes, bytes], ...]:
    headers: tuple[tuple[bytes, bytes], ...] = ((b"x-trace-id", trace_id.encode()),)
    if leaf:
        headers += ((b"x-trace-leaf", leaf.hex().encode()),)
    return headers


def error_data(refused: Refused, trace_id: str | None) -> dict[str, Any]:
    """`error.data`: always the trace, the reason and whether a retry can help."""
    data: dict[str, Any] = {
        **refused.data,
        "reason_code": refused.reason,
        "retryable": refused.retryable,
    }
    if trace_id is not None:
        data["trace_id"] = trace_id
    return data


def refused_call(call: Call, refused: Refused, trace_id: str) -> Answer:
    """The answer to a tool call that was refused, in the project's `deny_style`."""
    data = error_data(refused, trace_id)
    message = refused.message
    if fault := refused.data.get("fault"):
        message = f"{message} {fault}"
    if call.caller.project.deny_style == "result" and refused.code not in _PROTOCOLS_OWN:
        body = _as_result(call, message, data)
    else:
        body = _error(call.rpc_id, refused.code, message, data)
    status = _STATUS.get(refused.reason, 200)
    return Answer(status, (_JSON, *_trace_headers(trace_id, refused.leaf)), body)


def _as_result(call: Call, message: str, data: Mapping[str, Any]) -> bytes:
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": message}],
        "isError": True,
        "_meta": {META_KEY: data},
    }
    if call.era is Era.MODERN:  # its clients refuse a result that does not say its type
        result["resultType"] = "complete"
    return orjson.dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})


def refused_message(rpc_id: str | int | None, refused: Refused) -> Answer:
    """A refusal of what is no tool call; without an id there is no one to answer but HTTP."""
    body = _error(rpc_id, refused.code, refused.message, error_data(refused, None))
    return Answer(200 if rpc_id is not None else 403, (_JSON,), body)


def failed_message(rpc_id: str | int | None, reason: str) -> Answer:
    refused = Refused(reason)
    body = _error(rpc_id, refused.code, refused.message, error_data(refused, None))
    return Answer(200 if rpc_id is not None else 502, (_JSON,), body)


def told(body: bytes) -> Answer:
    """What the gateway answers in place of an upstream."""
    return Answer(200, (_JSON,), body)


def streamed(events: ByteStream) -> Answer:
    """As `told`, in events as they come."""
    return Answer(200, EVENT_HEADERS, stream=events)


def rpc_error(
    status: int, rpc_id: str | int, code: int, message: str, data: Mapping[str, Any]
) -> Answer:
    """An error of the protocol's own."""
    return Answer(status, (_JSON,), _error(rpc_id, code, message, data))


def bad_message(bad: BadMessage) -> Answer:
    return Answer(bad.http_status, (_JSON,), _error(bad.rpc_id, bad.rpc_code, bad.message, None))


def unauthenticated(fault: Unauthenticated) -> Answer:
    """401, 403, 404 or 429 with a JSON-RPC body: clients that see no id show no reason."""
    headers = [_JSON]
    if fault.challenge:
        headers.append((b"www-authenticate", fault.challenge.encode()))
    if fault.retry_after:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    code = REASONS["rate_limited"].code if fault.status == 429 else -32600
    return Answer(fault.status, tuple(headers), _error(None, code, fault.message, None))


def _error(
    rpc_id: str | int | None, code: int, message: str, data: Mapping[str, Any] | None
) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error})

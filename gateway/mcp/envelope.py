"""The one strict parse of an MCP message: bytes and headers in, a message or `BadMessage` out.

Readers of JSON differ: which of two equal keys wins, whether ``Name`` is ``name``, what ``1e400``
is. Whatever two readers could take differently is refused here, so that the policy engine and the
server behind the gateway, each with a reader of its own, see the same call.
"""

from collections.abc import Mapping
from typing import Final

import jiter

from gateway.frozen import frozen
from gateway.mcp.folding import fold
from gateway.mcp.routing import (
    Routing,
    check_content_type,
    check_routing_headers,
    read_routing_headers,
)
from gateway.mcp.strictness import BadMessage, check_values, shown
from gateway.values import Era, Json

__all__ = [
    "BadMessage",
    "ClientResponse",
    "Message",
    "Notification",
    "RequestMessage",
    "ToolCall",
    "parse",
    "tool_call",
]

MAX_SAFE_ID: Final = 2**53 - 1

_RESERVED_PREFIX: Final = "io.modelcontextprotocol/"
_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_RESERVED_META: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})
_KNOWN_META: Final = _RESERVED_META | {
    _VERSION_KEY,
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "io.modelcontextprotocol/related-task",
    "io.modelcontextprotocol/subscriptionId",
}
_KNOWN_META_FOLDED: Final = frozenset(map(fold, _KNOWN_META))

_REQUEST_KEYS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_RESPONSE_KEYS: Final = frozenset({"jsonrpc", "id", "result", "error"})
_CALL_KEYS: Final = frozenset(
    {"name", "arguments", "_meta", "task", "inputResponses", "requestState"}
)
_NULLABLE: Final = (("task", dict), ("inputResponses", dict), ("requestState", str))
"""Parts of a call where null says the same as nothing, and clients do write it."""
_KNOWN_PARAMS: Final = _CALL_KEYS | {
    "argument",
    "capabilities",
    "clientInfo",
    "cursor",
    "level",
    "notifications",
    "progress",
    "progressToken",
    "protocolVersion",
    "ref",
    "requestId",
    "taskId",
    "uri",
}
_KNOWN_PARAMS_FOLDED: Final = frozenset(map(fold, _KNOWN_PARAMS))

_BOTH_ERAS: Final = frozenset(
    {
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
        "tasks/get",
        "tasks/cancel",
    }
)
METHODS: Final[Mapping[Era, frozenset[str]]] = {
    Era.LEGACY: _BOTH_ERAS
    | {
        "initialize",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "logging/setLevel",
        "tasks/result",
        "tasks/list",
    },
    Era.MODERN: _BOTH_ERAS | {"server/discover", "subscriptions/listen", "tasks/update"},
}
"""The requests that may pass, per era (revisions to 2025-11-25, and 2026-07-28)."""


@frozen
class RequestMessage:
    """A JSON-RPC request: it has an id and will be answered."""

    id: str | int
    method: str
    params: Mapping[str, Json]
    era: Era
    version: str | None
    """The protocol revision that header or body names, if any does."""
    session: str | None
    """`Mcp-Session-Id`, or None; meaningless in the modern era."""


@frozen
class Notification:
    """A JSON-RPC notification, `notifications/…`: accepted with 202, never answered."""

    method: str
    params: Mapping[str, Json]
    era: Era
    version: str | None
    session: str | None


@frozen
class ClientResponse:
    """A client's answer to a request that the server made of it; only the legacy era has these."""

    id: str | int
    era: Era
    version: str | None
    session: str | None


Message = RequestMessage | Notification | ClientResponse


@frozen
class ToolCall:
    """The parts of a `tools/call` that reach the tool."""

    name: str
    arguments: Mapping[str, Json]
    meta: Mapping[str, Json]
    """`params._meta` without the protocol's own keys, the progress token and trace context."""
    task: Json | None
    input_responses: Json | None
    request_state: str | None
    params: Mapping[str, Json]
    """All of `params`, as sent."""


def parse(body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> Message:
    """Read one message, or raise `BadMessage` with what to answer.

    ``headers`` are (lower-case name, value) pairs as ASGI gives them. The length of ``body`` is
    bounded by the caller. A message that is returned holds only what every reader of JSON
    understands alike (RFC 7493), and its `tools/call` parameters have their types.
    """
    routing = read_routing_headers(headers)
    check_content_type(routing)
    root = _read(body)
    rpc_id = _readable_id(root)
    try:
        return _message(root, rpc_id, routing)
    except BadMessage as fault:
        fault.rpc_id = rpc_id
        raise


def tool_call(message: RequestMessage) -> ToolCall:
    """Return the view of a `tools/call` that `parse` accepted."""
    params = message.params
    return ToolCall(
        name=params["name"],
        arguments=params.get("arguments", {}),
        meta=_own_meta(params["_meta"]) if "_meta" in params else {},
        task=params.get("task"),
        input_responses=params.get("inputResponses"),
        request_state=params.get("requestState"),
        params=params,
    )


def _own_meta(meta: Mapping[str, Json]) -> dict[str, Json]:
    return {
        key: value
        for key, value in meta.items()
        if key not in _KNOWN_META and not key.startswith(_RESERVED_PREFIX)
    }


def _read(body: bytes) -> dict[str, Json]:
    try:
        root: Json = jiter.from_json(
            body,
            allow_inf_nan=False,
            cache_mode="keys",
            catch_duplicate_keys=True,
            float_mode="lossless-float",
        )
    except ValueError as fault:
        # The fault may quote a key of any length.
        said = str(fault)[:200]
        raise BadMessage(400, -32700, f"The body is not strict JSON in UTF-8: {said}.") from fault
    if type(root) is dict:
        return root
    if type(root) is list:
        raise BadMessage(400, -32600, "Batches are not accepted; send one message per request.")
    raise BadMessage(400, -32600, "The body must be one JSON-RPC object.")


def _readable_id(root: Mapping[str, Json]) -> str | int | None:
    rpc_id = root.get("id")
    if type(rpc_id) is str or (type(rpc_id) is int and -MAX_SAFE_ID <= rpc_id <= MAX_SAFE_ID):
        return rpc_id
    return None


def _message(root: dict[str, Json], rpc_id: str | int | None, routing: Routing) -> Message:
    known = _REQUEST_KEYS if "method" in root else _RESPONSE_KEYS
    if not root.keys() <= known:
        raise _unknown(root, known, "message", -32600)
    check_values(root)
    if root.get("jsonrpc") != "2.0":
        raise BadMessage(400, -32600, 'The member "jsonrpc" must be "2.0".')
    if "id" in root and rpc_id is None:
        raise BadMessage(
            400, -32600, "The id must be a string or an integer within plus or minus 2^53 - 1."
        )
    if "method" not in root:
        return _client_response(root, rpc_id, routing)
    method = root["method"]
    if type(method) is not str:
        raise BadMessage(400, -32600, "The method must be a string.")
    params = root.get("params", {})
    if type(params) is not dict:
        raise BadMessage(400, -32602, "The params must be an object.")
    version = _body_version(params)
    era = check_routing_headers(routing, method, params, version, rpc_id is not None)
    version = version or routing.version
    if rpc_id is None:
        return _notification(method, params, era, version, routing.session)
    if method not in METHODS[era]:
        status = 404 if era is Era.MODERN else 200
        raise BadMessage(status, -32601, f"The method {shown(method)} is not known here.")
    if method == "tools/call":
        _check_call(params)
    return RequestMessage(rpc_id, method, params, era, version, routing.session)


def _body_version(params: Mapping[str, Json]) -> str | None:
    """Check the keys of ``params`` and ``params._meta``; return the revision named there."""
    _check_spelling(params, _KNOWN_PARAMS, _KNOWN_PARAMS_FOLDED)
    if "_meta" not in params:
        return None
    meta = params["_meta"]
    if type(meta) is not dict:
        raise BadMessage(400, -32602, "params._meta must be an object.")
    _check_spelling(meta, _KNOWN_META, _KNOWN_META_FOLDED)
    version = meta.get(_VERSION_KEY)
    if version is not None and type(version) is not str:
        raise BadMessage(400, -32602, f"params._meta[{_VERSION_KEY!r}] must be a string.")
    return version


def _check_spelling(
    members: Mapping[str, Json], known: frozenset[str], known_folded: frozenset[str]
) -> None:
    for key in members:
        if key not in known and fold(key) in known_folded:
            raise BadMessage(
                400, -32602, f"The key {shown(key)} differs from a known one only in its spelling."
            )


def _notification(
    method: str, params: Mapping[str, Json], era: Era, version: str | None, session: str | None
) -> Notification:
    # Some servers run a request that has no id and answer nothing; it must not reach them.
    if not method.startswith("notifications/"):
        raise BadMessage(400, -32600, f"The method {shown(method)} needs an id.")
    return Notification(method, params, era, version, session)


def _client_response(
    root: Mapping[str, Json], rpc_id: str | int | None, routing: Routing
) -> ClientResponse:
    if rpc_id is None or ("result" in root) == ("error" in root):
        raise BadMessage(
            400, -32600, "A message has a method, or an id and one of result and error."
        )
    era = routing.era
    if era is Era.MODERN:
        raise BadMessage(400, -32600, "This revision has no responses from the client.")
    return ClientResponse(rpc_id, era, routing.version, routing.session)


def _check_call(params: Mapping[str, Json]) -> None:
    if not params.keys() <= _CALL_KEYS:
        raise _unknown(params, _CALL_KEYS, "params of tools/call", -32602)
    if type(params.get("name")) is not str:
        raise BadMessage(400, -32602, "params.name must be a string.")
    if type(params.get("arguments", {})) is not dict:
        raise BadMessage(400, -32602, "params.arguments must be an object.")
    for key, kind in _NULLABLE:
        value = params.get(key)
        if value is not None and type(value) is not kind:
            wanted = "a string" if kind is str else "an object"
            raise BadMessage(400, -32602, f"params.{key} must be {wanted}.")


def _unknown(
    members: Mapping[str, Json], known: frozenset[str], where: str, code: int
) -> BadMessage:
    key = next(key for key in members if key not in known)
    return BadMessage(400, code, f"The {where} must not have the key {shown(key)}.")

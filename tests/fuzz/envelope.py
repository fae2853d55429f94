"""The envelope: what is accepted, a second strict reader of JSON reads as the same call."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal

from gateway.mcp.arguments import compile_schema
from gateway.mcp.envelope import BadMessage, Notification, RequestMessage, parse, tool_call
from gateway.mcp.folding import fold
from gateway.values import Era, Json

MODERN = b"2026-07-28"
HEADERS: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (),
    ((b"mcp-protocol-version", b"2025-06-18"),),
    ((b"mcp-protocol-version", MODERN), (b"mcp-method", b"tools/call"), (b"mcp-name", b"t")),
    ((b"mcp-protocol-version", MODERN), (b"mcp-method", b"tools/list")),
    ((b"mcp-protocol-version", MODERN), (b"mcp-method", b"server/discover")),
    ((b"mcp-session-id", b"s"),),
)
CHECK = compile_schema(
    {
        "type": "object",
        "properties": {
            "to": {"type": ["string", "null"]},
            "n": {"type": "integer"},
            "rows": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"$ref": "#"}]}},
        },
        "patternProperties": {"^x-": {"enum": [1, "a", None]}},
        "additionalProperties": {"type": ["boolean", "object"]},
    }
)
STATUSES = {200, 400, 404, 406, 415}


def one(data: bytes) -> None:
    """The first byte chooses the headers, the others are the body."""
    headers = HEADERS[data[0] % len(HEADERS)] if data else ()
    body = data[1:]
    try:
        message = parse(body, ((b"content-type", b"application/json"), *headers))
    except BadMessage as bad:
        _check_refusal(bad)
        return
    read = json.loads(
        body.decode(), object_pairs_hook=_without_doubles, parse_float=Decimal, parse_constant=_no
    )
    assert isinstance(read, dict)
    if isinstance(message, Notification | RequestMessage):
        assert message.method == read["method"]
        assert _same(message.params, read.get("params", {}))
    if isinstance(message, RequestMessage):
        assert type(message.id) is type(read["id"])
        assert message.id == read["id"]
        if message.method == "tools/call":
            _check_call(message, headers)


def _check_refusal(bad: BadMessage) -> None:
    assert bad.http_status in STATUSES
    assert len(bad.message) < 1024


def _check_call(message: RequestMessage, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    call = tool_call(message)
    if message.era is Era.MODERN:
        assert (b"mcp-name", call.name.encode()) in headers
    _check_folded(call.arguments)
    said = CHECK(call.arguments)
    assert said is None or len(said) < 1024


def _check_folded(value: Json) -> None:
    if isinstance(value, Mapping):
        assert len({fold(name) for name in value}) == len(value)
        for member in value.values():
            _check_folded(member)
    elif isinstance(value, list):
        for item in value:
            _check_folded(item)


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


def _no(text: str) -> None:
    raise AssertionError(f"{text} was accepted")


def _same(ours: Json, theirs: object) -> bool:
    if isinstance(theirs, dict):
        return (
            isinstance(ours, Mapping)
            and ours.keys() == theirs.keys()
            and all(_same(ours[name], member) for name, member in theirs.items())
        )
    if isinstance(theirs, list):
        return (
            isinstance(ours, list)
            and len(ours) == len(theirs)
            and all(_same(*pair) for pair in zip(ours, theirs, strict=True))
        )
    if isinstance(theirs, Decimal):
        # The same number to a reader of doubles, and as it was written to one of decimals.
        as_double = float(theirs)
        return (
            math.isfinite(as_double)
            and Decimal(str(ours)) == theirs
            and Decimal(repr(as_double)) == theirs
        )
    return type(ours) is type(theirs) and ours == theirs

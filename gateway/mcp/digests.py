"""Canonical bytes of tool definitions and of calls, and the digests made of them."""

import hashlib
from collections.abc import Mapping
from typing import Final

import orjson
from jiter import LosslessFloat

from gateway.values import Json

_PINNED: Final = (
    "annotations",
    "description",
    "execution",
    "inputSchema",
    "name",
    "outputSchema",
    "title",
)
_UNBOUND_META: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})
_SAFE_INTEGER: Final = 2**53


def canonical_definition(tool: Mapping[str, Json]) -> bytes:
    """Return what a pin covers of a tool definition, the same for every spelling of it.

    Keys are sorted and numbers with one double are written one way, so that a server may order
    and format its JSON as it likes. A member that is absent differs from one that is null.
    """
    pinned = {key: _one_spelling(tool[key]) for key in _PINNED if key in tool}
    return orjson.dumps(pinned, option=orjson.OPT_SORT_KEYS)


def definition_digests(tool: Mapping[str, Json]) -> tuple[str, str]:
    """Return the SHA-256 of the canonical definition and of the description alone, in hex.

    A description that is absent or no text counts as empty here; the first digest tells them
    apart.
    """
    description = tool.get("description")
    text = description if isinstance(description, str) else ""
    return (
        hashlib.sha256(canonical_definition(tool)).hexdigest(),
        hashlib.sha256(text.encode()).hexdigest(),
    )


def call_digest(params: Mapping[str, Json]) -> str:
    """Return the SHA-256, in hex, of all that a call's ``params`` say; an approval binds to it.

    Left out are the progress token and the trace context of ``_meta``, which differ each time.
    Numbers count as they were sent: ``1`` and ``1.0`` are two calls.
    """
    bound = dict(params)
    meta = bound.pop("_meta", None)
    if meta:
        kept = {key: value for key, value in meta.items() if key not in _UNBOUND_META}
        if kept:
            bound["_meta"] = kept
    canonical = orjson.dumps(bound, default=_as_sent, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def _as_sent(value: object) -> orjson.Fragment:
    if isinstance(value, LosslessFloat):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} is not a value of the strict parser")


def _one_spelling(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    if isinstance(value, LosslessFloat | float):
        return _one_number(value)
    if isinstance(value, int) and not -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        return orjson.Fragment(str(value))
    return value


def _one_number(value: LosslessFloat | float) -> Json:
    double = float(value)
    if double.is_integer() and abs(double) <= _SAFE_INTEGER:
        return int(double)
    # 1e400 is no double; its own text keeps it apart from every other number.
    return double if abs(double) < float("inf") else orjson.Fragment(str(value))

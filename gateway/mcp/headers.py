"""Which headers cross the gateway, in each direction; every other one stays on its side."""

from collections.abc import Iterable

from gateway.values import Era

Header = tuple[bytes, bytes]
"""Name in lower case, value."""

_TO_UPSTREAM = frozenset(
    {
        b"content-type",
        b"accept",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"last-event-id",
        b"traceparent",
        b"tracestate",
        b"baggage",
    }
)
_REPEATED = frozenset({b"mcp-method", b"mcp-name"})
_TO_CALLER = frozenset(
    {
        b"content-type",
        b"mcp-session-id",
        b"cache-control",
        b"retry-after",
        b"allow",
        b"x-accel-buffering",
    }
)
# Servers check a message's origin, session and revision by these: one message, one value.
SINGLE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"last-event-id",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"mcp-session-id",
    }
)
_NOT_NAMED = frozenset({b"", b"close", b"keep-alive", b"upgrade", b"te"})


def to_upstream(headers: Iterable[Header], era: Era) -> list[Header]:
    """What of a caller's headers is sent on: the protocol's own, and trace context.

    Unknown `Mcp-Param-*` pass (2026-07-28, basic/transports, "Custom headers"); what `Connection`
    names does not (RFC 9110, section 7.6.1). Nor do the headers that repeat the body in the legacy
    era, which does not know them: nobody has held them to the body, and what stands before the
    server might route by them.
    """
    kept: list[Header] = []
    named: set[bytes] = set()
    for header in headers:
        name = header[0]
        if name in _TO_UPSTREAM:
            kept.append(header)
        elif name in _REPEATED or name.startswith(b"mcp-param-"):
            if era is Era.MODERN:
                kept.append(header)
        elif name == b"connection":
            named |= {token.strip() for token in header[1].lower().split(b",")} - _NOT_NAMED
    return [header for header in kept if header[0] not in named] if named else kept


def to_caller(headers: Iterable[Header], *, streaming: bool) -> tuple[Header, ...]:
    """What of an upstream's headers is answered; a stream is never to be buffered on its way."""
    kept = [header for header in headers if header[0] in _TO_CALLER]
    if streaming and not any(name == b"x-accel-buffering" for name, _ in kept):
        kept.append((b"x-accel-buffering", b"no"))
    return tuple(kept)


def doubled(headers: Iterable[Header]) -> bytes | None:
    """The first header that stands twice and must not."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in SINGLE:
            if name in seen:
                return name
            seen.add(name)
    return None


def value_of(headers: Iterable[Header], wanted: bytes) -> bytes:
    """The first value of a header, or nothing."""
    for name, value in headers:
        if name == wanted:
            return value
    return b""

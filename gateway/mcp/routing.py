"""The headers that repeat what the body says, and the era that both must agree on."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from gateway.frozen import frozen
from gateway.mcp.strictness import BadMessage, shown
from gateway.values import Era, Json

HEADER_MISMATCH: Final = -32020
"""2026-07-28, basic/index, "Error codes"."""

FIRST_MODERN: Final = "2026-07-28"

_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"content-type",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"mcp-session-id",
    }
)
_NAMED_BY: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_NAME_REQUIRED: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_UTF_8: Final = (b"", b"charset=utf-8", b'charset="utf-8"')
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=", re.ASCII | re.DOTALL)


@frozen
class Routing:
    """The routing headers of one request, each at most once."""

    content_type: bytes

    method: str | None
    name: str | None
    version: str | None
    session: str | None

    @property
    def era(self) -> Era:
        """What the version header alone says; without one, legacy."""
        if self.version is None or self.version < FIRST_MODERN or not _DATE.fullmatch(self.version):
            return Era.LEGACY
        return Era.MODERN


def read_routing_headers(headers: tuple[tuple[bytes, bytes], ...]) -> Routing:
    """Return the routing headers of any request; refuse one that repeats a header of these."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SINGLE:
            if name in found:
                raise BadMessage(
                    400, HEADER_MISMATCH, f"The header {name.decode()} appears more than once."
                )
            found[name] = value
    return Routing(
        content_type=found.get(b"content-type", b""),
        method=_text(found.get(b"mcp-method")),
        name=_text(found.get(b"mcp-name")),
        version=_text(found.get(b"mcp-protocol-version")),
        session=_text(found.get(b"mcp-session-id")),
    )


def check_content_type(routing: Routing) -> None:
    """Accept ``application/json``, alone or with ``charset=utf-8`` (RFC 9110, section 8.3)."""
    if routing.content_type == b"application/json":
        return
    kind, *parameters = [part.strip().lower() for part in routing.content_type.split(b";")]
    if kind != b"application/json" or not all(part in _UTF_8 for part in parameters):
        raise BadMessage(415, -32600, "The Content-Type must be application/json, in UTF-8.")


def check_routing_headers(
    routing: Routing,
    method: str,
    params: Mapping[str, Json],
    body_version: str | None,
    is_request: bool,
) -> Era:
    """Return the era of a message; refuse one whose headers and body disagree.

    The headers bind in the modern era only: older servers and clients do not know them.
    """
    if body_version is None:
        if routing.era is Era.LEGACY:
            return Era.LEGACY
        if is_request:
            raise BadMessage(
                400, -32602, "params._meta lacks io.modelcontextprotocol/protocolVersion."
            )
    elif body_version != routing.version:
        raise BadMessage(
            400, HEADER_MISMATCH, "MCP-Protocol-Version is not the revision that _meta names."
        )
    _check_method_and_name(routing, method, params, is_request)
    return Era.MODERN


def _check_method_and_name(
    routing: Routing, method: str, params: Mapping[str, Json], is_request: bool
) -> None:
    if routing.method != method and (is_request or routing.method is not None):
        raise BadMessage(400, HEADER_MISMATCH, f"Mcp-Method is not the method {shown(method)}.")
    key = _NAMED_BY.get(method)
    if key is None or (routing.name is None and method not in _NAME_REQUIRED):
        return
    named = params.get(key)
    if type(named) is str and decoded(routing.name) != named:
        raise BadMessage(400, HEADER_MISMATCH, f"Mcp-Name is not params.{key}, {shown(named)}.")


def decoded(value: str | None) -> str | None:
    """Undo the ``=?base64?…?=`` of a header value; None when it is malformed or missing."""
    if value is None:
        return None
    sentinel = _SENTINEL.fullmatch(value)
    if sentinel is None:
        return value
    payload = sentinel[1]
    try:
        decoded = base64.b64decode(payload, validate=True)
        # A second spelling of the same bytes would be a second name of the same tool.
        return decoded.decode() if base64.b64encode(decoded).decode() == payload else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def header_value(text: str) -> bytes:
    """A name as a routing header holds it (2026-07-28, basic/transports, "Value Encoding")."""
    plain = text.isascii() and text.isprintable() and text.strip() == text
    if plain and not _SENTINEL.fullmatch(text):
        return text.encode()
    return b"=?base64?%b?=" % base64.b64encode(text.encode())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")

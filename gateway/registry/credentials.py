"""What a server is sent to let the gateway in: checked, made into headers, sealed. Write-only."""

import base64
import re
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field

from gateway.keyring import Keyring, encrypt
from gateway.registry.fields import Input

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""A header's name: RFC 9110, section 5.6.2."""
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
"""A header's value: RFC 9110, section 5.5, without obsolete text. No CR, LF or NUL."""
_RESERVED = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "last-event-id",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
_RESERVED_PREFIXES = ("mcp-", "proxy-", "x-forwarded-", "sec-")


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("must be a header name: letters, digits and hyphens")
    lower = value.lower()
    # These frame or route the request; a second one would change which request it is.
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        raise ValueError("is a header that the gateway itself sets")
    return value


def _header_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII without line breaks or outer spaces")
    return value


def _no_colon(value: str) -> str:
    if ":" in value:
        raise ValueError("must not hold a colon (RFC 7617, section 2)")
    return value


def _not_yet(value: str) -> str:
    raise ValueError("OAuth is not available yet; use bearer, header or basic")


Secret = Annotated[
    str,
    Field(min_length=1, max_length=8192, json_schema_extra={"writeOnly": True}),
    AfterValidator(_header_value),
]


class NoAuth(Input):
    type: Literal["none"]


class BearerAuth(Input):
    type: Literal["bearer"]
    token: Secret


class HeaderAuth(Input):
    type: Literal["header"]
    name: Annotated[str, AfterValidator(_header_name)]
    value: Secret


class BasicAuth(Input):
    type: Literal["basic"]
    username: Annotated[Secret, AfterValidator(_no_colon)]
    password: Secret


class OAuth(Input):
    """Named by the contract; refused until it is there."""

    type: Annotated[
        Literal["oauth_client_credentials", "oauth_authorization_code"], AfterValidator(_not_yet)
    ]


Auth = Annotated[NoAuth | BearerAuth | HeaderAuth | BasicAuth | OAuth, Field(discriminator="type")]


def headers(auth: Auth) -> list[list[str]]:
    """The `[name, value]` pairs that are sent with every request."""
    match auth:
        case BearerAuth(token=token):
            return [["authorization", f"Bearer {token}"]]
        case HeaderAuth(name=name, value=value):
            return [[name.lower(), value]]
        case BasicAuth(username=username, password=password):
            pair = base64.b64encode(f"{username}:{password}".encode()).decode()
            return [["authorization", f"Basic {pair}"]]
        case _:
            return []


def seal(keyring: Keyring, server_id: str, auth: Auth) -> bytes | None:
    """The headers encrypted for `auth_sealed`, bound to the server; None when there are none."""
    pairs = headers(auth)
    return encrypt(keyring.data, orjson.dumps(pairs), server_id.encode()) if pairs else None

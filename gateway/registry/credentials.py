"""What a server is sent to let the gateway in: checked, made into headers, sealed. Write-only."""

import base64
import re
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field, TypeAdapter

from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt, encrypt
from gateway.oauth import OAuthClient
from gateway.registry.fields import Input, Url

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""A header's name: RFC 9110, section 5.6.2."""
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
"""A header's value: RFC 9110, section 5.5, without obsolete text. No CR, LF or NUL."""
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*|")
_URL: TypeAdapter[str] = TypeAdapter(Url)
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


def _scope(value: str) -> str:
    if not _SCOPE.fullmatch(value):
        raise ValueError("must be words separated by single spaces (RFC 6749, section 3.3)")
    return value


def _resource(value: str) -> str:
    return value if value in ("server_url", "none") else _URL.validate_python(value)


Secret = Annotated[
    str,
    Field(min_length=1, max_length=8192, json_schema_extra={"writeOnly": True}),
    AfterValidator(_header_value),
]


Scope = Annotated[str, Field(max_length=2048), AfterValidator(_scope)]
Resource = Annotated[str, Field(max_length=2048), AfterValidator(_resource)]


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


class OAuthClientCredentials(Input):
    """RFC 6749, section 4.4."""

    type: Literal["oauth_client_credentials"]
    token_url: Url
    client_id: Secret
    client_secret: Secret
    client_auth: Literal["basic", "post"] = "basic"
    """Where the client's secret stands: a header or the form (RFC 6749, section 2.3.1)."""
    scope: Scope = ""
    resource: Resource = "server_url"
    """RFC 8707: the server's own URL, another one, or `none`."""


class OAuthAuthorizationCode(Input):
    """RFC 6749, section 4.1, with PKCE (RFC 7636): an administrator consents, once."""

    type: Literal["oauth_authorization_code"]
    authorization_url: Url
    token_url: Url
    client_id: Secret
    client_secret: Secret | None = None
    """Without one the client is a public one, and PKCE alone proves who it is."""
    client_auth: Literal["basic", "post"] = "basic"
    scope: Scope = ""
    resource: Resource = "server_url"
    issuer: Url | None = None
    """When given, the callback's `iss` must be it (RFC 9207)."""


OAuth = OAuthClientCredentials | OAuthAuthorizationCode
Auth = Annotated[NoAuth | BearerAuth | HeaderAuth | BasicAuth | OAuth, Field(discriminator="type")]


@frozen
class Credential:
    """A credential opened: headers that never change, or how to get a token."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    oauth: OAuthClient | None = None


def headers(auth: Auth) -> list[list[str]]:
    """The `[name, value]` pairs that are sent with every request; OAuth has none of its own."""
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
    """What `unseal` opens, for `auth_sealed`, bound to the server; None for no credential."""
    if isinstance(auth, OAuthClientCredentials | OAuthAuthorizationCode):
        document: object = auth.model_dump()
    else:
        document = headers(auth)
    return encrypt(keyring.data, orjson.dumps(document), server_id.encode()) if document else None


def unseal(keyring: Keyring, server_id: str, server_url: str, sealed: bytes | None) -> Credential:
    """Raises `cryptography.exceptions.InvalidTag` for what was sealed for another server."""
    if sealed is None:
        return Credential()
    document = orjson.loads(decrypt(keyring.data, sealed, server_id.encode()))
    if isinstance(document, list):
        return Credential(tuple((name.encode(), value.encode()) for name, value in document))
    named = document.pop("resource")
    document["grant"] = document.pop("type").removeprefix("oauth_")
    resource = {"server_url": server_url, "none": ""}.get(named, named)
    return Credential(oauth=OAuthClient(**document, resource=resource))

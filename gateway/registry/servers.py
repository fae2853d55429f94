"""MCP servers: registered, approved, blocked, changed, removed.

What decides where a call goes and with which credential is approved by an administrator; a change
of it needs that approval anew and voids whatever was granted before.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, JsonValue
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from gateway.ids import new_id
from gateway.registry import approvals, credentials, pages, templates, tools
from gateway.registry.core import Change
from gateway.registry.credentials import Auth, NoAuth
from gateway.registry.faults import Conflict, Invalid
from gateway.registry.fields import (
    PORTS,
    STDIO,
    Description,
    Input,
    Name,
    Patch,
    Pem,
    ServerUrl,
    unsent,
)
from gateway.registry.loosening import loosened_settings
from gateway.registry.pages import Page
from gateway.registry.weakening import Wish, govern
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Json

Connector = Literal["custom", "salesforce", "copilot", "servicenow"]
_SLUG_LENGTH = 48
REROUTING = frozenset({"server_url", "transport", "auth", "tls_ca"})
"""What decides where calls go, and as whom: a change of it is approved anew."""
_s = tables.servers.c


def _slug(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value):
        raise ValueError("must be small letters, digits and underscores, a letter first, up to 64")
    return value


Slug = Annotated[
    str,
    AfterValidator(_slug),
    Field(description="Its name in Rego, for good; without it a free one is made from the name"),
]
Transport = Annotated[
    Literal["streamable_http", "sse", "stdio"],
    Field(description="`sse` is the transport of 2024-11-05; `stdio` goes with stdio:NAME"),
]
_Url = Annotated[
    ServerUrl,
    Field(description="Where it speaks MCP, or stdio:NAME of the operator's file of programs"),
]
_Trusted = Annotated[
    Pem,
    Field(
        description="Certificates in PEM that sign the server's; without them those that the "
        "system trusts"
    ),
]
_Proxied = Annotated[
    bool,
    Field(
        description="Whether `gateway connect` offers it to clients; BLOCKED is what refuses calls"
    ),
]
_Enforcement = Annotated[
    Literal["enforce", "monitor"],
    Field(
        description="`monitor` records what policies and budgets would refuse, and lets it go; "
        "without a choice, as the project has it"
    ),
]
_Private = Annotated[
    bool,
    Field(description="In one of those that the operator names in GATEWAY_PRIVATE_UPSTREAMS"),
]


class NewServer(Input):
    name: Name
    slug: Slug | None = None
    server_url: _Url
    transport: Transport = "streamable_http"
    connector_type: Annotated[
        Connector, Field(description="The template whose policies hold for it; `custom` has none")
    ] = "custom"
    description: Description = ""
    auth: Auth = NoAuth(type="none")
    tls_ca: _Trusted | None = None
    is_proxied: _Proxied = True
    enforcement: _Enforcement | None = None
    allow_private_network: _Private = False


class ServerPatch(Patch):
    """`slug` and `connector_type` cannot change: policies are routed by them."""

    name: Name = unsent()
    server_url: _Url = unsent()
    transport: Transport = unsent()
    description: Description = unsent()
    params: Annotated[
        dict[str, JsonValue],
        Field(description="Members that are not sent stay; null gives one its default again"),
    ] = unsent()
    auth: Auth = unsent()
    tls_ca: _Trusted | None = unsent()
    is_proxied: _Proxied = unsent()
    enforcement: _Enforcement | None = unsent()
    allow_private_network: _Private = unsent()
    status: Annotated[
        Literal["PENDING_APPROVAL", "ACTIVE", "BLOCKED"],
        Field(description="ACTIVE approves it, with the tools that a scan has found"),
    ] = unsent()


def slug_of(name: str) -> str:
    """A name as a part of a Rego path: small ASCII letters, digits and underscores."""
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "_", ascii_).strip("_")[:_SLUG_LENGTH].rstrip("_")
    if not slug or slug[0].isdigit():
        slug = f"s_{slug}".rstrip("_")
    return slug


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454, section 4), the same for every spelling of them."""
    parts: SplitResult = urlsplit(url)
    if parts.scheme == STDIO:
        return STDIO, parts.path, 0
    host = (parts.hostname or "").rstrip(".")
    return parts.scheme, host, parts.port or PORTS[parts.scheme]


def register(change: Change, new: NewServer, params: Mapping[str, Json] | None = None) -> Row[Any]:
    """Make a server that waits for approval. Raises `Invalid`, `Conflict` for a taken slug."""
    _check_transport(new.server_url, new.transport, new.auth.type)
    server_id = new_id("srv")
    connector = _connector(change, new)
    values = new.model_dump(exclude={"auth"})
    values |= templates.columns(change.templates, connector, params or {}, "connector_type")
    values |= {
        "connector_type": connector,
        "slug": _free_slug(change, slug_of(new.name), new.slug),
        "status": "PENDING_APPROVAL",
        "auth_type": new.auth.type,
    }
    change.connection.execute(
        insert(tables.servers).values(
            id=server_id,
            project_id=change.project_id,
            auth_sealed=credentials.seal(change.keyring, server_id, new.auth),
            revision=1,
            created_at=change.now,
            **values,
        )
    )
    shown = {name: value for name, value in values.items() if name != "template_accepted"}
    change.record("server.registered", server_id, codes={"server": server_id}, after=shown)
    return get(change.connection, change.project_id, server_id)


def patch(change: Change, server_id: str, asked: ServerPatch) -> Row[Any]:
    """Change a server. Raises `Invalid`, and `Conflict` when it cannot become ACTIVE yet."""
    before = get(change.connection, change.project_id, server_id)
    sent = asked.sent()
    where = {name: sent.get(name, getattr(before, name)) for name in ("server_url", "transport")}
    auth_type = asked.auth.type if "auth" in sent else before.auth_type
    _check_transport(where["server_url"], where["transport"], auth_type)
    governed = _governed(change, before, asked)
    rerouted = _rerouted(before, sent)
    values: dict[str, Any] = {name: value for name, value in sent.items() if name != "auth"}
    if "params" in values:
        values["params"] = templates.merged(change.templates, before, values["params"])
    if rerouted:
        _check_reroute(change, before, sent)
        values = {"status": "PENDING_APPROVAL", **values}
        values |= {"revision": before.revision + 1, "scanned_at": None}
    elif sent.get("status") == "ACTIVE" and before.status != "ACTIVE":
        _activate(change, before)
    if not values and not rerouted:
        return before
    old = {name: getattr(before, name) for name in values}
    new = dict(values)
    if "auth" in sent:
        values["auth_type"] = new["auth_type"] = asked.auth.type
        old["auth_type"] = before.auth_type
        values["auth_sealed"] = credentials.seal(change.keyring, server_id, asked.auth)
    if {"auth", "server_url"} & sent.keys() and rerouted:
        # A consent's tokens were given for that address, to that client.
        _forget_consent(change, server_id)
    change.connection.execute(update(tables.servers).where(_s.id == server_id).values(**values))
    withdrawn = 0
    if rerouted or sent.get("status") == "BLOCKED":
        why = "the server was changed" if rerouted else "the server was blocked"
        withdrawn = approvals.withdraw(change, approvals.of_server(server_id), why)
    codes: dict[str, Code] = {
        "server": server_id,
        "status_after": values.get("status", before.status),
        "approvals_withdrawn": withdrawn,
        **governed,
    }
    change.record("server.changed", server_id, codes=codes, before=old, after=new)
    return get(change.connection, change.project_id, server_id)


def reroute(change: Change, before: Row[Any]) -> int:
    """Have a server approved anew, since it is reached as somebody else; returns how many
    approvals were withdrawn."""
    values = {"status": "PENDING_APPROVAL", "revision": before.revision + 1, "scanned_at": None}
    change.connection.execute(update(tables.servers).where(_s.id == before.id).values(**values))
    return approvals.withdraw(change, approvals.of_server(before.id), "the server was changed")


def _forget_consent(change: Change, server_id: str) -> None:
    consents = tables.consents
    change.connection.execute(delete(consents).where(consents.c.server_id == server_id))


def remove(change: Change, server_id: str) -> None:
    """Delete a server with its tools and whatever refers to them alone."""
    before = get(change.connection, change.project_id, server_id)
    connection = change.connection
    withdrawn = approvals.withdraw(change, approvals.of_server(server_id), "the server was removed")
    tool_ids = select(tables.tools.c.id).where(tables.tools.c.server_id == server_id)
    rules, budgets = tables.rules, tables.budgets
    connection.execute(
        delete(rules).where(or_(rules.c.server_id == server_id, rules.c.mcp_tool_id.in_(tool_ids)))
    )
    connection.execute(
        delete(budgets).where(
            or_(budgets.c.target_id == server_id, budgets.c.target_id.in_(tool_ids))
        )
    )
    for table in (tables.overrides, tables.tools, tables.consents):
        connection.execute(delete(table).where(table.c.server_id == server_id))
    connection.execute(delete(tables.servers).where(_s.id == server_id))
    old = {"name": before.name, "slug": before.slug, "server_url": before.server_url}
    codes: dict[str, Code] = {"server": server_id, "approvals_withdrawn": withdrawn}
    change.record("server.removed", server_id, codes=codes, before=old)


def get(connection: Connection, project_id: str, server_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.servers, project_id, server_id, "server")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.servers).where(_s.project_id == project_id)
    return pages.page(connection, query, _s.id, cursor, limit)


def tool_counts(connection: Connection, project_id: str) -> dict[str, int]:
    """Tools that each server has now, by server id."""
    t = tables.tools.c
    query = (
        select(t.server_id, func.count())
        .where(t.project_id == project_id, t.pin != "GONE")
        .group_by(t.server_id)
    )
    return {server_id: count for server_id, count in connection.execute(query)}


def _governed(change: Change, before: Row[Any], asked: ServerPatch) -> dict[str, Code]:
    """Parameters loosen or tighten as their template pleases, so each change of one may loosen."""
    sent = asked.model_dump(mode="json", exclude_unset=True, exclude={"auth"})
    loosens = any(before.params.get(n) != v for n, v in sent.get("params", {}).items())
    if "enforcement" in sent:
        query = select(tables.projects.c.enforcement).where(
            tables.projects.c.id == change.project_id
        )
        usual = change.connection.execute(query).scalar_one()
        old = {"enforcement": before.enforcement or usual}
        loosens |= bool(loosened_settings(old, {"enforcement": sent["enforcement"] or usual}))
    old = {name: getattr(before, name) for name in sent}
    if loosens and "auth" in asked.model_fields_set:
        raise Invalid({"auth": "send the credential in a request of its own; this one loosens"})
    return govern(change, Wish("server.patch", before.id, sent, old), loosens=loosens)


def _rerouted(before: Row[Any], sent: dict[str, Any]) -> bool:
    # A credential is write-only, so a new one counts as another one.
    return "auth" in sent or any(
        name in sent and sent[name] != getattr(before, name) for name in REROUTING - {"auth"}
    )


def _check_reroute(change: Change, before: Row[Any], sent: dict[str, Any]) -> None:
    faults = {}
    if sent.get("status") == "ACTIVE":
        faults["status"] = "a changed URL, credential or transport needs approval anew; activate it"
    if "server_url" in sent:
        bound = _bound_to(change, sent["server_url"])
        if bound not in (None, before.connector_type):
            faults["server_url"] = f"this origin is bound to {bound}; register a new server for it"
    if faults:
        raise Invalid(faults)


def _check_transport(server_url: str, transport: str, auth_type: str) -> None:
    """Raises `Invalid`. A program's command and secrets are the operator's, never a body's."""
    named = server_url.startswith(f"{STDIO}:")
    if server_url and named != (transport == "stdio"):
        raise Invalid({"transport": "stdio and a server_url of stdio:NAME go together"})
    if named and auth_type != "none":
        raise Invalid({"auth": "a stdio server has none; its secrets are in the operator's file"})


def check_reachable(server_url: str) -> None:
    """Raises `Conflict` for a server that was made from a template and waits for its URL."""
    if not server_url:
        raise Conflict("The server has no URL yet; PATCH it with server_url, then activate it.")


def _activate(change: Change, server: Row[Any]) -> None:
    check_reachable(server.server_url)
    if server.scanned_at is None:
        raise Conflict("The server has no complete scan yet; scan it, then activate it.")
    # What an unblocked server had accepted stays so; what it has not is not accepted unseen.
    if server.status == "PENDING_APPROVAL":
        tools.accept_scanned(change, server.id)


def _connector(change: Change, new: NewServer) -> str:
    bound = _bound_to(change, new.server_url) if new.server_url else None
    if bound is None or new.connector_type == bound:
        return new.connector_type
    if "connector_type" in new.model_fields_set and new.connector_type != "custom":
        raise Invalid({"connector_type": f"this origin is bound to {bound}"})
    return bound


def _bound_to(change: Change, url: str) -> str | None:
    """The template to which a server of this project bound the URL's origin."""
    query = select(_s.server_url, _s.connector_type).where(
        _s.project_id == change.project_id, _s.connector_type != "custom", _s.server_url != ""
    )
    wanted = origin_of(url)
    for server_url, connector in change.connection.execute(query):
        if origin_of(server_url) == wanted:
            return str(connector)
    return None


def _free_slug(change: Change, suggested: str, asked: str | None) -> str:
    query = select(_s.slug).where(_s.project_id == change.project_id)
    taken = set(change.connection.execute(query).scalars())
    if asked in taken:
        raise Conflict(f"A server with the slug {asked} exists.")
    candidate, number = asked or suggested, 1
    while candidate in taken:
        number += 1
        candidate = f"{suggested}_{number}"
    return candidate

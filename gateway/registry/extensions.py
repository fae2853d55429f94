"""Extensions: the keys of platforms whose agents cannot be proxied, and for whom they may speak.

An extension has a key of its own (`ext_…`), a server whose policies, budgets and stops apply to
its events, and a secret for platforms that sign. Its id is its key's id.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Connection, Row, insert, select, update

from gateway.ids import new_id
from gateway.keyring import encrypt
from gateway.registry import agents, keys, pages, servers
from gateway.registry.agents import NewAgent
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Invalid
from gateway.registry.fields import MAX_NAME, Id, Input, Name, Url
from gateway.registry.pages import Page
from gateway.registry.platforms import sealing_context
from gateway.registry.servers import NewServer
from gateway.store import tables
from gateway.values import AgentId, Role

Scope = Literal["webhook:ingest", "decide", "traces:read", "urgent"]

MAX_NAMED = 500
"""Agents that one extension may have created under it."""
_CONNECTORS = frozenset({"salesforce", "copilot", "servicenow"})
_SIGNING_BYTES = 32
_LOGIN = "https://login.microsoftonline.com"
_e = tables.extensions.c

_Guid = Annotated[
    str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", examples=["…"])
]


class NewEntra(Input):
    """Which tokens of Microsoft Entra ID are believed: of one tenant and one application."""

    tenant_id: _Guid
    audience: Annotated[str, Field(min_length=1, max_length=512)]
    app_id: Annotated[_Guid, Field(description="The calling application's id: `azp` or `appid`")]
    issuer: Annotated[Url | None, Field(description="Microsoft's own for the tenant")] = None
    jwks_url: Annotated[Url | None, Field(description="Microsoft's own for the tenant")] = None


class NewExtension(Input):
    name: Name
    type: Literal["salesforce", "copilot", "servicenow", "webhook", "custom"]
    scopes: Annotated[list[Scope], Field(min_length=1, description="What its key may do")]
    server_id: Annotated[
        Id | None,
        Field(description="Whose policies decide; without it a server of the type is made"),
    ] = None
    agents: Annotated[
        list[Id], Field(max_length=200, description="Agents that it may speak for")
    ] = []
    on_failure: Annotated[
        Literal["block", "by_risk"],
        Field(description="`by_risk` lets LOW and MEDIUM pass when nothing can decide"),
    ] = "block"
    events_per_minute: Annotated[
        int, Field(ge=1, le=1_000_000, description="Above it 429 is answered")
    ] = 12_000
    require_signature: Annotated[
        bool, Field(description="Refuse messages that are not signed; the key alone is not enough")
    ] = False
    keep_chat_history: Annotated[
        bool, Field(description="Keep what people wrote, encrypted; else only its hash")
    ] = False
    entra: Annotated[
        NewEntra | None, Field(description="Whose tokens its platform sends, where it sends such")
    ] = None


def create(change: Change, new: NewExtension) -> tuple[Row[Any], str, str]:
    """Make an extension; its row, its key and its signing secret. Raises `Invalid`."""
    _check(change, new)
    extension_id, key, signing = new_id("ext"), keys.secret(Role.EXTENSION), signing_secret()
    server_id = new.server_id or _own_server(change, new)
    values = new.model_dump(exclude={"entra"}) | {
        "scopes": sorted(set(new.scopes)),
        "agents": sorted(set(new.agents)),
        "server_id": server_id,
        "entra": None if new.entra is None else _stored(new.entra),
    }
    change.connection.execute(
        insert(tables.keys).values(
            id=extension_id,
            project_id=change.project_id,
            secret_sha256=keys.digest(key),
            role=Role.EXTENSION,
            name=new.name,
            owner=change.by.person,
            server_ids=[server_id],
            may_assert=[],
            state="ACTIVE",
            created_by=change.by.person,
            created_at=change.now,
        )
    )
    change.connection.execute(
        insert(tables.extensions).values(
            id=extension_id,
            project_id=change.project_id,
            signing_sealed=_sealed(change, extension_id, signing),
            created_at=change.now,
            **values,
        )
    )
    codes = {"extension": extension_id, "server": server_id}
    change.record("extension.created", extension_id, codes=codes, after=values)
    return get(change.connection, change.project_id, extension_id), key, signing


def rotate(change: Change, extension_id: str) -> tuple[Row[Any], str, str]:
    """A new key and a new signing secret; the old ones are dead with the commit."""
    _living(change, extension_id)
    key, signing = keys.secret(Role.EXTENSION), signing_secret()
    k = tables.keys
    change.connection.execute(
        update(k)
        .where(k.c.id == extension_id)
        .values(secret_sha256=keys.digest(key), rotated_by=change.by.person)
    )
    sealed = _sealed(change, extension_id, signing)
    change.connection.execute(
        update(tables.extensions).where(_e.id == extension_id).values(signing_sealed=sealed)
    )
    change.record("extension.rotated", extension_id, codes={"extension": extension_id})
    return get(change.connection, change.project_id, extension_id), key, signing


def remove(change: Change, extension_id: str) -> Row[Any]:
    """End it for good: its key is refused from now on, its server and its records stay."""
    _living(change, extension_id)
    k = tables.keys
    change.connection.execute(update(k).where(k.c.id == extension_id).values(state="REVOKED"))
    change.record("extension.removed", extension_id, codes={"extension": extension_id})
    return get(change.connection, change.project_id, extension_id)


def agent_named(change: Change, extension_id: str, external_id: str) -> AgentId:
    """The agent that stands for a platform's own, made when it is first spoken of.

    Raises `Conflict` when the extension has too many, or another agent has the name.
    """
    a = tables.extension_agents.c
    of_it = select(a.external_id, a.agent_id).where(a.extension_id == extension_id)
    known = {row.external_id: row.agent_id for row in change.connection.execute(of_it)}
    if external_id in known:
        return AgentId(known[external_id])
    if len(known) >= MAX_NAMED:
        raise Conflict(f"This extension speaks for {MAX_NAMED} agents already.")
    row = get(change.connection, change.project_id, extension_id)
    name = _agent_name(row.name, external_id)
    about = f"Made for {external_id!r:.200}, of which the extension {row.name} spoke."
    made = agents.create(change, NewAgent(name=name, owner=row.owner, description=about))
    change.connection.execute(
        insert(tables.extension_agents).values(
            extension_id=extension_id,
            external_id=external_id,
            project_id=change.project_id,
            agent_id=made.id,
        )
    )
    return AgentId(made.id)


def get(connection: Connection, project_id: str, extension_id: str) -> Row[Any]:
    """With its key's state and what it did. Raises `Missing`."""
    pages.one(connection, tables.extensions, project_id, extension_id, "extension")
    return connection.execute(_query(project_id).where(_e.id == extension_id)).one()


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    return pages.page(connection, _query(project_id), _e.id, cursor, limit)


def signing_secret() -> str:
    """As Standard Webhooks writes one: ``whsec_`` and base64."""
    return "whsec_" + base64.b64encode(os.urandom(_SIGNING_BYTES)).decode()


def _query(project_id: str) -> Any:
    k, did = tables.keys.c, tables.extension_activity.c
    shown = [column for column in _e if column.name != "signing_sealed"]
    whole = tables.extensions.join(tables.keys, k.id == _e.id)
    whole = whole.outerjoin(tables.extension_activity, did.extension_id == _e.id)
    return (
        select(*shown, k.state, k.owner, k.created_by, k.rotated_by)
        .add_columns(did.last_seen, did.events, did.errors, did.failed_open, did.last_error)
        .select_from(whole)
        .where(_e.project_id == project_id)
    )


def _living(change: Change, extension_id: str) -> None:
    if get(change.connection, change.project_id, extension_id).state != "ACTIVE":
        raise Conflict("The extension was removed.")


def _check(change: Change, new: NewExtension) -> None:
    faults = {}
    if new.server_id is not None and not pages.exists(
        change.connection, tables.servers, change.project_id, new.server_id
    ):
        faults["server_id"] = "no such server"
    for position, agent_id in enumerate(new.agents):
        if not pages.exists(change.connection, tables.agents, change.project_id, agent_id):
            faults[f"agents.{position}"] = "no such agent"
    if new.entra is not None and new.type != "copilot":
        faults["entra"] = "only an extension of the type copilot is called with such tokens"
    if faults:
        raise Invalid(faults)


def _own_server(change: Change, new: NewExtension) -> str:
    # Unchecked, because only what is never proxied has no URL.
    wanted = NewServer.model_construct(
        {"name", "server_url", "connector_type", "is_proxied"},
        name=new.name,
        server_url="",
        connector_type=new.type if new.type in _CONNECTORS else "custom",
        is_proxied=False,
    )
    return str(servers.register(change, wanted).id)


def _stored(entra: NewEntra) -> Mapping[str, Any]:
    tenant = entra.tenant_id.lower()
    # Tokens of both versions are issued for one application, each with an issuer of its own.
    usual = [f"{_LOGIN}/{tenant}/v2.0", f"https://sts.windows.net/{tenant}/"]
    return {
        "tenant_id": tenant,
        "audience": entra.audience,
        "app_id": entra.app_id.lower(),
        "issuers": usual if entra.issuer is None else [entra.issuer],
        "jwks_url": entra.jwks_url or f"{_LOGIN}/{tenant}/discovery/v2.0/keys",
    }


def _sealed(change: Change, extension_id: str, signing: str) -> bytes:
    raw = base64.b64decode(signing.removeprefix("whsec_"))
    return encrypt(change.keyring.data, raw, sealing_context(extension_id))


def _agent_name(extension: str, external_id: str) -> str:
    plain = "".join(c if c.isascii() and c.isprintable() else "_" for c in external_id)
    name = f"{extension}/{plain}"
    if plain == external_id.strip() and len(name.encode()) <= MAX_NAME:
        return name
    # What does not fit into a name is told apart by its hash.
    short = extension.encode()[:40].decode(errors="ignore")
    return f"{short}/{plain[-48:]}-{hashlib.sha256(external_id.encode()).hexdigest()[:8]}"

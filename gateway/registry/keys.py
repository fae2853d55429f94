"""API keys: made, rotated, revoked. A secret is returned once and kept as its SHA-256 only."""

import base64
import hashlib
import os
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Connection, Row, func, insert, select, update

from gateway.ids import new_id
from gateway.registry import approvals, pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Invalid, Missing
from gateway.registry.fields import Id, Input, Name, Time
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Role

PREFIXES = {
    Role.PROJECT: "gwp_",
    Role.ADMIN: "gwa_",
    Role.APPROVER: "gwr_",
    Role.AUDITOR: "gwv_",
    Role.EXTENSION: "ext_",
}
_SECRET_BYTES = 32
_LISTED = [column for column in tables.keys.c if column.name != "secret_sha256"]


class NewKey(Input):
    """A key to make. Only a project key has an agent, servers and names to assert."""

    role: Literal["project", "admin", "approver", "auditor"]
    name: Name
    owner: Annotated[Name, Field(description="The person who answers for it")]
    agent_id: Id | None = None
    server_ids: Annotated[list[Id], Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="The servers that it may call; without any, all of the project"
    )
    may_assert: Annotated[list[Name], Field(max_length=200)] = Field(
        default=[], description="Names of agents that a caller may put into X-Agent-Id"
    )
    expires_at: Annotated[Time | None, Field(description="From then on it opens nothing")] = None


def secret(role: Role) -> str:
    """A new secret: a prefix that says what it is, and 32 random bytes in base64url."""
    random = base64.urlsafe_b64encode(os.urandom(_SECRET_BYTES)).rstrip(b"=").decode()
    return PREFIXES[role] + random


def digest(key: str) -> bytes:
    """What is stored of a secret. It has 256 random bits, so a fast hash does."""
    return hashlib.sha256(key.encode()).digest()


def create(change: Change, new: NewKey, secret_: str | None = None) -> tuple[Row[Any], str]:
    """Make a key; return its row and the secret. Raises `Invalid`."""
    _check(change, new)
    shown = secret_ or secret(Role(new.role))
    key_id = new_id("key")
    change.connection.execute(
        insert(tables.keys).values(
            id=key_id,
            project_id=change.project_id,
            secret_sha256=digest(shown),
            role=new.role,
            name=new.name,
            owner=new.owner,
            agent_id=new.agent_id,
            server_ids=None if new.server_ids is None else sorted(set(new.server_ids)),
            may_assert=sorted(set(new.may_assert)),
            expires_at=new.expires_at,
            state="ACTIVE",
            created_by=change.by.person,
            created_at=change.now,
        )
    )
    codes = {"key": key_id, "role": new.role}
    change.record("key.created", key_id, codes=codes, after=new.model_dump())
    return get(change.connection, change.project_id, key_id), shown


def rotate(change: Change, key_id: str) -> tuple[Row[Any], str]:
    """Give a key a new secret; the old one is dead with the commit. Raises `Conflict`."""
    row = get(change.connection, change.project_id, key_id)
    _must_be_active(row)
    shown = secret(Role(row.role))
    change.connection.execute(
        update(tables.keys)
        .where(tables.keys.c.id == key_id)
        .values(secret_sha256=digest(shown), rotated_by=change.by.person)
    )
    change.record("key.rotated", key_id, codes={"key": key_id, "role": row.role})
    return get(change.connection, change.project_id, key_id), shown


def revoke(change: Change, key_id: str) -> Row[Any]:
    """End a key for good. Raises `Conflict` for one that is revoked, or the last admin's."""
    row = get(change.connection, change.project_id, key_id)
    _must_be_active(row)
    if row.role == Role.ADMIN and _living_admins(change) == 1:
        raise Conflict("This is the last admin key; rotate it, or make another first.")
    change.connection.execute(
        update(tables.keys).where(tables.keys.c.id == key_id).values(state="REVOKED")
    )
    voided = approvals.withdraw(change, approvals.of_key(key_id), "the key was revoked")
    codes: dict[str, Code] = {"key": key_id, "role": row.role, "approvals_withdrawn": voided}
    change.record("key.revoked", key_id, codes=codes)
    return get(change.connection, change.project_id, key_id)


def get(connection: Connection, project_id: str, key_id: str) -> Row[Any]:
    """Raises `Missing`, for an extension's key too: see `gateway.registry.extensions`."""
    if pages.one(connection, tables.keys, project_id, key_id, "key").role == Role.EXTENSION:
        raise Missing("key")
    return connection.execute(select(*_LISTED).where(tables.keys.c.id == key_id)).one()


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    k = tables.keys.c
    query = select(*_LISTED).where(k.project_id == project_id, k.role != Role.EXTENSION)
    return pages.page(connection, query, tables.keys.c.id, cursor, limit)


def anybody_administers(connection: Connection, now: str) -> bool:
    """Whether any project has a living admin key, or a person who is an admin."""
    k, u = tables.keys.c, tables.users.c
    living = select(k.id).where(
        k.role == Role.ADMIN, k.state == "ACTIVE", k.expires_at.is_(None) | (k.expires_at > now)
    )
    people = select(u.id).where(u.role == Role.ADMIN)
    return any(connection.execute(query.limit(1)).first() for query in (living, people))


def is_known(connection: Connection, secret_: str) -> bool:
    """Whether a key has this secret, dead or alive."""
    query = select(tables.keys.c.id).where(tables.keys.c.secret_sha256 == digest(secret_))
    return connection.execute(query).first() is not None


def _check(change: Change, new: NewKey) -> None:
    faults = {}
    if new.role != "project":
        for name in ("agent_id", "server_ids", "may_assert"):
            if getattr(new, name):
                faults[name] = "only a project key may have it"
    if new.agent_id is not None and not pages.exists(
        change.connection, tables.agents, change.project_id, new.agent_id
    ):
        faults["agent_id"] = "no such agent"
    for position, server_id in enumerate(new.server_ids or ()):
        if not pages.exists(change.connection, tables.servers, change.project_id, server_id):
            faults[f"server_ids.{position}"] = "no such server"
    if new.expires_at is not None and new.expires_at <= change.now:
        faults["expires_at"] = "is past"
    if faults:
        raise Invalid(faults)


def _must_be_active(row: Row[Any]) -> None:
    if row.state != "ACTIVE":
        raise Conflict("The key is revoked.")


def _living_admins(change: Change) -> int:
    keys = tables.keys
    return change.connection.execute(
        select(func.count())
        .select_from(keys)
        .where(
            keys.c.project_id == change.project_id,
            keys.c.role == Role.ADMIN,
            keys.c.state == "ACTIVE",
            keys.c.expires_at.is_(None) | (keys.c.expires_at > change.now),
        )
    ).scalar_one()

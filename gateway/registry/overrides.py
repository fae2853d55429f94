"""Overrides: what alone loosens a template policy: on one server, with a reason, for a time."""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from gateway.ids import new_id
from gateway.registry import pages, servers
from gateway.registry.core import Change
from gateway.registry.faults import Invalid, Missing
from gateway.registry.fields import Id, Input, Name, Reason, Time
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.values import Action

_o = tables.overrides.c


class NewOverride(Input):
    policy_id: Name
    action: Action
    agent_id: Id | None = None
    reason: Reason
    expires_at: Time


def create(change: Change, server_id: str, new: NewOverride) -> Row[Any]:
    """Raises `Missing`, `Invalid`."""
    server = servers.get(change.connection, change.project_id, server_id)
    _check(change, server, new)
    override_id = new_id("ovr")
    values = new.model_dump(mode="json")
    change.connection.execute(
        insert(tables.overrides).values(
            id=override_id,
            project_id=change.project_id,
            server_id=server_id,
            created_at=change.now,
            **values,
        )
    )
    codes = {"server": server_id, "agent": new.agent_id, "action": new.action.value}
    change.record("override.created", override_id, codes=codes, after=values, reason=new.reason)
    return get(change.connection, change.project_id, server_id, override_id)


def remove(change: Change, server_id: str, override_id: str) -> None:
    """Raises `Missing`."""
    before = get(change.connection, change.project_id, server_id, override_id)
    change.connection.execute(delete(tables.overrides).where(_o.id == override_id))
    old = {name: getattr(before, name) for name in NewOverride.model_fields}
    codes = {"server": server_id, "agent": before.agent_id, "action": before.action}
    change.record("override.removed", override_id, codes=codes, before=old)


def get(connection: Connection, project_id: str, server_id: str, override_id: str) -> Row[Any]:
    """Raises `Missing`."""
    row = pages.one(connection, tables.overrides, project_id, override_id, "override")
    if row.server_id != server_id:
        raise Missing("override")
    return row


def listed(
    connection: Connection, project_id: str, server_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    """Raises `Missing` for a server that is not there."""
    servers.get(connection, project_id, server_id)
    query = select(tables.overrides).where(_o.project_id == project_id, _o.server_id == server_id)
    return pages.page(connection, query, _o.id, cursor, limit)


def _check(change: Change, server: Row[Any], new: NewOverride) -> None:
    faults = {}
    if server.connector_type == "custom":
        faults["policy_id"] = "this server has no template, so no policy to override"
    if new.agent_id is not None and not pages.exists(
        change.connection, tables.agents, change.project_id, new.agent_id
    ):
        faults["agent_id"] = "no such agent"
    if new.expires_at <= change.now:
        faults["expires_at"] = "is past"
    if faults:
        raise Invalid(faults)

"""Overrides: what alone loosens a template policy: on one server, with a reason, for a time."""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import pages, servers, templates
from gateway.registry.core import Change
from gateway.registry.faults import Invalid, Missing
from gateway.registry.fields import Id, Input, Name, Reason, Time
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.values import Action

_o = tables.overrides.c


MAX_DAYS = 366
"""An exception for longer is the rule: change the template's parameters or make a policy."""


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


def in_force(connection: Connection, server_id: str, now: str) -> list[Row[Any]]:
    """The server's overrides that have not expired."""
    query = select(tables.overrides).where(_o.server_id == server_id, _o.expires_at > now)
    return list(connection.execute(query.order_by(_o.id)))


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
    wrong = _policy_fault(change, server, new.policy_id)
    if wrong:
        faults["policy_id"] = wrong
    if new.agent_id is not None and not pages.exists(
        change.connection, tables.agents, change.project_id, new.agent_id
    ):
        faults["agent_id"] = "no such agent"
    if new.expires_at <= change.now:
        faults["expires_at"] = "is past"
    elif new.expires_at > after(change.now, MAX_DAYS * 86_400):
        faults["expires_at"] = f"is more than {MAX_DAYS} days away"
    if faults:
        raise Invalid(faults)


def _policy_fault(change: Change, server: Row[Any], policy_id: str) -> str | None:
    if server.connector_type == templates.CUSTOM:
        return "this server has no template, so no policy to override"
    template = templates.bound(change.templates, server)
    if template.policy(policy_id) is None:
        there = ", ".join(policy.id for policy in template.policies)
        return f"is no policy of {template.name}; there are: {there}"
    return None

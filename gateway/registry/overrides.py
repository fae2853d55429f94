"""Overrides: what alone loosens a template policy: on one server, with a reason, for a time."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, Row, delete, insert, select

from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import pages, servers, templates
from gateway.registry.core import Change
from gateway.registry.faults import Invalid, Missing
from gateway.registry.fields import Id, Input, Name, Reason, Time
from gateway.registry.loosening import override_loosens
from gateway.registry.pages import Page
from gateway.registry.weakening import Wish, govern
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Action, Override, ServerId

_o = tables.overrides.c


MAX_DAYS = 366
"""An exception for longer is the rule: change the template's parameters or make a policy."""


class NewOverride(Input):
    policy_id: Annotated[Name, Field(description="One of the server's template")]
    action: Annotated[Action, Field(description="What its findings say instead")]
    agent_id: Annotated[Id | None, Field(description="For this agent alone")] = None
    reason: Reason
    expires_at: Annotated[Time, Field(description="A year from now at the latest")]


def create(change: Change, server_id: str, new: NewOverride) -> Row[Any]:
    """Raises `Missing`, `Invalid`."""
    server = servers.get(change.connection, change.project_id, server_id)
    _check(change, server, new)
    override_id = new_id("ovr")
    values = new.model_dump(mode="json")
    loosens = _loosens(change, server, None, value(override_id, server_id, values))
    governed = govern(change, Wish("override.create", server_id, values, None), loosens=loosens)
    change.connection.execute(
        insert(tables.overrides).values(
            id=override_id,
            project_id=change.project_id,
            server_id=server_id,
            created_at=change.now,
            **values,
        )
    )
    codes = _codes(server_id, values) | governed
    change.record("override.created", override_id, codes=codes, after=values, reason=new.reason)
    return get(change.connection, change.project_id, server_id, override_id)


def remove(change: Change, server_id: str, override_id: str) -> None:
    """Raises `Missing`."""
    before = get(change.connection, change.project_id, server_id, override_id)
    server = servers.get(change.connection, change.project_id, server_id)
    old = {name: getattr(before, name) for name in NewOverride.model_fields}
    loosens = before.expires_at > change.now and _loosens(
        change, server, value(override_id, server_id, old), None
    )
    wish = Wish("override.remove", override_id, {"server_id": server_id}, old)
    governed = govern(change, wish, loosens=loosens)
    change.connection.execute(delete(tables.overrides).where(_o.id == override_id))
    codes = _codes(server_id, old) | governed
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


def _codes(server_id: str, values: Mapping[str, Any]) -> dict[str, Code]:
    return {
        "server": server_id,
        "policy": values["policy_id"],
        "agent": values["agent_id"],
        "action": values["action"],
    }


def value(override_id: str, server_id: str, values: Mapping[str, Any]) -> Override:
    """The override as what the hot path knows it by."""
    return Override(
        id=override_id,
        server_id=ServerId(server_id),
        policy_id=values["policy_id"],
        action=Action(values["action"]),
        agent_id=values["agent_id"],
        reason=values["reason"],
        expires_at=values["expires_at"],
    )


def _loosens(
    change: Change, server: Row[Any], before: Override | None, after: Override | None
) -> bool:
    override = after or before
    assert override is not None
    template = templates.available(change.templates, server)
    policy = None if template is None else template.policy(override.policy_id)
    others = [
        value(row.id, row.server_id, row._asdict())
        for row in in_force(change.connection, server.id, change.now)
        if row.policy_id == override.policy_id and row.id != override.id
    ]
    if policy is None:
        # Of a policy that nobody knows now, only a denial is surely no loosening to make.
        return after is None or after.action is not Action.DENY
    return override_loosens(before, after, others, policy.action)


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

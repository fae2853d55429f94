"""The policies that templates bring, as they stand on each server; disabled by an override.

They are not rows: a template's file says which there are, and a server's overrides what counts.
Their ids are ``<server id>:<policy id>``, which sort behind every rule's.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, select

from gateway.clock import after
from gateway.frozen import frozen
from gateway.policy.templates import Catalogue, TemplatePolicy
from gateway.registry import overrides, servers, templates
from gateway.registry.core import Change
from gateway.registry.faults import Invalid, Missing
from gateway.registry.overrides import NewOverride
from gateway.store import tables
from gateway.values import Action

DISABLED_DAYS = 30
"""For so long a template's policy is disabled when nobody says until when."""
_s = tables.servers.c


@frozen
class OnServer:
    """One policy of a template on one server."""

    server: Row[Any]
    policy: TemplatePolicy
    overrides: tuple[Row[Any], ...]
    """Those in force for everybody; of several the strictest counts."""

    @property
    def id(self) -> str:
        return f"{self.server.id}:{self.policy.id}"

    @property
    def action(self) -> Action:
        """What counts for everybody now; an override may say otherwise for one agent."""
        if not self.overrides:
            return self.policy.action
        return max((Action(row.action) for row in self.overrides), key=list(Action).index)


def listed(
    connection: Connection,
    catalogue: Catalogue,
    project_id: str,
    now: str,
    after_id: str | None,
    limit: int,
) -> list[OnServer]:
    """The next ones by id; empty when there are no more."""
    query = select(tables.servers).where(
        _s.project_id == project_id, _s.connector_type != templates.CUSTOM
    )
    found = [
        one
        for server in connection.execute(query.order_by(_s.id)).all()
        for one in _of_server(connection, catalogue, server, now)
    ]
    found.sort(key=lambda one: one.id)
    return [one for one in found if after_id is None or one.id > after_id][:limit]


def is_one(policy_id: str) -> bool:
    """Whether an id is made as those of templates' policies are."""
    return ":" in policy_id


def get(
    connection: Connection, catalogue: Catalogue, project_id: str, policy_id: str, now: str
) -> OnServer:
    """Raises `Missing`."""
    server_id, _, name = policy_id.partition(":")
    try:
        server = servers.get(connection, project_id, server_id)
    except Missing:
        raise Missing("policy") from None
    for one in _of_server(connection, catalogue, server, now):
        if one.policy.id == name:
            return one
    raise Missing("policy")


def disable(change: Change, policy_id: str, reason: str | None, expires_at: str | None) -> Row[Any]:
    """Override the policy to ALLOW for everybody on its server. Raises `Missing`, `Invalid`."""
    found = get(change.connection, change.templates, change.project_id, policy_id, change.now)
    if reason is None:
        raise Invalid({"reason": "is needed: a template's policy is not disabled without one"})
    new = NewOverride(
        policy_id=found.policy.id,
        action=Action.ALLOW,
        reason=reason,
        expires_at=expires_at or after(change.now, DISABLED_DAYS * 86_400),
    )
    return overrides.create(change, found.server.id, new)


def _of_server(
    connection: Connection, catalogue: Catalogue, server: Row[Any], now: str
) -> Iterable[OnServer]:
    template = templates.available(catalogue, server)
    if template is None:
        return []
    in_force = [
        row for row in overrides.in_force(connection, server.id, now) if row.agent_id is None
    ]
    return [
        OnServer(server, policy, tuple(row for row in in_force if row.policy_id == policy.id))
        for policy in template.policies
    ]

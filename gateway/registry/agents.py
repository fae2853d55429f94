"""Agents: what makes calls. Their states stop them, for a while or for good."""

from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, update

from gateway.ids import new_id
from gateway.registry import approvals, pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.registry.fields import Description, Input, Name, Patch, unsent
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Role

Move = Literal["pause", "resume", "suspend", "revoke"]

_MOVES: dict[Move, tuple[str, frozenset[str]]] = {
    "pause": ("PAUSED", frozenset({"ACTIVE"})),
    "resume": ("ACTIVE", frozenset({"PAUSED", "SUSPENDED"})),
    "suspend": ("SUSPENDED", frozenset({"ACTIVE", "PAUSED"})),
    "revoke": ("REVOKED", frozenset({"ACTIVE", "PAUSED", "SUSPENDED"})),
}
"""What a move leads to, and from which states. Nothing leads back from REVOKED."""


class NewAgent(Input):
    name: Name
    owner: Name
    description: Description = ""


class AgentPatch(Patch):
    """The name stays: policies are routed by it."""

    owner: Name = unsent()
    description: Description = unsent()


def create(change: Change, new: NewAgent) -> Row[Any]:
    """Raises `Conflict` when the name is taken."""
    agents = tables.agents
    taken = select(agents.c.id).where(
        agents.c.project_id == change.project_id, agents.c.name == new.name
    )
    if change.connection.execute(taken).first() is not None:
        raise Conflict("An agent of this name exists; names are never used twice.")
    agent_id = new_id("agt")
    change.connection.execute(
        insert(agents).values(
            id=agent_id,
            project_id=change.project_id,
            state="ACTIVE",
            created_at=change.now,
            **new.model_dump(),
        )
    )
    change.record("agent.created", agent_id, codes={"agent": agent_id}, after=new.model_dump())
    return get(change.connection, change.project_id, agent_id)


def patch(change: Change, agent_id: str, asked: AgentPatch) -> Row[Any]:
    before = get(change.connection, change.project_id, agent_id)
    sent = asked.sent()
    if not sent:
        return before
    change.connection.execute(
        update(tables.agents).where(tables.agents.c.id == agent_id).values(**sent)
    )
    old = {name: getattr(before, name) for name in sent}
    change.record("agent.changed", agent_id, codes={"agent": agent_id}, before=old, after=sent)
    return get(change.connection, change.project_id, agent_id)


def move(change: Change, agent_id: str, to: Move) -> Row[Any]:
    """Pause, resume, suspend or revoke. Raises `Conflict` where the state does not lead there."""
    before = get(change.connection, change.project_id, agent_id)
    state, sources = _MOVES[to]
    if before.state not in sources:
        raise Conflict(f"An agent that is {before.state} cannot be changed by {to}.")
    change.connection.execute(
        update(tables.agents).where(tables.agents.c.id == agent_id).values(state=state)
    )
    codes: dict[str, Code] = {"agent": agent_id}
    codes |= {"state_before": before.state, "state_after": state}
    if state != "ACTIVE":
        keys = tuple(row.id for row in keys_of(change, before))
        scope = approvals.of_agent(agent_id, keys)
        voided = approvals.withdraw(change, scope, f"the agent was made {state}")
        codes |= {"approvals_withdrawn": voided, "keys_refused": len(keys)}
    if state == "REVOKED":
        codes["keys_revoked"] = _revoke_keys(change, agent_id)
    change.record(f"agent.{to}", agent_id, codes=codes)
    return get(change.connection, change.project_id, agent_id)


def keys_of(change: Change, agent: Row[Any]) -> list[Row[Any]]:
    """The living keys that are bound to the agent or may speak for it: those its stop refuses."""
    k = tables.keys.c
    query = select(k.id, k.agent_id, k.may_assert).where(
        k.project_id == change.project_id,
        k.role == Role.PROJECT,
        k.state == "ACTIVE",
        k.expires_at.is_(None) | (k.expires_at > change.now),
    )
    rows: list[Row[Any]] = list(change.connection.execute(query))
    return [row for row in rows if row.agent_id == agent.id or agent.name in row.may_assert]


def _revoke_keys(change: Change, agent_id: str) -> int:
    """The agent's own keys die with it."""
    k = tables.keys.c
    dying = update(tables.keys).where(k.agent_id == agent_id, k.state == "ACTIVE")
    return change.connection.execute(dying.values(state="REVOKED")).rowcount


def get(connection: Connection, project_id: str, agent_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.agents, project_id, agent_id, "agent")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.agents).where(tables.agents.c.project_id == project_id)
    return pages.page(connection, query, tables.agents.c.id, cursor, limit)

"""Changes that loosen and wait for a second person; see `gateway.registry.weakening`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Row, func, insert, select, update

from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import budgets, overrides, pages, projects, rules, servers, tools, users
from gateway.registry.budgets import BudgetPatch
from gateway.registry.core import Change, Confirming
from gateway.registry.faults import Conflict, Forbidden
from gateway.registry.fields import Input, Reason
from gateway.registry.overrides import NewOverride
from gateway.registry.pages import Page
from gateway.registry.projects import ProjectPatch
from gateway.registry.rules import NewRule, RulePatch
from gateway.registry.servers import ServerPatch
from gateway.registry.tools import ToolPatch
from gateway.registry.weakening import Wish
from gateway.store import tables

DAYS = 7
"""A proposal that nobody confirmed by then is void."""
MAX_OPEN = 100
Asked = TypeVar("Asked", bound=Input)
_p = tables.proposals.c
_k = tables.keys.c


class Word(Input):
    """A second person's word."""

    reason: Reason


def propose(change: Change, wish: Wish) -> Row[Any]:
    """Store the wish; nothing of it takes effect. Raises `Conflict` when too many wait."""
    waiting = select(func.count()).where(
        _p.project_id == change.project_id, _p.state == "OPEN", _p.expires_at > change.now
    )
    if change.connection.execute(waiting).scalar_one() >= MAX_OPEN:
        raise Conflict(f"{MAX_OPEN} proposals wait already; confirm or reject some first.")
    proposal_id = new_id("prp")
    change.connection.execute(
        insert(tables.proposals).values(
            id=proposal_id,
            project_id=change.project_id,
            kind=wish.kind,
            subject=wish.subject,
            body=wish.body,
            before=wish.before,
            state="OPEN",
            proposed_by=change.by.person,
            proposed_key=change.by.id,
            created_at=change.now,
            expires_at=after(change.now, DAYS * 86_400),
        )
    )
    codes = {"kind": wish.kind, "changes": wish.subject, "anchor": "urgent"}
    change.record("proposal.made", proposal_id, codes=codes, before=wish.before, after=wish.body)
    return get(change.connection, change.project_id, proposal_id)


def confirm(change: Change, proposal_id: str, word: Word) -> Row[Any]:
    """Make the change now. Raises `Conflict`, `Forbidden` for the same person, and whatever the
    change itself may raise by now."""
    row = _open(change, proposal_id)
    _check_second(change, row)
    confirmed = replace(change, confirming=Confirming(proposal_id, row.before))
    _MAKE[row.kind](confirmed, row.subject or "", row.body)
    return _decide(change, row, "CONFIRMED", word)


def reject(change: Change, proposal_id: str, word: Word) -> Row[Any]:
    """Void the proposal; whoever made it may do so too. Raises `Conflict`."""
    return _decide(change, _open(change, proposal_id), "REJECTED", word)


def get(connection: Connection, project_id: str, proposal_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.proposals, project_id, proposal_id, "proposal")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.proposals).where(_p.project_id == project_id)
    return pages.page(connection, query, _p.id, cursor, limit)


def state_of(row: Row[Any], now: str) -> str:
    """OPEN, CONFIRMED, REJECTED or EXPIRED."""
    return "EXPIRED" if row.state == "OPEN" and row.expires_at <= now else str(row.state)


def _open(change: Change, proposal_id: str) -> Row[Any]:
    row = get(change.connection, change.project_id, proposal_id)
    state = state_of(row, change.now)
    if state != "OPEN":
        raise Conflict(f"The proposal is {state.lower()} already.")
    return row


def _check_second(change: Change, row: Row[Any]) -> None:
    """Another person, who can have had neither's secret from the other."""
    person = change.by.person
    proposer = _people(change, row.proposed_key)
    if person == row.proposed_by or person in proposer:
        raise Forbidden("Who proposed it cannot confirm it; another administrator must.")
    if row.proposed_by in _people(change, change.by.id):
        raise Forbidden(
            f"{row.proposed_by} knows this key or password; rotate it, or change it, yourself."
        )


def _people(change: Change, key_id: str) -> set[str]:
    """Who owns the key and who was last shown its secret; the same of a user and their password."""
    query = select(_k.owner, _k.created_by, _k.rotated_by).where(
        _k.id == key_id, _k.project_id == change.project_id
    )
    row = change.connection.execute(query).first()
    if row is None:
        return users.knowing(change.connection, change.project_id, key_id)
    return {row.owner, row.rotated_by or row.created_by}


def _decide(change: Change, row: Row[Any], state: str, word: Word) -> Row[Any]:
    change.connection.execute(
        update(tables.proposals)
        .where(_p.id == row.id)
        .values(
            state=state,
            decided_by=change.by.person,
            decided_at=change.now,
            decision_reason=word.reason,
        )
    )
    codes = {"kind": row.kind, "changes": row.subject, "anchor": "urgent"}
    change.record(f"proposal.{state.lower()}", row.id, codes=codes, reason=word.reason)
    return get(change.connection, change.project_id, row.id)


def _project(change: Change, _subject: str, body: Mapping[str, Any]) -> object:
    return projects.patch(change, _read(ProjectPatch, body))


def _read(kind: type[Asked], body: Mapping[str, Any]) -> Asked:
    # Kept as JSON, and strict types are read otherwise from JSON than from values.
    return kind.model_validate_json(orjson.dumps(body))


_Make = Callable[[Change, str, Mapping[str, Any]], object]
_MAKE: Mapping[str, _Make] = {
    "rule.create": lambda change, _, body: rules.create(change, _read(NewRule, body)),
    "rule.patch": lambda change, id_, body: rules.patch(change, id_, _read(RulePatch, body)),
    "rule.remove": lambda change, id_, _: rules.remove(change, id_),
    "override.create": lambda change, id_, body: overrides.create(
        change, id_, _read(NewOverride, body)
    ),
    "override.remove": lambda change, id_, body: overrides.remove(change, body["server_id"], id_),
    "project.patch": _project,
    "project.weakening": _project,
    "server.patch": lambda change, id_, body: servers.patch(change, id_, _read(ServerPatch, body)),
    "tool.patch": lambda change, id_, body: tools.patch(change, id_, _read(ToolPatch, body)),
    "budget.patch": lambda change, id_, body: budgets.patch(change, id_, _read(BudgetPatch, body)),
    "budget.remove": lambda change, id_, _: budgets.remove(change, id_),
}

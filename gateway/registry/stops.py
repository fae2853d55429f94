"""The emergency stop: raised in one transaction, in force with its commit, lifted with a reason."""

from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Row, insert, select, true, update

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.registry import agents, approvals, pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Invalid
from gateway.registry.fields import Id, Input, Reason
from gateway.registry.pages import Page
from gateway.registry.stop_file import FILE_STOP
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Role

_s = tables.stops.c


class NewStop(Input):
    scope: Literal["all", "server", "agent"]
    target_id: Annotated[Id | None, Field(description="The server or agent; none with `all`")] = (
        None
    )
    reason: Reason


class Lift(Input):
    reason: Reason


@frozen
class Raised:
    """A stop in force, and what it voided."""

    row: Row[Any]
    denied_approvals: int
    refused_keys: int
    """Project keys of which every call is refused now."""


def raise_stop(change: Change, new: NewStop) -> Raised:
    """Stop the project, a server or an agent; void what was pending or granted there.

    Raises `Invalid`.
    """
    _check(change, new)
    keys = _refused_keys(change, new)
    stop_id = new_id("stp")
    change.connection.execute(
        insert(tables.stops).values(
            id=stop_id,
            project_id=change.project_id,
            raised_by=change.by.person,
            stopped_at=change.now,
            **new.model_dump(),
        )
    )
    denied = approvals.withdraw(change, _scope(new, keys), "emergency stop")
    codes = {
        "scope": new.scope,
        "target": new.target_id,
        "approvals_withdrawn": denied,
        "keys_refused": len(keys),
    }
    change.record("stop.raised", stop_id, codes=codes, reason=new.reason)
    return Raised(get(change.connection, change.project_id, stop_id), denied, len(keys))


def raised_by_file(change: Change, reason: str) -> None:
    """Void what the deployment-wide stop covers in this project, and say so on its trail."""
    denied = approvals.withdraw(change, true(), "emergency stop")
    codes: dict[str, Code] = {"scope": "all", "target": None, "approvals_withdrawn": denied}
    change.record("stop.raised", FILE_STOP, codes=codes, reason=reason)


def lifted_by_file(change: Change) -> None:
    change.record("stop.lifted", FILE_STOP, codes={"scope": "all", "target": None})


def lift(change: Change, stop_id: str, reason: str) -> Row[Any]:
    """End one stop; others stay. Raises `Conflict` when it is lifted already."""
    row = get(change.connection, change.project_id, stop_id)
    lifted = change.connection.execute(
        update(tables.stops)
        .where(_s.id == stop_id, _s.lifted_at.is_(None))
        .values(lifted_at=change.now, lifted_by=change.by.person, lift_reason=reason)
    )
    if lifted.rowcount != 1:
        raise Conflict("The stop is lifted already.")
    codes = {"scope": row.scope, "target": row.target_id}
    change.record("stop.lifted", stop_id, codes=codes, reason=reason)
    return get(change.connection, change.project_id, stop_id)


def get(connection: Connection, project_id: str, stop_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.stops, project_id, stop_id, "stop")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.stops).where(_s.project_id == project_id)
    return pages.page(connection, query, _s.id, cursor, limit)


def _check(change: Change, new: NewStop) -> None:
    if new.scope == "all":
        if new.target_id is not None:
            raise Invalid({"target_id": "a stop of everything has none"})
        return
    table = tables.servers if new.scope == "server" else tables.agents
    if new.target_id is None:
        raise Invalid({"target_id": f"is needed: the id of the {new.scope}"})
    if not pages.exists(change.connection, table, change.project_id, new.target_id):
        raise Invalid({"target_id": f"no such {new.scope}"})


def _refused_keys(change: Change, new: NewStop) -> tuple[str, ...]:
    """Keys that can do nothing while the stop stands."""
    if new.scope == "agent" and new.target_id is not None:
        agent = agents.get(change.connection, change.project_id, new.target_id)
        return tuple(row.id for row in agents.keys_of(change, agent))
    k = tables.keys.c
    query = select(k.id, k.server_ids).where(
        k.project_id == change.project_id,
        k.role == Role.PROJECT,
        k.state == "ACTIVE",
        k.expires_at.is_(None) | (k.expires_at > change.now),
    )
    rows = list(change.connection.execute(query))
    if new.scope == "server":
        rows = [row for row in rows if row.server_ids == [new.target_id]]
    return tuple(row.id for row in rows)


def _scope(new: NewStop, key_ids: tuple[str, ...]) -> ColumnElement[bool]:
    if new.scope == "all" or new.target_id is None:
        return true()
    if new.scope == "server":
        return approvals.of_server(new.target_id)
    return approvals.of_agent(new.target_id, key_ids)

"""The project's setting `weakening`: who may loosen, alone or with a second person.

Each change that may loosen asks `govern` before it writes anything. Whoever holds the data
directory (the operator) is not asked: that is the way out of ``forbidden``.
"""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Connection, select, union

from gateway.frozen import frozen
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Forbidden
from gateway.registry.fields import folded
from gateway.store import tables
from gateway.trace.record import Field
from gateway.values import Role

Mode = Literal["allowed", "second_person", "forbidden"]
_UNGOVERNED = ("operator", "gateway")


@frozen
class Wish:
    """A change as it was asked for, so that it can be made later by another person."""

    kind: str
    """The function that makes it; see `gateway.registry.proposals`."""
    subject: str | None
    """The id of what it changes; None for what is new."""
    body: Mapping[str, Any]
    before: Mapping[str, Any] | None
    """What it changes, as it is now."""


class NeedsSecondPerson(Forbidden):
    """The change loosens and was not made; it may be stored as a proposal instead."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        super().__init__("This loosens, and the project wants a second person to confirm that.")


def govern(change: Change, wish: Wish, *, loosens: bool) -> dict[str, Field]:
    """What the change's record says of it. Raises `NeedsSecondPerson`, `Forbidden`, `Conflict`."""
    confirming = change.confirming
    if confirming is not None and confirming.before != wish.before:
        raise Conflict("What it would change is not as it was when it was proposed; propose anew.")
    if not loosens:
        return {}
    codes: dict[str, Field] = {"loosens": True, "anchor": "urgent"}
    if change.by.id in _UNGOVERNED:
        return codes
    current = mode(change.connection, change.project_id, change.now)
    if current == "forbidden" and wish.kind != "project.weakening":
        raise Forbidden("This loosens, which the project's setting `weakening` forbids.")
    if confirming is not None:
        return {**codes, "proposal": confirming.proposal_id}
    if current != "allowed":
        raise NeedsSecondPerson(wish)
    return codes


def mode(connection: Connection, project_id: str, now: str) -> Mode:
    """The setting in force."""
    found: Mode | None = connection.execute(
        select(tables.projects.c.weakening).where(tables.projects.c.id == project_id)
    ).scalar_one()
    return by_default(connection, project_id, now) if found is None else found


def by_default(connection: Connection, project_id: str, now: str) -> Mode:
    """A second person once there are two administrators, two people."""
    k, u = tables.keys.c, tables.users.c
    owners = select(k.owner).where(
        k.project_id == project_id,
        k.role == Role.ADMIN,
        k.state == "ACTIVE",
        k.expires_at.is_(None) | (k.expires_at > now),
    )
    names = select(u.name).where(u.project_id == project_id, u.role == Role.ADMIN)
    people = {folded(person) for person in connection.execute(union(owners, names)).scalars()}
    return "second_person" if len(people) > 1 else "allowed"

"""People who sign in, each with a role. Wrong passwords lock a person out, longer each time.

A password is hashed before its transaction begins (`hashed`), because that takes a while and the
writing thread serves everybody.
"""

import importlib
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from pydantic import Field
from sqlalchemy import Connection, Row, delete, insert, select, update

from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import pages
from gateway.registry.core import Actor, Change, Registry
from gateway.registry.faults import Conflict, Fault
from gateway.registry.fields import Input, Name, Patch, folded, unsent
from gateway.registry.pages import Page
from gateway.registry.people import User, UserId
from gateway.store import tables
from gateway.values import ProjectId, Role

UserRole = Literal["admin", "approver", "auditor"]
MIN_PASSWORD = 12
Password = Annotated[str, Field(min_length=MIN_PASSWORD, max_length=256)]

FREE_FAILURES = 4
LOCK_SECONDS = 30
MAX_LOCK_SECONDS = 900
_AT_ONCE = anyio.CapacityLimiter(2)
"""Hashes made at once: each needs 19 MiB and a core."""

_u = tables.users.c


class SignInRefused(Fault):
    """Never says whether there is such a person."""

    def __init__(self) -> None:
        super().__init__(
            "Name or password is wrong, or too many attempts were made; wait and try again."
        )


class NewUser(Input):
    """A person. The name is what they sign in with, and how keys and agents name their owner."""

    name: Name
    role: UserRole
    password: Password | None = Field(
        default=None, description="Without it one is made, and shown once"
    )


class UserPatch(Patch):
    """A new password also ends a lock-out. The name stays: it says who approved and owned what."""

    role: UserRole = unsent()
    password: Password = unsent()


async def hashed(password: str) -> str:
    """A password's hash, made off the event loop."""
    hash_: str = await anyio.to_thread.run_sync(
        lambda: _passwords().hashed(password), limiter=_AT_ONCE
    )
    return hash_


def hashed_now(password: str) -> str:
    """As `hashed`, for commands."""
    hash_: str = _passwords().hashed(password)
    return hash_


def new_password() -> str:
    made: str = _passwords().made()
    return made


async def authenticate(
    registry: Registry, name: str, password: str, project: str | None = None
) -> User:
    """The person of this name and password. Raises `SignInRefused`.

    `project` is a slug, needed where several projects know the name. The attempt is counted
    before the password is looked at, so that guesses made at once are no cheaper.
    """
    found = await registry.read(lambda c: _named(c, name, project))
    stored = None
    if found is not None:
        by = Actor.of_user(of(found))
        stored = await registry.change(by, lambda change: _attempt(change, found.id))
    right = await anyio.to_thread.run_sync(
        lambda: _passwords().matches(stored, password), limiter=_AT_ONCE
    )
    if found is None or stored is None or not right:
        raise SignInRefused
    return await registry.change(by, lambda change: _signed_in(change, found.id, stored))


async def change_password(registry: Registry, user: User, old: str, new: str) -> None:
    """Give oneself a password that nobody else knows. Raises `SignInRefused` for a wrong old one.

    All sessions of the person end, this one too.
    """
    by = Actor.of_user(user)
    stored = await registry.change(by, lambda change: _attempt(change, user.id))
    right = await anyio.to_thread.run_sync(
        lambda: _passwords().matches(stored, old), limiter=_AT_ONCE
    )
    if stored is None or not right:
        raise SignInRefused
    password_hash = await hashed(new)

    def both(change: Change) -> None:
        _signed_in(change, user.id, stored)
        patch(change, user.id, UserPatch(), password_hash)

    await registry.change(by, both)


def knowing(connection: Connection, project_id: str, user_id: str) -> set[str]:
    """The people who know the user's password: themselves, and who set it until they changed it."""
    query = select(_u.name, _u.password_set_by).where(_u.id == user_id, _u.project_id == project_id)
    row = connection.execute(query).first()
    return set() if row is None else set(row)


def create(change: Change, new: NewUser, password_hash: str) -> Row[Any]:
    """Raises `Conflict` when the project knows the name."""
    told = {"name": new.name, "role": new.role}
    values = {"password_hash": password_hash, "password_set_by": change.by.person}
    return make(change, told, values)


def make(change: Change, told: dict[str, str], values: dict[str, Any]) -> Row[Any]:
    """Raises `Conflict`. ``told`` is name and role; ``values`` what nobody is told."""
    name, role = told["name"], told["role"]
    taken = select(_u.id).where(_u.project_id == change.project_id, _u.folded_name == folded(name))
    if change.connection.execute(taken).first() is not None:
        raise Conflict("A user of this name exists.")
    user_id = new_id("usr")
    change.connection.execute(
        insert(tables.users).values(
            id=user_id,
            project_id=change.project_id,
            folded_name=folded(name),
            failures=0,
            created_by=change.by.person,
            created_at=change.now,
            **told,
            **values,
        )
    )
    change.record("user.created", user_id, codes={"user": user_id, "role": role}, after=told)
    return get(change.connection, change.project_id, user_id)


def patch(change: Change, user_id: str, asked: UserPatch, password_hash: str | None) -> Row[Any]:
    """Change role or password; both end the person's sessions."""
    before = get(change.connection, change.project_id, user_id)
    if before.external_id is not None:
        raise Conflict(
            "The identity provider has this person's password and groups; change it there."
        )
    values: dict[str, Any] = {}
    if asked.role != before.role and "role" in asked.model_fields_set:
        values["role"] = asked.role
    if password_hash is not None:
        values |= {
            "password_hash": password_hash,
            "password_set_by": change.by.person,
            "failures": 0,
            "locked_until": None,
        }
    if not values:
        return before
    change.connection.execute(update(tables.users).where(_u.id == user_id).values(**values))
    end_sessions(change, user_id)
    codes = {
        "user": user_id,
        "role": values.get("role", before.role),
        "new_password": password_hash is not None,
    }
    change.record("user.changed", user_id, codes=codes, before={"role": before.role})
    return get(change.connection, change.project_id, user_id)


def remove(change: Change, user_id: str) -> None:
    """The person can do nothing from the commit on. Nobody removes themselves by mistake."""
    row = get(change.connection, change.project_id, user_id)
    if change.by.id == user_id:
        raise Conflict("Nobody removes themselves; another administrator can.")
    end_sessions(change, user_id)
    change.connection.execute(delete(tables.users).where(_u.id == user_id))
    codes = {"user": user_id, "role": row.role}
    change.record("user.removed", user_id, codes=codes, before={"name": row.name})


def get(connection: Connection, project_id: str, user_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.users, project_id, user_id, "user")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.users).where(_u.project_id == project_id)
    return pages.page(connection, query, _u.id, cursor, limit)


def end_sessions(change: Change, user_id: str) -> None:
    sessions = tables.user_sessions
    change.connection.execute(delete(sessions).where(sessions.c.user_id == user_id))


def of(row: Row[Any]) -> User:
    """The value of a row."""
    has_password = row.external_id is None
    return User(UserId(row.id), ProjectId(row.project_id), row.name, Role(row.role), has_password)


def _named(connection: Connection, name: str, project: str | None) -> Row[Any] | None:
    query = select(tables.users).where(_u.folded_name == folded(name))
    if project is not None:
        slug = tables.projects.c.slug == project
        query = query.join(tables.projects, tables.projects.c.id == _u.project_id).where(slug)
    rows = connection.execute(query.limit(2)).all()
    return rows[0] if len(rows) == 1 else None


def _attempt(change: Change, user_id: str) -> str | None:
    """Count an attempt and return the hash to compare with; None while the person is locked out."""
    row = change.connection.execute(
        select(tables.users).where(_u.id == user_id).with_for_update()
    ).first()
    if row is None or (row.locked_until is not None and row.locked_until > change.now):
        return None
    failures = row.failures + 1
    values: dict[str, Any] = {"failures": failures}
    if failures > FREE_FAILURES:
        # Doubled a bounded number of times: 2 ** 10,000 is no sensible number of seconds.
        times = min(failures - FREE_FAILURES - 1, 10)
        seconds = min(LOCK_SECONDS * 2**times, MAX_LOCK_SECONDS)
        values["locked_until"] = after(change.now, seconds)
        change.record("user.locked", user_id, codes={"user": user_id, "failures": failures})
    change.connection.execute(update(tables.users).where(_u.id == user_id).values(**values))
    hash_: str = row.password_hash
    return hash_


def _signed_in(change: Change, user_id: str, password_hash: str) -> User:
    row = change.connection.execute(
        update(tables.users)
        .where(_u.id == user_id, _u.password_hash == password_hash)
        .values(failures=0, locked_until=None, signed_in_at=change.now)
        .returning(*_u)
    ).first()
    if row is None:  # removed, or given another password meanwhile
        raise SignInRefused
    return of(row)


def _passwords() -> Any:
    return importlib.import_module("gateway.registry.passwords")

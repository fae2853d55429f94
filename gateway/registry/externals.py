"""People who sign in at an identity provider: made at their first sign-in, without a password."""

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select, update

from gateway.frozen import frozen
from gateway.registry import sessions, users
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Conflict, Forbidden
from gateway.registry.fields import Name
from gateway.store import tables
from gateway.values import ProjectId, Role

_u = tables.users.c
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@frozen
class External:
    """Who a provider says somebody is, as far as it was checked."""

    issuer: str
    subject: str
    """The issuer never gives it to another person (OpenID Connect Core, section 2)."""
    name: str
    role: Role


def project_for(connection: Connection, slug: str | None) -> ProjectId:
    """The project that external people belong to. Raises `Conflict`."""
    query = select(tables.projects.c.id)
    if slug is not None:
        query = query.where(tables.projects.c.slug == slug)
    found = connection.execute(query.limit(2)).scalars().all()
    if len(found) != 1:
        raise Conflict("GATEWAY_OIDC_PROJECT must be the slug of a project.")
    return ProjectId(found[0])


def sign_in(change: Change, external: External) -> str:
    """Open a session and return its token. The role is what the provider says now.

    Somebody whose name another user has is refused: names tell who approved what. Raises
    `Conflict`, `Forbidden`.
    """
    external_id = f"{change.project_id} {external.issuer} {external.subject}"
    known = select(tables.users).where(_u.external_id == external_id)
    row = change.connection.execute(known).first()
    if row is None:
        told = {"name": _name(external.name), "role": str(external.role)}
        values = {
            "password_hash": "",  # no password has this hash
            "password_set_by": told["name"],
            "external_id": external_id,
        }
        row = users.make(change, told, values)
    elif row.role != external.role:
        users.end_sessions(change, row.id)
        codes = {"user": row.id, "role": str(external.role), "new_password": False}
        change.record("user.changed", row.id, codes=codes, before={"role": row.role})
    change.connection.execute(
        update(tables.users)
        .where(_u.id == row.id)
        .values(role=external.role, signed_in_at=change.now)
    )
    user = users.of(users.get(change.connection, change.project_id, row.id))
    return sessions.open(replace(change, by=Actor.of_user(user)), user)


def _name(given: str) -> str:
    try:
        return _NAME.validate_python(given)
    except ValidationError:
        raise Forbidden("The identity provider's name for you cannot be used here.") from None

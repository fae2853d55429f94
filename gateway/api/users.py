"""`/users`: people and their roles. A password stands only in the answer that made it."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import users
from gateway.registry.users import NewUser, UserPatch


class UserOut(Output):
    id: str
    name: str
    role: str
    locked_until: str | None
    """Until then no password is right: too many were wrong."""
    signed_in_at: str | None
    external: bool = False
    """They sign in at the identity provider, which also says their role."""
    created_by: str
    created_at: str


class NewUserOut(UserOut):
    password: str | None
    """The one that was made, shown this once; null when it was given."""


async def list_users(call: ApiCall, query: ListQuery) -> Listing[UserOut]:
    page = await call.read(lambda c: users.listed(c, call.project_id, query.cursor, query.limit))
    now = call.now
    return listing(page, lambda row: _shown(row, now))


async def create(call: ApiCall, body: NewUser) -> NewUserOut:
    made = None if body.password is not None else users.new_password()
    password_hash = await users.hashed(body.password or made or "")
    return await call.change(
        lambda change: NewUserOut(
            **_shown(users.create(change, body, password_hash), change.now).model_dump(),
            password=made,
        )
    )


async def patch(call: ApiCall, body: UserPatch) -> UserOut:
    given = body.sent().get("password")
    password_hash = None if given is None else await users.hashed(given)
    return await call.change(
        lambda change: _shown(users.patch(change, call.path["id"], body, password_hash), change.now)
    )


async def remove(call: ApiCall) -> None:
    await call.change(lambda change: users.remove(change, call.path["id"]))


def _shown(row: Row[Any], now: str) -> UserOut:
    shown = UserOut.model_validate(row)
    if row.external_id is not None:
        shown = shown.model_copy(update={"external": True})
    if shown.locked_until is not None and shown.locked_until <= now:
        return shown.model_copy(update={"locked_until": None})
    return shown

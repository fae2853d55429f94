"""`/keys`: the secret stands only in the answer to making or rotating one."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import keys
from gateway.registry.core import Change
from gateway.registry.keys import NewKey


class KeyOut(Output):
    id: str
    role: str
    name: str
    owner: str
    agent_id: str | None
    server_ids: list[str] | None
    may_assert: list[str]
    expires_at: str | None
    state: str
    created_by: str
    rotated_by: str | None
    created_at: str


class NewKeyOut(KeyOut):
    key: str
    """The secret: shown this once."""


async def list_keys(call: ApiCall, query: ListQuery) -> Listing[KeyOut]:
    page = await call.read(lambda c: keys.listed(c, call.project_id, query.cursor, query.limit))
    return listing(page, _shown)


async def create(call: ApiCall, body: NewKey) -> NewKeyOut:
    return await call.change(lambda change: _with_secret(*keys.create(change, body)))


async def rotate(call: ApiCall) -> NewKeyOut:
    def change_it(change: Change) -> NewKeyOut:
        return _with_secret(*keys.rotate(change, call.path["id"]))

    return await call.change(change_it)


async def revoke(call: ApiCall) -> KeyOut:
    return await call.change(lambda change: _shown(keys.revoke(change, call.path["id"])))


def _shown(row: Row[Any]) -> KeyOut:
    return KeyOut.model_validate(row)


def _with_secret(row: Row[Any], secret: str) -> NewKeyOut:
    return NewKeyOut(**_shown(row).model_dump(), key=secret)

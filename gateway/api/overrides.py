"""`/mcp/servers/{id}/overrides`: reasoned, expiring exceptions to a template's policies."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import overrides
from gateway.registry.overrides import NewOverride
from gateway.values import Action


class OverrideOut(Output):
    id: str
    server_id: str
    policy_id: str
    action: Action
    agent_id: str | None
    reason: str
    expires_at: str
    created_at: str


async def list_overrides(call: ApiCall, query: ListQuery) -> Listing[OverrideOut]:
    page = await call.read(
        lambda c: overrides.listed(c, call.project_id, call.path["id"], query.cursor, query.limit)
    )
    return listing(page, _shown)


async def create(call: ApiCall, body: NewOverride) -> OverrideOut:
    return await call.change(lambda change: _shown(overrides.create(change, call.path["id"], body)))


async def remove(call: ApiCall) -> None:
    path = call.path
    await call.change(lambda change: overrides.remove(change, path["id"], path["override_id"]))


def _shown(row: Row[Any]) -> OverrideOut:
    return OverrideOut.model_validate(row)

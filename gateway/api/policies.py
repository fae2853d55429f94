"""`/mcp/policies`: the rules that a click makes."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import rules
from gateway.registry.rules import NewRule, RulePatch
from gateway.values import Action, Risk


class PolicyOut(Output):
    id: str
    action: Action
    agent_id: str | None
    server_id: str | None
    mcp_tool_id: str | None
    tool_pattern: str | None
    min_risk: Risk | None
    expires_at: str | None
    reason: str
    enabled: bool
    is_auto_generated: bool = False
    """Made by a connector template."""
    created_at: str


async def list_policies(call: ApiCall, query: ListQuery) -> Listing[PolicyOut]:
    page = await call.read(lambda c: rules.listed(c, call.project_id, query.cursor, query.limit))
    return listing(page, _shown)


async def create(call: ApiCall, body: NewRule) -> PolicyOut:
    return await call.change(lambda change: _shown(rules.create(change, body)))


async def get(call: ApiCall) -> PolicyOut:
    return _shown(await call.read(lambda c: rules.get(c, call.project_id, call.path["id"])))


async def patch(call: ApiCall, body: RulePatch) -> PolicyOut:
    return await call.change(lambda change: _shown(rules.patch(change, call.path["id"], body)))


async def remove(call: ApiCall) -> None:
    await call.change(lambda change: rules.remove(change, call.path["id"]))


def _shown(row: Row[Any]) -> PolicyOut:
    return PolicyOut.model_validate(row)

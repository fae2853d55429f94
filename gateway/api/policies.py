"""`/mcp/policies`: the rules that a click makes, and the policies that templates bring."""

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, Query
from gateway.registry import pages, rules, template_policies
from gateway.registry.faults import Conflict
from gateway.registry.fields import Reason, Time
from gateway.registry.rules import NewRule, RulePatch
from gateway.registry.template_policies import OnServer
from gateway.values import Action, Risk


class PolicyOut(Output):
    """A rule, or a template's policy on one server; what only one of them has is null."""

    id: str
    action: Action
    """What counts now for everybody."""
    agent_id: str | None
    server_id: str | None
    mcp_tool_id: str | None
    tool_pattern: str | None
    min_risk: Risk | None
    expires_at: str | None
    reason: str
    enabled: bool
    """False for a template's policy that an override turns to ALLOW for everybody."""
    is_auto_generated: bool = False
    """Made by a connector template."""
    template: str | None = None
    policy_id: str | None = None
    """As decisions and overrides name a template's policy."""
    overrides: list[str] = []
    """Of a template's policy: the overrides in force for everybody on the server."""
    created_at: str


class RemoveQuery(Query):
    """What disabling a template's policy needs; a rule is removed without."""

    reason: Reason | None = None
    expires_at: Annotated[
        Time | None, Field(description="When the policy counts again; 30 days by default")
    ] = None


async def list_policies(call: ApiCall, query: ListQuery) -> Listing[PolicyOut]:
    """Rules first, then templates' policies, in the order of their ids."""

    def read(connection: Connection) -> Listing[PolicyOut]:
        page = rules.listed(connection, call.project_id, query.cursor, query.limit)
        items = [_shown(row) for row in page.items]
        if page.next_cursor is not None:
            return Listing(items=items, next_cursor=page.next_cursor)
        return _with_templates(call, connection, query, items)

    return await call.read(read)


async def create(call: ApiCall, body: NewRule) -> PolicyOut:
    return await call.change(lambda change: _shown(rules.create(change, body)))


async def get(call: ApiCall) -> PolicyOut:
    def read(connection: Connection) -> PolicyOut:
        policy_id = call.path["id"]
        if not template_policies.is_one(policy_id):
            return _shown(rules.get(connection, call.project_id, policy_id))
        catalogue = call.context.registry.templates
        return _brought(
            template_policies.get(connection, catalogue, call.project_id, policy_id, call.now)
        )

    return await call.read(read)


async def patch(call: ApiCall, body: RulePatch) -> PolicyOut:
    if template_policies.is_one(call.path["id"]):
        await get(call)
        raise Conflict("A template's policy is changed by an override on its server.")
    return await call.change(lambda change: _shown(rules.patch(change, call.path["id"], body)))


async def remove(call: ApiCall, query: RemoveQuery) -> None:
    policy_id = call.path["id"]
    if template_policies.is_one(policy_id):
        await call.change(
            lambda change: _no_answer(
                template_policies.disable(change, policy_id, query.reason, query.expires_at)
            )
        )
    else:
        await call.change(lambda change: rules.remove(change, policy_id))


def _with_templates(
    call: ApiCall, connection: Connection, query: ListQuery, items: list[PolicyOut]
) -> Listing[PolicyOut]:
    since = None if query.cursor is None else pages.decode(query.cursor, (str,))[0]
    more = query.limit - len(items)
    found = template_policies.listed(
        connection,
        call.context.registry.templates,
        call.project_id,
        call.now,
        since if since is not None and template_policies.is_one(since) else None,
        more + 1,
    )
    items = [*items, *(_brought(one) for one in found[:more])]
    last = items[-1].id if len(found) > more and items else None
    return Listing(items=items, next_cursor=None if last is None else pages.encode([last]))


def _shown(row: Row[Any]) -> PolicyOut:
    return PolicyOut.model_validate(row)


def _brought(one: OnServer) -> PolicyOut:
    return PolicyOut(
        id=one.id,
        action=one.action,
        agent_id=None,
        server_id=one.server.id,
        mcp_tool_id=None,
        tool_pattern=None,
        min_risk=None,
        expires_at=None,
        reason=one.policy.title,
        enabled=one.action is not Action.ALLOW or not one.overrides,
        is_auto_generated=True,
        template=one.server.connector_type,
        policy_id=one.policy.id,
        overrides=[row.id for row in one.overrides],
        created_at=one.server.created_at,
    )


def _no_answer(_row: Row[Any]) -> None:
    """A removal answers nothing; the override is in the list."""

"""`/mcp/servers/{id}/tools` and `/mcp/tools`: what is offered, what was accepted."""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from gateway import amounts
from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.policy.templates import Template
from gateway.registry import rules, servers, templates, tools
from gateway.registry.core import Change
from gateway.registry.tools import Acceptance, ToolPatch
from gateway.values import Risk


class CostOut(Output):
    price: str
    argument: str | None
    decimal_string: bool
    cap: str | None


class ToolOut(Output):
    id: str
    server_id: str
    name: str
    pin: str
    is_poisoning_suspect: bool
    risk_level: Risk
    risk_computed: Risk
    risk_override: Risk | None
    risk_reasons: list[str]
    cost: CostOut | None
    """Of a call; null where it costs nothing."""
    description_sha256: str
    definition_sha256: str
    """Of the definition that the server shows now: what `accept` wants to be told."""
    accepted_sha256: str | None
    covered_by: list[str]
    """Policies of the server's template, and rules for some agent at least, that apply to it."""
    first_seen: str
    last_seen: str


class DefinitionOut(Output):
    definition: dict[str, Any]
    definition_sha256: str
    risk: Risk


class DiffOut(Output):
    """What was accepted beside what the server shows now."""

    id: str
    name: str
    pin: str
    accepted: DefinitionOut | None
    current: DefinitionOut
    changed: list[str]
    """Members that differ."""


async def list_tools(call: ApiCall, query: ListQuery) -> Listing[ToolOut]:
    def read(connection: Connection) -> Listing[ToolOut]:
        server = servers.get(connection, call.project_id, call.path["id"])
        in_force = rules.in_force(connection, call.project_id, call.now)
        page = tools.listed(connection, call.project_id, server.id, query.cursor, query.limit)
        template = templates.available(call.context.registry.templates, server)
        return listing(page, lambda row: _shown(row, in_force, template))

    return await call.read(read)


async def patch(call: ApiCall, body: ToolPatch) -> ToolOut:
    return await call.change(
        lambda change: _now(change, tools.patch(change, call.path["id"], body))
    )


async def diff(call: ApiCall) -> DiffOut:
    row = await call.read(lambda c: tools.get(c, call.project_id, call.path["id"]))
    accepted = None
    if row.accepted is not None:
        accepted = DefinitionOut(
            definition=orjson.loads(row.accepted),
            definition_sha256=row.accepted_sha256,
            risk=row.accepted_risk,
        )
    current = DefinitionOut(
        definition=orjson.loads(row.current),
        definition_sha256=row.current_sha256,
        risk=row.risk_computed,
    )
    return DiffOut(
        id=row.id,
        name=row.name,
        pin=row.pin,
        accepted=accepted,
        current=current,
        changed=tools.changed_members(row),
    )


async def accept(call: ApiCall, body: Acceptance) -> ToolOut:
    return await call.change(
        lambda change: _now(change, tools.accept(change, call.path["id"], body))
    )


def _now(change: Change, row: Row[Any]) -> ToolOut:
    server = servers.get(change.connection, change.project_id, row.server_id)
    in_force = rules.in_force(change.connection, change.project_id, change.now)
    return _shown(row, in_force, templates.available(change.templates, server))


def _shown(row: Row[Any], in_force: list[Row[Any]], template: Template | None) -> ToolOut:
    by_template = [] if template is None else template.covering(row.name)
    return ToolOut(
        id=row.id,
        server_id=row.server_id,
        name=row.name,
        pin=row.pin,
        is_poisoning_suspect=row.pin in ("CHANGED", "SUSPECT"),
        risk_level=tools.risk_of(row),
        risk_computed=row.risk_computed,
        risk_override=row.risk_override,
        risk_reasons=row.risk_reasons,
        cost=row.cost and _cost(row.cost),
        description_sha256=row.description_sha256,
        definition_sha256=row.current_sha256,
        accepted_sha256=row.accepted_sha256,
        covered_by=[*by_template, *rules.covering(in_force, row)],
        first_seen=row.first_seen,
        last_seen=row.last_seen,
    )


def _cost(cost: Mapping[str, Any]) -> CostOut:
    cap = cost["cap"]
    told = {
        "price": amounts.shown(cost["price"]),
        "cap": None if cap is None else amounts.shown(cap),
    }
    return CostOut.model_validate({**cost, **told})

"""Tools: shown, accepted as they were shown, their risk overridden.

Only `accept` of exactly what was shown, or the first approval of the server after a complete
scan, makes a tool callable; `gateway.registry.pins` notices when it changes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from pydantic import Field
from sqlalchemy import Connection, Row, select, update

from gateway import amounts
from gateway.registry import pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.registry.fields import Amount, Input, Name, Patch, Reason, Sha256, unsent
from gateway.registry.loosening import cost_loosens
from gateway.registry.pages import Page
from gateway.registry.reading import stricter
from gateway.registry.weakening import Wish, govern
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.trace.record import bounded
from gateway.values import Risk

_t = tables.tools.c
_RISKS = list(Risk)


class ToolCost(Input):
    """What one call costs: at least the price, and what the argument says."""

    price: Amount = 0
    argument: Name | None = None
    decimal_string: bool = False
    cap: Amount | None = None


class ToolPatch(Patch):
    risk_override: Annotated[
        Risk | None, Field(description="Your view of its risk; null: what was computed counts")
    ] = unsent()
    cost: Annotated[ToolCost | None, Field(description="Counted by budgets of cost")] = unsent()
    reason: Reason


class Acceptance(Input):
    """The digest is the one that was shown: another definition is not accepted with it."""

    definition_sha256: Annotated[Sha256, Field(description="Of the definition that was shown")]
    reason: Reason


def accept_scanned(change: Change, server_id: str) -> int:
    """Accept the server's new tools, as its approval does; suspects and changed ones stay out."""
    waiting = select(tables.tools).where(_t.server_id == server_id, _t.pin == "PENDING")
    rows = list(change.connection.execute(waiting))
    for row in rows:
        _accept(change, row)
    return len(rows)


def accept(change: Change, tool_id: str, asked: Acceptance) -> Row[Any]:
    """Accept the current definition. Raises `Conflict` when it is not the one that was shown."""
    row = get(change.connection, change.project_id, tool_id)
    if row.current_sha256 != asked.definition_sha256:
        raise Conflict("The definition is another one by now; look at the difference again.")
    if row.pin == "GONE":
        raise Conflict("The server does not offer this tool any more.")
    _accept(change, row)
    codes = {
        **_codes(row),
        "definition_before": row.accepted_sha256,
        "definition_after": row.current_sha256,
        "risk_before": row.accepted_risk,
        "risk_after": row.risk_computed,
    }
    change.record("tool.accepted", tool_id, codes=codes, reason=asked.reason)
    return get(change.connection, change.project_id, tool_id)


def patch(change: Change, tool_id: str, asked: ToolPatch) -> Row[Any]:
    """Set or lift an administrator's own view of the risk, and what a call costs."""
    row = get(change.connection, change.project_id, tool_id)
    sent = _sent(asked)
    if not sent:
        return row
    body = asked.model_dump(mode="json", exclude_unset=True)
    wish = Wish("tool.patch", tool_id, body, {**_risks(row), "cost": row.cost})
    governed = govern(change, wish, loosens=_loosens(row, sent))
    change.connection.execute(update(tables.tools).where(_t.id == tool_id).values(**sent))
    if "risk_override" in sent:
        codes: dict[str, Code] = {**_codes(row), **governed}
        codes |= {"risk_before": row.risk_override, "risk_after": asked.risk_override}
        change.record("tool.risk_overridden", tool_id, codes=codes, reason=asked.reason)
    if "cost" in sent:
        before, after = {"cost": row.cost}, {"cost": sent["cost"]}
        change.record(
            "tool.cost_set",
            tool_id,
            codes={**_codes(row), **governed},
            before=before,
            after=after,
            reason=asked.reason,
        )
    return get(change.connection, change.project_id, tool_id)


def _sent(asked: ToolPatch) -> dict[str, Any]:
    sent: dict[str, Any] = {}
    if "risk_override" in asked.model_fields_set:
        sent["risk_override"] = asked.risk_override
    if "cost" in asked.model_fields_set:
        cost = asked.cost
        sent["cost"] = cost and {
            "price": amounts.of_setting(cost.price),
            "argument": cost.argument,
            "decimal_string": cost.decimal_string,
            "cap": None if cost.cap is None else amounts.of_setting(cost.cap),
        }
    return sent


def _loosens(row: Row[Any], sent: Mapping[str, Any]) -> bool:
    computed = stricter(row.risk_computed, row.accepted_risk)
    override = sent.get("risk_override", row.risk_override)
    milder = _RISKS.index(override or computed) < _RISKS.index(risk_of(row))
    return milder or ("cost" in sent and cost_loosens(row.cost, sent["cost"]))


def _risks(row: Row[Any]) -> dict[str, str | None]:
    names = ("risk_computed", "accepted_risk", "risk_override")
    return {name: getattr(row, name) for name in names}


def get(connection: Connection, project_id: str, tool_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.tools, project_id, tool_id, "tool")


def listed(
    connection: Connection, project_id: str, server_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.tools).where(_t.project_id == project_id, _t.server_id == server_id)
    return pages.page(connection, query, _t.id, cursor, limit)


def of_server(connection: Connection, server_id: str) -> list[Row[Any]]:
    """Every tool that the server offers now."""
    query = select(tables.tools).where(_t.server_id == server_id, _t.pin != "GONE")
    return list(connection.execute(query.order_by(_t.name)))


def risk_of(row: Row[Any]) -> Risk:
    """What binds: the override, else the stricter of what was accepted and what is shown."""
    if row.risk_override is not None:
        return Risk(row.risk_override)
    return stricter(row.risk_computed, row.accepted_risk)


def changed_members(row: Row[Any]) -> list[str]:
    """Which members of the definition differ between the accepted and the current one."""
    accepted = orjson.loads(row.accepted) if row.accepted is not None else {}
    current = orjson.loads(row.current)
    missing = object()
    return sorted(
        name
        for name in accepted.keys() | current.keys()
        if accepted.get(name, missing) != current.get(name, missing)
    )


def _accept(change: Change, row: Row[Any]) -> None:
    change.connection.execute(
        update(tables.tools)
        .where(_t.id == row.id)
        .values(
            pin="ACCEPTED",
            accepted=row.current,
            accepted_sha256=row.current_sha256,
            accepted_risk=row.risk_computed,
        )
    )


def _codes(row: Row[Any]) -> dict[str, str]:
    return {"server": row.server_id, "tool": bounded(row.name), "tool_id": row.id}

"""`/budgets`, with what is used and held of them in the running window."""

from typing import Any

from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.budgets import in_units, resets_at
from gateway.registry import budgets
from gateway.registry.budgets import BudgetPatch, NewBudget


class BudgetOut(Output):
    id: str
    scope: str
    target_id: str | None
    dimension: str
    window: str
    limit: int | str
    """Calls, or an amount in decimal text."""
    on_exceed: str
    warn_at: int
    used: int | str
    held: int | str
    """By calls that are under way."""
    resets_at: str
    created_at: str


class WindowOut(Output):
    window: str
    """The beginning of its time, in UTC: `2026-01-31T12` is an hour."""
    used: int | str
    held: int | str


async def list_budgets(call: ApiCall, query: ListQuery) -> Listing[BudgetOut]:
    def read(connection: Connection) -> Listing[BudgetOut]:
        page = budgets.listed(connection, call.project_id, query.cursor, query.limit)
        return listing(page, lambda row: shown(connection, row, call.now))

    return await call.read(read)


async def create(call: ApiCall, body: NewBudget) -> BudgetOut:
    return await call.change(
        lambda change: shown(change.connection, budgets.create(change, body), change.now)
    )


async def get(call: ApiCall) -> BudgetOut:
    def read(connection: Connection) -> BudgetOut:
        row = budgets.get(connection, call.project_id, call.path["id"])
        return shown(connection, row, call.now)

    return await call.read(read)


async def patch(call: ApiCall, body: BudgetPatch) -> BudgetOut:
    return await call.change(
        lambda change: shown(
            change.connection, budgets.patch(change, call.path["id"], body), change.now
        )
    )


async def remove(call: ApiCall) -> None:
    await call.change(lambda change: budgets.remove(change, call.path["id"]))


async def history(call: ApiCall, query: ListQuery) -> Listing[WindowOut]:
    def read(connection: Connection) -> Listing[WindowOut]:
        budget = budgets.get(connection, call.project_id, call.path["id"])
        page = budgets.history(connection, budget, query.cursor, query.limit)
        return listing(page, lambda row: _window(budget.dimension, row))

    return await call.read(read)


def _window(dimension: str, row: Row[Any]) -> WindowOut:
    return WindowOut(
        window=row.window_start,
        used=in_units(dimension, row.used),
        held=in_units(dimension, row.held),
    )


def shown(connection: Connection, row: Row[Any], now: str) -> BudgetOut:
    used, held = budgets.spent(connection, row, now)
    columns: dict[str, Any] = {
        name: getattr(row, name) for name in BudgetOut.model_fields if name in row._fields
    }
    for name, amount in (("limit", row.limit), ("used", used), ("held", held)):
        columns[name] = in_units(row.dimension, amount)
    return BudgetOut(resets_at=resets_at(budgets.value(row), now), **columns)

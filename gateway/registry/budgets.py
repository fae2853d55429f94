"""Budgets: how much may be done in a window of UTC time. Admission holds and settles them."""

from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from gateway import amounts
from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import pages
from gateway.registry.core import Change
from gateway.registry.faults import Invalid
from gateway.registry.fields import Amount, Id, Input, Patch, unsent
from gateway.registry.loosening import budget_loosens
from gateway.registry.pages import Page
from gateway.registry.weakening import Wish, govern
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Budget, BudgetId, ProjectId

_b = tables.budgets.c
_TARGETS = {
    "agent": (tables.agents, tables.keys),
    "server": (tables.servers,),
    "tool": (tables.tools,),
}
"""What a budget may count for. A key counts as an agent of its own."""

HISTORY_DAYS = 90
Limit = Annotated[Amount, Field(description='Calls, or an amount for `cost`: 25 or "25.50"')]
WarnAt = Annotated[int, Field(ge=1, le=100, description="Per cent of the limit")]
OnExceed = Annotated[
    Literal["BLOCK", "WARN", "APPROVAL"],
    Field(description="Refuse, let go with the header X-Budget-Warning, or have a person approve"),
]


class NewBudget(Input):
    scope: Literal["project", "agent", "server", "tool"]
    target_id: Annotated[
        Id | None,
        Field(description="The agent (or a key without one), server or tool; none for the project"),
    ] = None
    dimension: Annotated[
        Literal["requests", "cost"], Field(description="Calls, or what their tools say they cost")
    ] = "requests"
    window: Annotated[
        Literal["minute", "hour", "day", "month"], Field(description="Of UTC, from its beginning")
    ]
    limit: Limit
    on_exceed: OnExceed = "BLOCK"
    warn_at: WarnAt = 80


class BudgetPatch(Patch):
    """What is counted and where stays; make another budget for that."""

    limit: Limit = unsent()
    on_exceed: OnExceed = unsent()
    warn_at: WarnAt = unsent()


def create(change: Change, new: NewBudget) -> Row[Any]:
    """Raises `Invalid`."""
    _check(change, new)
    budget_id = new_id("bud")
    values = {**new.model_dump(), "limit": _limit(new.dimension, new.limit)}
    change.connection.execute(
        insert(tables.budgets).values(
            id=budget_id, project_id=change.project_id, created_at=change.now, **values
        )
    )
    change.record("budget.created", budget_id, codes={"budget": budget_id}, after=values)
    return get(change.connection, change.project_id, budget_id)


def patch(change: Change, budget_id: str, asked: BudgetPatch) -> Row[Any]:
    before = get(change.connection, change.project_id, budget_id)
    body = asked.sent()
    if not body:
        return before
    sent = dict(body)
    if "limit" in sent:
        sent["limit"] = _limit(before.dimension, asked.limit)
    whole = _values(before)
    loosens = budget_loosens(whole, {**whole, **sent})
    governed = govern(change, Wish("budget.patch", budget_id, body, whole), loosens=loosens)
    change.connection.execute(update(tables.budgets).where(_b.id == budget_id).values(**sent))
    old = {name: getattr(before, name) for name in sent}
    codes: dict[str, Code] = {"budget": budget_id, **governed}
    change.record("budget.changed", budget_id, codes=codes, before=old, after=sent)
    return get(change.connection, change.project_id, budget_id)


def remove(change: Change, budget_id: str) -> None:
    """Delete a budget. Its windows stay: calls that hold an amount settle them later."""
    old = _values(get(change.connection, change.project_id, budget_id))
    wish = Wish("budget.remove", budget_id, {}, old)
    governed = govern(change, wish, loosens=budget_loosens(old, None))
    change.connection.execute(delete(tables.budgets).where(_b.id == budget_id))
    codes: dict[str, Code] = {"budget": budget_id, **governed}
    change.record("budget.removed", budget_id, codes=codes, before=old)


def get(connection: Connection, project_id: str, budget_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.budgets, project_id, budget_id, "budget")


def listed(
    connection: Connection,
    project_id: str,
    cursor: str | None,
    limit: int,
    agent_id: str | None = None,
) -> Page[Row[Any]]:
    """The project's budgets, or those of one agent."""
    query = select(tables.budgets).where(_b.project_id == project_id)
    if agent_id is not None:
        query = query.where(_b.scope == "agent", _b.target_id == agent_id)
    return pages.page(connection, query, _b.id, cursor, limit)


def value(row: Row[Any]) -> Budget:
    """The row as what the hot path knows it by."""
    return Budget(
        id=BudgetId(row.id),
        project_id=ProjectId(row.project_id),
        scope=row.scope,
        target_id=row.target_id,
        dimension=row.dimension,
        window=row.window,
        limit=row.limit,
        on_exceed=row.on_exceed,
        warn_at=row.warn_at,
    )


def spent(connection: Connection, row: Row[Any], now: str) -> tuple[int, int]:
    """Used and held in the window that holds `now`."""
    windows = tables.budget_windows.c
    query = select(windows.used, windows.held).where(
        windows.budget_id == row.id, windows.window_start == value(row).window_at(now)
    )
    found = connection.execute(query).first()
    return (0, 0) if found is None else (found.used, found.held)


def history(
    connection: Connection, row: Row[Any], cursor: str | None, limit: int
) -> Page[Row[Any]]:
    """The budget's windows, oldest first, for `HISTORY_DAYS`."""
    windows = tables.budget_windows
    query = select(windows).where(windows.c.budget_id == row.id)
    return pages.page(connection, query, windows.c.window_start, cursor, limit)


def forget(connection: Connection, now: str) -> int:
    """Delete the windows that ended before the history begins; return how many there were."""
    w = tables.budget_windows.c
    first = after(now, -HISTORY_DAYS * 86_400)
    # Each window is named by the beginning of its time, so the day is cut to the same length.
    ended = w.window_start < func.substr(first, 1, func.length(w.window_start))
    query = delete(tables.budget_windows).where(ended, w.held == 0)
    return connection.execute(query).rowcount


def alert(
    change: Change, budget: Budget, window: str, level: Literal[1, 2], used: int, held: int
) -> bool:
    """Put on the trail, once a window and level, that the budget runs out (1) or is out (2)."""
    windows = tables.budget_windows
    w = windows.c
    here = (w.budget_id == budget.id) & (w.window_start == window)
    told = change.connection.execute(
        update(windows).where(here, w.alerted < level).values(alerted=level)
    )
    if told.rowcount == 0:
        if change.connection.execute(select(w.budget_id).where(here)).first() is not None:
            return False
        # A budget of nothing refuses before anything is ever held.
        values = {"budget_id": budget.id, "window_start": window, "used": 0, "held": 0}
        change.connection.execute(insert(windows).values(alerted=level, **values))
    codes: dict[str, Code] = {
        "budget": budget.id,
        "scope": budget.scope,
        "target": budget.target_id,
        "window": window,
        "limit": budget.limit,
        "used": used,
        "held": held,
    }
    event = "budget.warning" if level == 1 else "budget.exceeded"
    change.record(event, budget.id, codes={**codes, "dimension": budget.dimension})
    return True


def _limit(dimension: str, limit: int | str) -> int:
    """As it is stored: calls, or millionths. Raises `Invalid`."""
    if dimension == "cost":
        return amounts.of_setting(limit)
    if isinstance(limit, str):
        raise Invalid({"limit": "must be a whole number of requests"})
    return limit


def _values(row: Row[Any]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in NewBudget.model_fields}


def _check(change: Change, new: NewBudget) -> None:
    faults = {}
    if new.scope == "project":
        if new.target_id is not None:
            faults["target_id"] = "a project's budget has none"
    elif new.target_id is None:
        faults["target_id"] = f"is needed: the id of the {new.scope}"
    elif not any(
        pages.exists(change.connection, table, change.project_id, new.target_id)
        for table in _TARGETS[new.scope]
    ):
        faults["target_id"] = f"no such {new.scope}"
    if faults:
        raise Invalid(faults)

"""What budgets say of a call: which apply, when their window ends, what is used of them."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.values import Budget, BudgetId, Decision

Window = tuple[BudgetId, str]


class Ledger:
    """Used and held amounts as last committed, for a look without a query.

    A participant of the writer's transactions. A window it does not know counts as empty: the look
    may then pass a call that admission refuses, never the reverse.
    """

    def __init__(self) -> None:
        self._windows: dict[Window, tuple[int, int]] = {}
        self._pending: dict[Window, tuple[int, int]] = {}

    def get(self, budget_id: BudgetId, window: str) -> tuple[int, int]:
        """(used, held)."""
        return self._windows.get((budget_id, window), (0, 0))

    def put(self, budget_id: BudgetId, window: str, used: int, held: int) -> None:
        """Inside a transaction: seen by `get` once it is durable."""
        self._pending[budget_id, window] = (used, held)

    def begin(self, connection: Connection) -> None:
        self._pending.clear()

    def mark(self) -> object:
        return dict(self._pending)

    def rewind(self, mark: object) -> None:
        assert isinstance(mark, dict)
        self._pending = mark

    def committed(self, connection: Connection) -> None:
        if self._pending:
            if len(self._windows) > 10_000:
                self._windows.clear()  # past windows; the current ones come back with the next call
            self._windows |= self._pending
            self._pending.clear()

    def rolled_back(self) -> None:
        self._pending.clear()


def matching(view: ProjectView, decision: Decision) -> tuple[Budget, ...]:
    """The budgets that a call draws on, in id order: the order in which rows are locked."""
    if not view.budgets:
        return ()
    caller = decision.call.caller
    tool = decision.pinned.tool
    targets = {
        "project": caller.project.id,
        "agent": caller.agent.id if caller.agent else caller.key.id,
        "server": caller.server.id,
        "tool": tool.id if tool else None,
    }
    return tuple(
        budget
        for budget in view.budgets
        if budget.scope == "project" or budget.target_id == targets[budget.scope]
    )


def resets_at(budget: Budget, now: str) -> str:
    """When the budget's running window ends, RFC 3339."""
    start = datetime.fromisoformat(now)
    match budget.window:
        case "minute":
            end = start.replace(second=0, microsecond=0) + timedelta(minutes=1)
        case "hour":
            end = start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        case "day":
            end = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        case "month":
            first = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = (first + timedelta(days=32)).replace(day=1)
    return end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def exceeded(budget: Budget, used: int, held: int, now: str) -> Refused:
    return Refused(
        "budget_exceeded",
        {
            "budget_id": budget.id,
            "limit": budget.limit,
            "used": used,
            "held": held,
            "resets_at": resets_at(budget, now),
        },
    )

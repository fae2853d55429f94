"""What budgets say of a call: which apply, what it costs, what is used of them."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from gateway import amounts
from gateway.amounts import NoAmount
from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.store.tables import budget_windows
from gateway.values import WINDOW_PREFIX, Budget, BudgetId, Cost, Decision

Window = tuple[BudgetId, str]


class Ledger:
    """Used and held amounts as last committed, for a look without a query.

    A participant of the writer's transactions. A window it does not know counts as empty: the look
    may then pass a call that admission refuses, never the reverse.
    """

    def __init__(self) -> None:
        self._windows: dict[Window, tuple[int, int]] = {}
        self._pending: dict[Window, tuple[int, int]] = {}
        self._moved: set[Window] = set()
        self._overrun: set[Window] = set()

    def load(self, connection: Connection, now: str) -> None:
        """At start: the windows that run now."""
        w = budget_windows.c
        running = [now[:length] for length in WINDOW_PREFIX.values()]
        for row in connection.execute(
            select(w.budget_id, w.window_start, w.used, w.held).where(w.window_start.in_(running))
        ):
            self._windows[BudgetId(row.budget_id), row.window_start] = (row.used, row.held)

    def moved(self) -> Window | None:
        """A window that changed, or refused, since it was last told here; for alerts."""
        try:
            return self._moved.pop()
        except KeyError:
            return None

    def look_again(self, window: Window) -> None:
        """Have `moved` tell this window once more."""
        self._moved.add(window)

    def refuses(self, budget_id: BudgetId, window: str) -> None:
        """A call found no room here; `overrun` says so for as long as the window is known."""
        self._overrun.add((budget_id, window))
        self._moved.add((budget_id, window))

    def overrun(self, budget_id: BudgetId, window: str) -> bool:
        return (budget_id, window) in self._overrun

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
                self._overrun.clear()
            self._windows |= self._pending
            self._moved.update(self._pending)
            self._pending.clear()

    def rolled_back(self) -> None:
        self._pending.clear()


def matching(view: ProjectView, decision: Decision) -> tuple[Budget, ...]:
    """The budgets that a call draws on, in id order: the order in which rows are locked."""
    if not view.budgets:
        return ()
    caller = decision.call.caller
    tool = decision.pinned.tool
    # The key counts beside the agent it speaks for, and so does the agent it belongs to: or naming
    # another one would be the way around a budget.
    targets: set[str | None] = {caller.key.id, caller.key.agent_id, caller.server.id}
    if caller.agent is not None:
        targets.add(caller.agent.id)
    if tool is not None:
        targets.add(tool.id)
    targets.discard(None)
    return tuple(
        budget
        for budget in view.budgets
        if budget.scope == "project" or budget.target_id in targets
    )


def cost_of(decision: Decision) -> int:
    """What the call costs, in millionths: the most that the tool and the policies say.

    Raises `Refused` for an amount that is missing or none; in monitor mode it counts as nothing.
    """
    tool = decision.pinned.tool
    cost = tool.cost if tool else None
    if cost is None and not decision.verdict.obligations:
        return 0
    found = [0]
    for read in (_tool_cost, _policy_cost):
        try:
            found.append(read(decision, cost))
        except Refused as refused:
            if decision.enforced:
                refused.decided = decision
                raise
    return max(found)


def _tool_cost(decision: Decision, cost: Cost | None) -> int:
    if cost is None:
        return 0
    if cost.argument is None:
        return cost.price
    amount = _argument(decision, cost.argument, text=cost.decimal_string)
    if cost.cap is not None and amount > cost.cap:
        raise _no_amount(cost.argument, f"is over {amounts.shown(cost.cap)}")
    return max(cost.price, amount)


def _policy_cost(decision: Decision, _: Cost | None) -> int:
    found = [0]
    for obligation in decision.verdict.obligations:
        if obligation.get("type") != "cost":
            continue
        try:
            found.append(amounts.of_policy(obligation.get("amount")))
        except NoAmount as fault:
            raise _no_amount("the policy's cost", str(fault)) from None
        for name in obligation.get("arguments", ()):
            found.append(_argument(decision, name, text=False))
    return max(found)


def _argument(decision: Decision, name: str, *, text: bool) -> int:
    arguments = decision.call.arguments
    if name not in arguments:
        raise _no_amount(name, "is missing")
    try:
        return amounts.of_call(arguments[name], text=text)
    except NoAmount as fault:
        raise _no_amount(name, str(fault)) from None


def _no_amount(name: str, why: str) -> Refused:
    return Refused("amount_refused", {"argument": name, "fault": f"{name} {why}."})


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
            "dimension": budget.dimension,
            "limit": in_units(budget.dimension, budget.limit),
            "used": in_units(budget.dimension, used),
            "held": in_units(budget.dimension, held),
            "resets_at": resets_at(budget, now),
        },
    )


def in_units(dimension: str, amount: int) -> int | str:
    """As people read it: a number of calls, or decimal text."""
    return amounts.shown(amount) if dimension == "cost" else amount

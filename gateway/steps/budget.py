"""Allowed → Affordable: which budgets the call draws on, and none of them is surely over.

Only a look: parallel calls are held apart by `gateway.admission`, which holds the amounts.
"""

from collections.abc import Callable

from gateway.budgets import Ledger, cost_of, exceeded, matching
from gateway.registry.directory import Directory
from gateway.values import Affordable, Allowed


class BudgetLook:
    def __init__(self, directory: Directory, ledger: Ledger, now: Callable[[], str]) -> None:
        self._directory = directory
        self._ledger = ledger
        self._now = now

    def look(self, allowed: Allowed) -> Affordable:
        """Raises `Refused` for a budget that blocks and has too little left, or for an amount that
        is none.
        """
        decision = allowed.decision
        cost = cost_of(decision)
        budgets = matching(self._directory.view(decision.call.caller.project.id), decision)
        budgets = tuple(budget for budget in budgets if budget.draw(cost))
        if budgets and decision.enforced:
            now = self._now()
            for budget in budgets:
                window = budget.window_at(now)
                used, held = self._ledger.get(budget.id, window)
                if budget.on_exceed == "BLOCK" and used + held + budget.draw(cost) > budget.limit:
                    self._ledger.refuses(budget.id, window)
                    refused = exceeded(budget, used, held, now)
                    refused.decided = decision
                    raise refused
        return Affordable(decision, budgets, cost)

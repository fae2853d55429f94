"""Allowed → Affordable: which budgets the call draws on, and none of them is surely over.

Only a look: parallel calls are held apart by `gateway.admission`, which holds the amounts.
"""

from collections.abc import Callable

from gateway.budgets import Ledger, exceeded, matching
from gateway.registry.directory import Directory
from gateway.values import Affordable, Allowed


class BudgetLook:
    def __init__(self, directory: Directory, ledger: Ledger, now: Callable[[], str]) -> None:
        self._directory = directory
        self._ledger = ledger
        self._now = now

    def look(self, allowed: Allowed) -> Affordable:
        """Raises `Refused` for a budget that blocks and has nothing left."""
        decision = allowed.decision
        budgets = matching(self._directory.view(decision.call.caller.project.id), decision)
        if budgets and decision.enforced:
            now = self._now()
            for budget in budgets:
                used, held = self._ledger.get(budget.id, budget.window_at(now))
                if budget.on_exceed == "BLOCK" and used + held + 1 > budget.limit:
                    refused = exceeded(budget, used, held, now)
                    refused.decided = decision
                    raise refused
        return Affordable(decision, budgets)

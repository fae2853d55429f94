"""Tells, once a window, that a budget is nearly used up, and that it is.

Off the calls' path: it looks at the windows that moved since the last look. What a crash kept it
from telling, the next call on that budget has it tell.
"""

from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.budgets import Ledger, Window
from gateway.registry import budgets
from gateway.registry.core import Actor, Registry
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.values import Budget

_REMEMBERED = 10_000

_log = structlog.get_logger(__name__)


class BudgetAlerts:
    def __init__(self, registry: Registry, ledger: Ledger) -> None:
        self._registry = registry
        self._ledger = ledger
        self._told: dict[Window, int] = {}

    async def look(self) -> None:
        """Call it every few hundred milliseconds."""
        known: dict[str, Budget] = {}
        while (window := self._ledger.moved()) is not None:
            known = known or {
                budget.id: budget
                for view in self._registry.directory.projects()
                for budget in view.budgets
            }
            budget = known.get(window[0])
            if budget is None:
                continue
            try:
                await self._tell(budget, window)
            except (SQLAlchemyError, WriterStopped) as fault:
                _log.error(
                    "an alert is not on the trail yet", budget=budget.id, why=fault_text(fault)
                )
                self._ledger.look_again(window)
                return

    async def _tell(self, budget: Budget, window: Window) -> None:
        used, held = self._ledger.get(*window)
        level = self._level(budget, window, used + held)
        if level is None or level <= self._told.get(window, 0):
            return
        await self._registry.change(
            Actor.gateway(budget.project_id),
            lambda change: budgets.alert(change, budget, window[1], level, used, held),
        )
        if len(self._told) > _REMEMBERED:
            self._told.clear()  # the table knows what was told
        self._told[window] = level

    def _level(self, budget: Budget, window: Window, spent: int) -> Literal[1, 2] | None:
        if spent >= budget.limit or self._ledger.overrun(*window):
            return 2
        return 1 if spent * 100 >= budget.warn_at * budget.limit else None

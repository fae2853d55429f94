"""What happens by itself every half second, beside the calls."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gateway.background.budget_alerts import BudgetAlerts
from gateway.data_dir.state import State
from gateway.extensions import reports
from gateway.records.refused_calls import RefusedCalls
from gateway.registry import budgets, erasure, outbox, stops, tasks
from gateway.registry.breaker_trips import note
from gateway.registry.core import Actor, Change
from gateway.registry.stop_file import StopFile
from gateway.steps.breaker import Breaker
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.values import Stop, StopId

SECONDS = 0.5

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Housekeeping:
    """``cancel_calls`` cuts what a stop covers."""

    state: State
    refused_calls: RefusedCalls
    stop_file: StopFile
    breaker: Breaker
    cancel_calls: Callable[[Stop], int]
    _stopped: bool = False
    _forgot_at: str = ""
    _alerts: BudgetAlerts = field(init=False)

    def __post_init__(self) -> None:
        self._alerts = BudgetAlerts(self.state.registry, self.state.ledger)

    async def run(self) -> None:
        """For as long as the gateway runs. An error here ends the gateway, loudly."""
        while True:
            await asyncio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        await self._look_for_stop()
        await self._note_trips()
        await self.refused_calls.flush()
        await self.state.settlement.retry()
        await self._alerts.look()
        await self._forget()

    async def _look_for_stop(self) -> None:
        stop = self.stop_file.read()
        if self.stop_file.fault:
            # New calls are refused; what runs goes on, and the trail names no stop.
            _log.error("whether all projects are stopped is not known", why=self.stop_file.fault)
            return
        before, self._stopped = self._stopped, stop is not None
        if stop is not None and not before:
            self.cancel_calls(stop)
            await self._on_every_trail(partial(stops.raised_by_file, reason=stop.reason))
        elif stop is None and before:
            await self._on_every_trail(stops.lifted_by_file)

    async def _note_trips(self) -> None:
        while (trip := self.breaker.trip()) is not None:
            by = Actor.gateway(trip.project_id)
            try:
                stopped = await self.state.registry.change(by, partial(note, trip=trip))
            except (SQLAlchemyError, WriterStopped) as fault:
                _log.error("the circuit breaker is not on the trail yet", why=fault_text(fault))
                self.breaker.trip_again(trip)
                return
            if stopped and trip.agent_id is not None:
                why = "the circuit breaker opened"
                agent = Stop(StopId(trip.agent_id), trip.project_id, "agent", trip.agent_id, why)
                self.cancel_calls(agent)
                self.breaker.close(trip.agent_id, trip.key_id)

    async def _on_every_trail(self, note: Callable[[Change], object]) -> None:
        for view in self.state.directory.projects():
            try:
                await self.state.registry.change(Actor.operator(view.project.id), note)
            except (SQLAlchemyError, WriterStopped) as fault:
                # The file itself is what stops; calls are refused whatever stands here.
                _log.error("a stop of all projects is not on the trail", why=fault_text(fault))

    async def _forget(self) -> None:
        """Let go, once an hour, of what nobody asks for any more."""
        now = self.state.clock.now()
        if now[:13] == self._forgot_at:
            return
        self._forgot_at = now[:13]
        for forget in (budgets.forget, outbox.forget, tasks.forget):
            await asyncio.wait([self.state.writer.change(partial(forget, now=now))])
        await self._in_parts(partial(reports.forget, now=now))
        await self._in_parts(
            partial(erasure.expire, log=self.state.log, vacated=self.state.vacated)
        )

    async def _in_parts(self, part: Callable[[Connection], int]) -> None:
        """Delete what is over, some thousands in a transaction, until nothing is left of it."""
        while True:
            deleting = self.state.writer.change(part)
            await asyncio.wait([deleting])
            if deleting.exception() is not None or not deleting.result():
                return
